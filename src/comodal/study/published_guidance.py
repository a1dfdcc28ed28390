"""Published tables of Mallya and Hamarneh, Deep Multimodal Guidance. Plain data, as in `published`.

Every number was copied as printed. Of Table 2 the copy at hand shows one column of a criterion, and nothing that says of which;
it stands in the remarks, and what cannot be read is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

PAPER = "Mallya, Hamarneh (2022). Deep Multimodal Guidance for Medical Image Classification. MICCAI, arXiv:2203.05683"
ILLEGIBLE = "illegible"
UNPLACED = (
    "That column, BA / F1: D + C .611 / .734, D .621 / .716, C .581 / .625, G(C) .509 / .681, G(C) + C .548 / .630, change "
    "-5.6 / +0.8 %."
)
Shows = Literal["numbers", "significance", "improvements"]
ReadOut = Literal["both", "superior", "inferior", "guide", "guided"]


@dataclass(frozen=True)
class GuidanceRow:
    """One way to predict.

    Attributes:
        name: As printed.
        read_out: What it is of the method `guidance`.
    """

    name: str
    read_out: ReadOut


@dataclass(frozen=True)
class GuidanceColumn:
    """One column: a target of one arm.

    Attributes:
        name: As printed, or as it would be.
        arm: Label of the study's arm that is trained; arms that are read from it are the other rows.
        target: As the cohort calls it.
        published: {(row, metric): number}, as printed; None where a number cannot be read. Empty where the paper has none.
        change: {metric: printed improvement of the last row over the inferior modality alone, in %}.
        p_value: Printed p of McNemar's test between these two; None where there is none.
    """

    name: str
    arm: str
    target: str
    published: Mapping[tuple[str, str], float | None] = field(default_factory=dict)
    change: Mapping[str, float] = field(default_factory=dict)
    p_value: float | None = None


@dataclass(frozen=True)
class GuidanceTable:
    """A published table of guidance, and how it is done again.

    Attributes:
        title: Which table or figure it is.
        caption: What its numbers are, in one line.
        source: Paper and table.
        remarks: What a reader must know about the published numbers, in sentences.
        statement: What the paper says in words.
        rows: In the printed order.
        columns: In the printed order.
        metrics: {metric as in our results: how it is printed}.
        shows: What of it is asked for: all numbers, McNemar's test, or the figure of improvements.
        options: What the layout is told.
        checklist: Whether melanoma is inferred from the criteria as well, by the seven-point checklist.
        melanoma: {row: printed AUROC of that inference}.
        printed: Whether a paper prints its numbers; else they are references of our own.
        layout: Key of DATASETS: the data of the paper.
        data: Whose data these are.
        cases: How many cases with an answer these data have.
        study: File of the study on these data, in `study/tables`: the paper's configuration.
        phantom: Arguments of `comodal.api.phantom` where no data are given.
        phantom_study: File of the study on the phantom.
    """

    title: str
    caption: str
    source: str
    remarks: tuple[str, ...]
    statement: str
    rows: tuple[GuidanceRow, ...]
    columns: tuple[GuidanceColumn, ...]
    metrics: Mapping[str, str]
    shows: Shows
    layout: str
    data: str
    cases: int
    study: str
    phantom: Mapping[str, int | str]
    phantom_study: str
    options: Mapping[str, float] = field(default_factory=dict)
    checklist: bool = False
    melanoma: Mapping[str, float] = field(default_factory=dict)
    printed: bool = True

    @property
    def beside(self) -> str:
        """What the numbers beside ours are."""
        return "published" if self.printed else "reference"

    @property
    def regions(self) -> tuple[str, ...]:
        """None: nothing is segmented."""
        return ()

    @property
    def arms(self) -> tuple[str, ...]:
        """Labels of the arms that are trained, each once."""
        return tuple(dict.fromkeys(column.arm for column in self.columns))

    @property
    def targets(self) -> tuple[str, ...]:
        """What its columns are of, each once."""
        return tuple(dict.fromkeys(column.target for column in self.columns))

    def row(self, read_out: ReadOut) -> GuidanceRow:
        """The row of a read-out."""
        return next(row for row in self.rows if row.read_out == read_out)


_METRICS = {"balanced_accuracy": "BA", "accuracy": "F1"}


def _brain(name: str, arm: str, numbers: Mapping[str, tuple[float, float]], change: tuple[float, float]) -> GuidanceColumn:
    """A column of Table 1: {row: (BA, F1)}."""
    published = {(row, metric): value for row, pair in numbers.items() for metric, value in zip(_METRICS, pair, strict=True)}
    return GuidanceColumn(name, arm, "diagnosis", published, dict(zip(_METRICS, change, strict=True)))


_ALL: dict[str, tuple[float, float]] = {
    "P + R": (0.777, 0.821),
    "P": (0.729, 0.792),
    "R": (0.729, 0.771),
    "G(R)": (0.650, 0.764),
    "G(R) + R": (0.752, 0.799),
}

TABLE1 = GuidanceTable(
    title="Table 1 of Mallya and Hamarneh (2022), Deep Multimodal Guidance",
    caption="Balanced accuracy (BA) and micro F1 of the diagnosis, MRI (R) guided by pathology (P)",
    source=f"{PAPER}, Table 1",
    remarks=(
        "Its T1w is T1 after contrast (t1ce) in the published code.",
        "Each number is of five random splits of 221 pairs into 165, 28 and 28; how they were put together is not said.",
        "How ALL sequences enter is not said, nor in the published code; ours has them both as latents and as channels.",
        "Micro F1 of one class per case is accuracy.",
        "P does not depend on the sequence and is printed once; in ours every run trains it again.",
        "Its changes are cut, not rounded, in their last digit.",
    ),
    statement="with ALL sequences the guided model is better than pathology alone, and comparable to both together",
    rows=(
        GuidanceRow("P + R", "both"),
        GuidanceRow("P", "superior"),
        GuidanceRow("R", "inferior"),
        GuidanceRow("G(R)", "guide"),
        GuidanceRow("G(R) + R", "guided"),
    ),
    columns=(
        _brain("T1", "t1", {"R": (0.506, 0.578), "G(R)": (0.443, 0.578), "G(R) + R": (0.587, 0.585)}, (16.0, 1.2)),
        _brain("T2", "t2", {"R": (0.657, 0.728), "G(R)": (0.559, 0.692), "G(R) + R": (0.731, 0.757)}, (11.2, 3.9)),
        _brain("T1w", "t1ce", {"R": (0.641, 0.735), "G(R)": (0.564, 0.692), "G(R) + R": (0.654, 0.742)}, (2.0, 0.9)),
        _brain("FLAIR", "flair", {"R": (0.534, 0.621), "G(R)": (0.419, 0.571), "G(R) + R": (0.648, 0.635)}, (21.3, 2.2)),
        _brain("ALL (latents)", "all", _ALL, (3.1, 3.6)),
        _brain("ALL (channels)", "all-channels", _ALL, (3.1, 3.6)),
    ),
    metrics=_METRICS,
    shows="numbers",
    layout="radpath",
    data="the training data of CPM-RadPath 2020",
    cases=221,
    study="guidance_table1.yaml",
    options={"microns": 4.0},  # at full resolution a slide has tens of thousands of tiles
    phantom={"name": "radpath", "cases": 221, "size": 48, "tiles": 4, "seed": 0},
    phantom_study="guidance_table1_phantom.yaml",
)

_SKIN_ROWS = (
    GuidanceRow("D + C", "both"),
    GuidanceRow("D", "superior"),
    GuidanceRow("C", "inferior"),
    GuidanceRow("G(C)", "guide"),
    GuidanceRow("G(C) + C", "guided"),
)
_UNREAD = {(row.name, metric): None for row in _SKIN_ROWS for metric in _METRICS}
# McNemar's p of Table 2 of the supplement, 392 test cases.
_SKIN = {
    "PN": ("pigment_network", 1.55e-1),
    "BWV": ("blue_whitish_veil", 2.94e-2),
    "VS": ("vascular_structures", 5.71e-1),
    "PIG": ("pigmentation", 1.17e-1),
    "STR": ("streaks", 6.43e-1),
    "DaG": ("dots_and_globules", 1.55e-1),
    "RS": ("regression_structures", 1.95e-2),
    "DIAG": ("diagnosis", 4.57e-1),
}

TABLE2 = GuidanceTable(
    title="Table 2 of Mallya and Hamarneh (2022), Deep Multimodal Guidance",
    caption="Balanced accuracy (BA) and micro F1 of seven criteria and the diagnosis, clinical photographs (C) guided by "
    "dermoscopy (D), and melanoma inferred from the criteria",
    source=f"{PAPER}, Table 2",
    remarks=(
        "Two columns of it can be read: AUROC of the inference of melanoma, and one criterion, and not which one it is.",
        UNPLACED,
        "Its base classifiers are those that Kawahara et al. had trained.",
        "Whether its AUROC ranks the integer score or the expected one is not said: ours has both.",
        "Its code left out eight good pairs of Derm7pt, and kept eight whose clinical photograph is the dermoscopic one.",
        "Micro F1 of one class per case is accuracy.",
    ),
    statement="the guided model is better than the clinical photograph alone in seven of eight tasks, and G(C) alone is worse",
    rows=_SKIN_ROWS,
    columns=tuple(GuidanceColumn(name, "clinical", target, _UNREAD, p_value=p) for name, (target, p) in _SKIN.items()),
    metrics=_METRICS,
    shows="numbers",
    layout="derm7pt",
    data="Derm7pt (release_v0)",
    cases=1011,
    study="guidance_table2.yaml",
    phantom={"name": "skin", "cases": 1000, "size": 64, "seed": 0},
    phantom_study="guidance_table2_phantom.yaml",
    checklist=True,
    melanoma={"D + C": 0.788, "D": 0.764, "C": 0.739, "G(C)": 0.716, "G(C) + C": 0.751},
)

SIGNIFICANCE = replace(
    TABLE2,
    title="Table 2 of the supplement of Mallya and Hamarneh (2022), Deep Multimodal Guidance",
    caption="McNemar's test between G(C) + C and C, 392 test cases in the paper",
    source=f"{PAPER}, supplementary Table 2",
    remarks=(
        "Two of its eight p values are below 0.05 (BWV, RS); none of them is after Holm's correction over the eight.",
        "It does not say which of its three seeds is tested, nor whether the test is exact; ours is.",
    ),
    statement="results are considered statistically significant for p < 0.05",
    shows="significance",
)

FIGURE_S1 = replace(
    TABLE1,
    title="Figure 1 of the supplement of Mallya and Hamarneh (2022), Deep Multimodal Guidance",
    caption="Improvement of G(R) + R over R in percent of R, in balanced accuracy (BA) and micro F1",
    source=f"{PAPER}, supplementary Figure 1 (c) and (d)",
    remarks=(
        "The figure prints bars; those of RadPath are derived here from the numbers of Table 1, as 100 (G(R) + R - R) / R.",
        "Its parts (a) and (b), of Derm7pt, cannot be derived: those numbers of Table 2 are "
        + ILLEGIBLE
        + " in the copy at hand.",
        *TABLE1.remarks[:3],
    ),
    statement="",
    shows="improvements",
)

_TOY = {"S + I": 0.768, "S": 0.857, "I": 0.421, "G(I)": 0.497, "G(I) + I": 0.481}

TOY = GuidanceTable(
    title="The toy of guidance: a class that is a product of causes, and linear decoders",
    caption="Accuracy on pairs of latent vectors (phantom pairs); guidance adds no information, only an input easily read",
    source="an earlier toy of comodal with another generator, 600 pairs and 8 seeds; no paper prints it",
    printed=False,
    remarks=(
        "I(Y; G(I), I) = I(Y; I): G(I) is a function of I. What is gained is what a linear decoder of I cannot read.",
        "The best that any method can reach from what a row sees stands beside it (at best).",
    ),
    statement="",
    rows=(
        GuidanceRow("S + I", "both"),
        GuidanceRow("S", "superior"),
        GuidanceRow("I", "inferior"),
        GuidanceRow("G(I)", "guide"),
        GuidanceRow("G(I) + I", "guided"),
    ),
    columns=(GuidanceColumn("pairs", "pairs", "diagnosis", {(row, "accuracy"): value for row, value in _TOY.items()}),),
    metrics={"accuracy": "accuracy", "balanced_accuracy": "BA"},
    shows="numbers",
    layout="csv",
    data="",
    cases=0,
    study="guidance_toy.yaml",
    phantom={"name": "pairs", "cases": 1600, "seed": 0},
    phantom_study="guidance_toy.yaml",
)


@dataclass(frozen=True)
class ChecklistTable:
    """What is computed from the tables of a data set alone, without any training.

    Attributes:
        title: What it is.
        phantom: Arguments of `comodal.api.phantom` where no data are given.
    """

    title: str
    phantom: Mapping[str, int | str]


CHECKLISTS: dict[str, ChecklistTable] = {
    "guidance/melanoma": ChecklistTable(
        "Melanoma inferred from the true seven-point criteria of Derm7pt", {"name": "skin", "cases": 120, "size": 64}
    )
}

GUIDANCE: dict[str, GuidanceTable] = {
    "guidance/toy": TOY,
    "guidance/table1": TABLE1,
    "guidance/table2": TABLE2,
    "guidance/significance": SIGNIFICANCE,
    "guidance/figure-s1": FIGURE_S1,
}


def derived_change(column: GuidanceColumn, metric: str, *, guided: str, inferior: str) -> float | None:
    """Improvement in percent, from the printed numbers; None where one of them is not there.

    Args:
        column: Has them.
        metric: Which.
        guided: Name of the row of G(I) + I.
        inferior: Name of the row of I.

    >>> round(derived_change(TABLE1.columns[0], "balanced_accuracy", guided="G(R) + R", inferior="R"), 1)
    16.0
    """
    ours, base = column.published.get((guided, metric)), column.published.get((inferior, metric))
    return None if ours is None or not base else 100 * (ours - base) / base
