"""Slices of patients on the page: of each method, as seen through several subsets, and of all methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from comodal.reporting.about import run_label
from comodal.reporting.record import RunRecord

if TYPE_CHECKING:
    from comodal.evaluation.examples import Example
    from comodal.reporting.slices import Slice

_ROLES = {"best": "Best", "median": "Median", "worst": "Worst"}
DPI = 130
MOST_CASES = 4  # side by side
MOST_METHODS = 6  # in one picture


def pictures(groups: Mapping[str, Sequence[RunRecord]], split: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Examples of the first run of each method that has some, from the evaluation that the tables show.

    Args:
        groups: {label: runs}.
        split: Name of that evaluation.

    Returns:
        Pictures of all methods side by side, where there are several, and one picture of each method.
    """
    shown = {}
    for label, runs in groups.items():
        record = next((r for r in runs if (r.folder / "examples" / split / "examples.json").is_file()), None)
        if record is not None:
            from comodal.evaluation.examples import load_examples  # imports torch, which a page without pictures does not need

            shown[label] = (record, load_examples(record.folder / "examples" / split))
    shown = {label: (record, examples) for label, (record, examples) in shown.items() if examples}
    own = [_picture(run_label(label, record), record, examples) for label, (record, examples) in shown.items()]
    return side_by_side(shown), [picture for picture in own if picture is not None]


def _picture(label: str, record: RunRecord, examples: Sequence[Example]) -> dict[str, Any] | None:
    from comodal.reporting.figures import page_width
    from comodal.reporting.slices import slices_picture

    ranked = [example for example in examples if example.role != "drawn"]  # those are for the comparison of methods
    if not ranked:
        return None
    slices = []
    for example in ranked:
        scores = {name: f"DSC {value:.2f}" for name, value in example.dsc.items() if value is not None}
        title = f"{_ROLES.get(example.role, example.role)}\n{_short(example.subject)}"
        slices.append(_slice(record, example, title, predictions=example.predictions, scores=scores))
    shown = dict.fromkeys(example.modality for example in ranked)
    who = ", ".join(f"{_ROLES.get(e.role, e.role).lower()} {e.subject} (slice {e.slice})" for e in ranked)
    src = slices_picture(slices, list(ranked[0].classes), image_name=", ".join(shown), dpi=DPI)
    return {
        "label": label,
        "src": src,
        "width": page_width(src, DPI),
        "who": who,
        "sided": any(item.anatomical for item in slices),
    }


def side_by_side(shown: Mapping[str, tuple[RunRecord, Sequence[Example]]]) -> list[dict[str, Any]]:
    """Cases by methods, as Figure 17 of Shen et al. (2024): each method with all modalities that it takes.

    Cases are those of which several methods keep the same slice: `comodal evaluate` draws some by their names alone, and others
    may be among the best, median and worst of several methods.

    Args:
        shown: {label: (run, its examples)}.

    Returns:
        One picture for at most six methods; none where no two methods show the same slice.
    """
    by_case: dict[tuple[Any, ...], dict[str, Example]] = {}
    for label, (record, examples) in shown.items():
        for example in examples:
            truth = (example.truth.shape, example.truth.tobytes())
            key = (record.cohort_hash, example.subject, example.slice, example.target, example.classes, truth)
            by_case.setdefault(key, {})[label] = example
    common = [found for found in by_case.values() if len(found) > 1]
    common.sort(key=lambda found: (-len(found), all(e.role != "drawn" for e in found.values())))
    chosen = _of_one_kind(common)[:MOST_CASES]
    labels = [label for label in shown if any(label in found for found in chosen)]
    parts = [labels[at : at + MOST_METHODS] for at in range(0, len(labels), MOST_METHODS)]
    return [_joint(part, chosen, shown) for part in parts]


def _of_one_kind(cases: Sequence[dict[str, Example]]) -> list[dict[str, Example]]:
    """Cases whose regions are those of the first: they share one legend."""
    kinds = [next(iter(found.values())) for found in cases]
    return [found for found, one in zip(cases, kinds, strict=True) if one.classes == kinds[0].classes]


def _joint(
    labels: Sequence[str], cases: Sequence[Mapping[str, Example]], shown: Mapping[str, tuple[RunRecord, Sequence[Example]]]
) -> dict[str, Any]:
    from comodal.reporting.figures import page_width
    from comodal.reporting.slices import slices_picture

    slices, who, modalities = [], [], dict[str, None]()
    for found in cases:
        label, first = next(iter(found.items()))
        predictions, scores = {"truth": first.truth & False}, {}
        fullest = max((len(_fullest(example).split("+")) for example in found.values()), default=0)
        for name in labels:
            if name in found:
                subset = _fullest(found[name])
                predictions[name] = found[name].predictions[subset]
                dsc = found[name].dsc.get(subset)
                fewer = "" if len(subset.split("+")) == fullest else f" from {subset}"
                scores[name] = ("no DSC" if dsc is None else f"DSC {dsc:.2f}") + fewer
            else:
                scores[name] = "not kept"
        slices.append(_slice(shown[label][0], first, _short(first.subject), predictions=predictions, scores=scores))
        who.append(f"{first.subject} (slice {first.slice})")
        modalities[first.modality] = None
    classes = list(next(iter(cases[0].values())).classes)
    src = slices_picture(slices, classes, image_name=", ".join(modalities), columns=["truth", *labels], dpi=DPI)
    return {
        "src": src,
        "width": page_width(src, DPI),
        "who": ", ".join(who),
        "methods": "; ".join(run_label(label, shown[label][0]) for label in labels),
        "sided": any(item.anatomical for item in slices),
        "drawn": any(example.role == "drawn" for found in cases for example in found.values()),
        "kept": all(label in found for found in cases for label in labels),
    }


def _fullest(example: Example) -> str:
    return list(example.predictions)[-1]


def _slice(record: RunRecord, example: Example, title: str, *, predictions: Mapping[str, Any], scores: Any) -> Slice:
    from comodal.reporting.slices import Slice

    return Slice(
        title=title,
        image=example.image,
        truth=example.truth,
        predictions=predictions,
        scores=scores,
        anatomical=_is_volume(record, example),
        aspect=example.aspect,
    )


def _short(text: str) -> str:
    return text if len(text) <= 22 else text[:10] + "…" + text[-10:]


def _is_volume(record: RunRecord, example: Example) -> bool:
    """Whether the file states where left and right are; photographs and slices without a header do not."""
    return record.files.get(example.subject, {}).get(example.modality, "").endswith((".nii", ".nii.gz", ".mha", ".nrrd"))
