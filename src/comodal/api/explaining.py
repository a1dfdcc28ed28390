"""Explaining: what each modality adds to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from comodal.run import Run
from comodal.study.explaining import Explained, ExplainedCase, LeftOut, Question, conclude, explain_cases
from comodal.training.events import Emit, silent

if TYPE_CHECKING:
    PathLike = Path | str


def explain(
    run: PathLike | Run,
    *,
    out: PathLike,
    subjects: str | Sequence[str] | None = None,
    split: str | None = None,
    use: Sequence[str] | None = None,
    explainer: str = "grad-cam",
    voxels: Literal["predicted", "labelled", "all"] = "predicted",
    overwrite: bool = False,
    device: str = "auto",
    on_event: Emit = silent,
) -> Explained:
    """Maps, pictures and weights of complementary information; see `comodal.explain`.

    Args:
        run: A finished run of a method that explains.
        out: A new or empty folder. Each case gets a folder of its own with maps and `picture.png`; beside them lie
            `weights.json` and `weights.png`.
        subjects: Cases of the run; or
        split: all cases of "train", "val", "test" or "all". Their weights also go to `RUN/explain/<split>.json`.
        use: Only these modalities are read; None is all that are there.
        explainer: "grad-cam", "hires-cam" or "nats".
        voxels: Over which voxels logits are summed.
        overwrite: Replace an earlier explanation.
        device: "auto", "cpu" or "cuda".
        on_event: Listener.

    Returns:
        The weights, and what was written.

    Raises:
        ConfigError: The method does not explain, a name is unknown, or the folder holds something else.
        DataError: A file is missing or damaged.
        UnsupportedSubset: There is no primary with another modality.
    """
    from comodal.reporting.heat import case_picture, weights_picture

    loaded, out = run if isinstance(run, Run) else Run.load(Path(run)), Path(out)
    named = (subjects,) if isinstance(subjects, str) else tuple(subjects) if subjects is not None else None
    question = Question(named, split, None if use is None else tuple(use), explainer, voxels)
    kept: list[ExplainedCase | LeftOut] = []
    for case in explain_cases(loaded, question, out, overwrite=overwrite, device=device, emit=on_event):
        if isinstance(case, ExplainedCase):
            file = out / case.weights.subject / "picture.png"
            file.write_bytes(case_picture(case, loaded.problem))
            case = case.lighter(file)
        kept.append(case)
    made = conclude(loaded, question, kept, out=out, emit=on_event)
    chart = out / "weights.png"
    chart.write_bytes(weights_picture(made.results))
    return replace(made, files=(*made.files, chart))
