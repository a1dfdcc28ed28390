"""The three proofs of the contract: each passes `check_method` and learns, through the library, from a cohort on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contract.proofs import Ensemble, ImageText, ProofConfig, TwoStage
from torch import Tensor

from comodal.batch import Batch, Features
from comodal.config import RunConfig
from comodal.data.text import Tokenizer
from comodal.errors import ConfigError, UnsupportedSubset
from comodal.evaluation.results import Results
from comodal.method import Method, Problem, Stage
from comodal.methods import METHODS, Entry
from comodal.modality import Modality, Target
from comodal.run import Run
from comodal.study.evaluating import evaluate_run
from comodal.testing import check_method, make_batch
from comodal.training.train import train_run

CASES = 60
SIDE = 16
CLASSES = ("healthy", "tumour")
DIAGNOSIS = Target("diagnosis", "class", CLASSES)
SPECS = {
    "photo": "{name: photo, kind: image, spatial_dims: 2, grid: photo}",
    "report": "{name: report, kind: text, spatial_dims: 0, grid: report}",
    "blood": "{name: blood, kind: features, spatial_dims: 0, channels: 3, grid: blood}",
    "genes": "{name: genes, kind: features, spatial_dims: 0, channels: 5, grid: genes}",
}
MODALITIES = {
    "photo": Modality("photo", spatial_dims=2, grid="photo"),
    "report": Modality("report", kind="text", spatial_dims=0, grid="report"),
    "blood": Modality("blood", kind="features", spatial_dims=0, channels=3, grid="blood"),
    "genes": Modality("genes", kind="features", spatial_dims=0, channels=5, grid="genes"),
}


def problem(*names: str) -> Problem:
    patch = (SIDE, SIDE) if "photo" in names else ()
    return Problem(tuple(MODALITIES[n] for n in names), (DIAGNOSIS,), 2, patch, vocabulary=12 if "report" in names else 0)


def write_value(name: str, ill: bool, path: Path, random: np.random.Generator) -> Path:
    """One file in which the diagnosis is easy to see."""
    if name == "photo":
        pixels = random.normal(90, 15, (SIDE, SIDE))
        x, y = random.integers(2, SIDE - 8, 2)
        pixels[x : x + 6, y : y + 6] += 110 * ill
        path = path.with_suffix(".png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    elif name == "report":
        finding = "A mass is seen in the left lobe." if ill else "Clear lobes on both sides."
        other = ["The heart is of normal size.", "Compared with the last visit.", "The bones are intact."]
        kept = [finding, *other[: random.integers(0, 4)]]
        path = path.with_suffix(".txt")
        path.write_text(" ".join(kept[i] for i in random.permutation(len(kept))))
    else:
        path = path.with_suffix(".npy")
        np.save(path, (random.normal(0, 1, MODALITIES[name].channels) + 2.5 * ill).astype(np.float32))
    return path


def write_cohort(root: Path, names: tuple[str, ...], *, missing: float = 0.3) -> Path:
    """A cohort as a user would write it: a table with blanks, and the yaml that says what the columns are."""
    random = np.random.default_rng(0)
    rows = [",".join(["subject", "session", "group", "site", "split", *names, "diagnosis"])]
    for number in range(CASES):
        ill = number % 2 == 1
        absent = {n for n in names if random.random() < missing and number % 3}  # every third case is complete
        absent -= {names[number % len(names)]}
        cells = []
        for name in names:
            path = root / f"{number:03d}-{name}"
            cells.append("" if name in absent else write_value(name, ill, path, random).name)
        rows.append(",".join([f"{number:03d}", "", "", "", "", *cells, CLASSES[ill]]))
    (root / "cohort.csv").write_text("\n".join(rows) + "\n")
    modalities = "".join(f"  - {SPECS[n]}\n" for n in names)
    target = "targets:\n  - {name: diagnosis, kind: class, classes: [healthy, tumour]}\n"
    (root / "cohort.yaml").write_text(f"schema: 1\nlayout: csv\nroot: .\nmodalities:\n{modalities}{target}")
    return root / "cohort.csv"


def train(root: Path, names: tuple[str, ...], *, data: Mapping[str, Any] | None = None, **method: Any) -> Run:
    """Trains the method "proof" through the library; `data` adds to that section."""
    own = {"spatial_dims": 2, "patch": [SIDE, SIDE] if "photo" in names else [], "augment": "none"}
    values = {
        "cohort": str(write_cohort(root, names)),
        "method": {"name": "proof", **method},
        "data": {**own, **(data or {})},
        "splits": {"fractions": [0.5, 0.2, 0.3]},
        "training": {"batch_size": 8, "device": "cpu", "validations": 4, "threads": 1},
    }
    return train_run(RunConfig.model_validate(values).resolved(), root / "run")


def events(run: Run, kind: str, stage: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind and line["stage"] == stage]


def validation_losses(run: Run, stage: str) -> list[float]:
    return [line["metrics"]["loss"] for line in events(run, "validation", stage)]


def aurocs(results: Results) -> dict[str, float | None]:
    return {"+".join(row.present): row.metrics["AUROC/diagnosis"].value for row in results.subsets if row.supported}


def register(monkeypatch: pytest.MonkeyPatch, cls: type[Method]) -> None:
    entry = Entry(f"tests.contract.proofs:{cls.__name__}", "A proof.", ("classification",), "any", "any", str(cls.paper))
    monkeypatch.setitem(METHODS, "proof", entry)


# ------------------------------------------------------------------------------------- check_method
@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (ImageText, ("photo", "report")),
        (ImageText, ("report",)),
        (TwoStage, ("photo", "blood")),
        (TwoStage, ("photo", "blood", "genes")),
        (Ensemble, ("photo", "blood", "genes")),
        (Ensemble, ("blood",)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "+".join(value),
)
def test_the_proof_keeps_every_promise(cls: type[Method], names: tuple[str, ...]) -> None:
    check_method(cls, problem(*names), ProofConfig(width=4))


# ------------------------------------------------------------------------------------- image and text
def test_image_and_text_learn_together_with_two_optimisers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, ImageText)
    run = train(tmp_path, ("photo", "report"), epochs=14)
    assert run.tokenizer is not None and {"mass", "clear"} <= set(run.tokenizer.words)
    assert run.problem.vocabulary == run.tokenizer.vocabulary
    # the rows of pretrained word vectors, after the special ids
    assert run.problem.words == run.tokenizer.words == Run.load(run.path).problem.words
    mass = run.problem.vocabulary - len(run.problem.words) + run.problem.words.index("mass")
    assert run.tokenizer.encode("mass").ids.tolist()[0][1] == mass

    steps = events(run, "step", "train")
    assert set(steps[0]["rates"]) == {"all", "text"}
    text, rest = ([step["rates"][key] for step in steps] for key in ("text", "all"))
    warm = round(0.25 * len(steps))
    assert text[:warm] == pytest.approx([0.01 * (k + 1) / warm for k in range(warm)], rel=1e-4)  # AdamW climbs, then falls
    assert text[warm] == pytest.approx(0.01, rel=1e-3) and text[-1] < 0.001
    assert set(rest) == {0.01}

    losses = validation_losses(run, "train")
    assert losses[-1] < losses[0]
    assert all("AUROC" in line["metrics"] for line in events(run, "validation", "train"))
    results = evaluate_run(run, device="cpu")
    found = aurocs(results)
    assert set(found) == {"photo", "report", "photo+report"}
    assert all(value is not None and value > 0.8 for value in found.values()), found
    blank = [c.id for c in (run.cohort.case(i) for i in run.splits["test"]) if "report" not in c.cells]
    assert blank, "the cohort must have missing reports"
    assert not {case.subject for case in results.cases if "report" in case.present} & set(blank)


def test_reports_are_cut_at_the_configured_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, ImageText)
    run = train(tmp_path, ("report",), data={"max_sentences": 2, "max_tokens": 5}, epochs=1)
    for tokenizer in (run.tokenizer, Run.load(run.path).tokenizer):
        assert isinstance(tokenizer, Tokenizer) and (tokenizer.max_sentences, tokenizer.max_tokens) == (2, 5)
        assert tokenizer.encode("The heart is of normal size. Clear lobes. The bones.").ids.shape == (2, 5)


def test_the_two_optimisers_share_the_parameters_without_overlap() -> None:
    from comodal.training.schedule import build_optimisers

    method = ImageText(problem("photo", "report"), ProofConfig())
    made = build_optimisers(method, method.stages()[0])
    assert {prefix: type(o).__name__ for prefix, o in made.items()} == {"": "Adam", "text": "AdamW"}
    ids = {prefix: {id(p) for group in o.param_groups for p in group["params"]} for prefix, o in made.items()}
    assert ids["text"] == {id(p) for p in method.text.parameters()}
    assert not ids[""] & ids["text"]
    assert len(ids[""] | ids["text"]) == len(list(method.parameters()))


# ------------------------------------------------------------------------------------- two stages
class _Watch:
    """Counts what is encoded during training, and keeps the state of the encoders when the second stage begins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoded: Counter[tuple[str, str]] = Counter()
        self.frozen: dict[str, Tensor] = {}
        encode, losses = TwoStage.encode, TwoStage.losses

        def counting(method: TwoStage, batch: Batch) -> dict[str, Features]:
            found = encode(method, batch)
            self.encoded.update((i, name) for i in batch.ids for name in found)
            assert not method.training
            return found

        def watching(method: TwoStage, batch: Batch, stage: Stage) -> dict[str, Tensor]:
            if stage.name == "fusion" and not self.frozen:
                self.frozen = {n: t.clone() for n, t in method.state_dict().items() if not n.startswith("fusion")}
            assert stage.name == "encoders" or not method.encoders.training
            return losses(method, batch, stage)

        monkeypatch.setattr(TwoStage, "encode", counting)
        monkeypatch.setattr(TwoStage, "losses", watching)


def test_a_second_stage_learns_on_cached_encodings_of_frozen_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, TwoStage)
    watch = _Watch(monkeypatch)
    run = train(tmp_path, ("photo", "blood"), epochs=10)
    used = [case for split in ("train", "val") for case in map(run.cohort.case, run.splits[split])]
    pairs = {(case.id, name) for case in used for name in ("photo", "blood") if name in case.cells}
    assert watch.encoded == Counter(dict.fromkeys(pairs, 1))  # each case and modality once, ten epochs and four validations

    after = run.method().state_dict()
    assert any("running_mean" in name for name in watch.frozen)
    assert all(torch.equal(after[name], before) for name, before in watch.frozen.items())

    for stage in ("encoders", "fusion"):
        losses = validation_losses(run, stage)
        assert losses[-1] < losses[0], stage
    trained = [events(run, "stage", stage)[0]["parameters"] for stage in ("encoders", "fusion")]
    method = run.method()
    assert sum(trained) == sum(p.numel() for p in method.parameters())
    found = aurocs(evaluate_run(run, device="cpu"))
    assert set(found) == {"photo", "blood", "photo+blood"}
    assert all(value is not None and value > 0.8 for value in found.values()), found


# ------------------------------------------------------------------------------------- ensemble
def test_an_ensemble_evaluates_the_subsets_that_it_supports_and_marks_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, Ensemble)
    run = train(tmp_path, ("photo", "blood", "genes"), epochs=10)
    losses = validation_losses(run, "train")
    assert losses[-1] < losses[0]
    results = evaluate_run(run, device="cpu")
    rows = {row.present: row for row in results.subsets}
    assert {present: row.supported for present, row in rows.items()} == {
        ("photo",): True,
        ("blood",): True,
        ("genes",): True,
        ("photo", "blood"): False,
        ("photo", "genes"): False,
        ("blood", "genes"): False,
        ("photo", "blood", "genes"): True,
    }
    assert all(not row.metrics for row in rows.values() if not row.supported)
    assert not any(len(case.present) == 2 for case in results.cases)
    found = aurocs(results)
    assert all(value is not None and value > 0.8 for value in found.values()), found
    written = Results.load(run.path / "results" / "test.json")
    assert [row.supported for row in written.subsets] == [row.supported for row in results.subsets]


def test_the_ensemble_is_the_mean_probability_of_its_members() -> None:
    method = Ensemble(problem("blood", "genes"), ProofConfig(width=4)).eval()
    batch = make_batch(problem("blood", "genes"), 2)
    members: Mapping[str, tuple[Tensor, Tensor]] = method.outputs(batch)
    by_hand = torch.stack([logits.softmax(dim=1) for _, logits in members.values()]).mean(dim=0)
    assert set(members) == {"blood", "genes", "blood+genes"}
    assert torch.allclose(method.predict(batch).probabilities["diagnosis"], by_hand)


def test_an_unsupported_subset_is_refused_with_what_would_do() -> None:
    method = Ensemble(problem("photo", "blood", "genes"), ProofConfig(width=4))
    batch = make_batch(method.problem, 2).keep(["photo", "genes"])
    with pytest.raises(UnsupportedSubset) as caught:
        method.predict(batch)
    assert str(caught.value) == (
        "Ensemble must get a subset of modalities from which it can predict (photo, blood, genes, photo+blood+genes); "
        "got photo+genes. Give one of these subsets."
    )


def test_a_problem_that_a_proof_cannot_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, TwoStage)
    with pytest.raises(
        ConfigError, match=r"method proof must be able to read \['image', 'text'\]; got \('image', 'features'\)"
    ):
        train(tmp_path, ("photo", "report"))
