"""Published tables of images that learn from reports: CMIM (classification) and local mutual information. Plain data.

Every number was copied as printed. How many test images have a finding and have it not was counted in the lists of the code
that was published with Liao et al. (2021); the totals that the paper prints legibly agree with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LOCAL_MI = (
    "Liao, Moyer, Cha, Quigley, Berkowitz, Horng, Golland, Wells (2021). Multimodal Representation Learning via Maximization "
    "of Local Mutual Information. MICCAI, arXiv:2103.04537"
)
CMIM = "Sylvain et al. (2021). CMIM: Cross-Modal Information Maximization for Medical Imaging. ICASSP, arXiv:2010.10593"


@dataclass(frozen=True)
class ReportsRow:
    """One way to learn.

    Attributes:
        name: As printed, with what the numbers of a cell with two stand for.
        arm: Label of the study's arm that does it again.
        method: Key of METHODS that the arm is of.
        numbers: {column: number}, as printed.
    """

    name: str
    arm: str
    method: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class ReportsColumn:
    """One question.

    Attributes:
        name: As printed.
        metric: What we measure for it.
        positive, negative: Test images behind the published number; None where that is not known.
    """

    name: str
    metric: str
    positive: int | None = None
    negative: int | None = None

    @property
    def target(self) -> str:
        """The target that it is of."""
        return self.metric.split("/")[1]


@dataclass(frozen=True)
class ReportsTable:
    """A published table of images that learn from reports, and how it is done again.

    Attributes:
        title: Which table it is.
        caption: What its numbers are, in one line.
        source: Paper and table.
        remarks: What a reader must know about the published numbers, in sentences.
        statement: What the paper says in words.
        rows: In the printed order.
        columns: In the printed order.
        present: The modalities that there are at test.
        reference: Label of the arm with which the others are compared.
        decimals: Of the printed numbers.
        layout: Key of DATASETS: the data of the paper.
        data: Whose data these are.
        cases: How many labelled reports these data have.
        options: What the layout is told, of the data and of the phantom.
        study: File of the study on these data, in `study/tables`: the paper's configuration.
        phantom: Arguments of `comodal.api.phantom` where no data are given.
        phantom_study: File of the study on the phantom.
    """

    title: str
    caption: str
    source: str
    remarks: tuple[str, ...]
    statement: str
    rows: tuple[ReportsRow, ...]
    columns: tuple[ReportsColumn, ...]
    present: tuple[str, ...]
    reference: str
    decimals: int
    layout: str
    data: str
    cases: int
    study: str
    phantom: Mapping[str, int | str]
    phantom_study: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def regions(self) -> tuple[str, ...]:
        """None: nothing is segmented."""
        return ()

    @property
    def arms(self) -> tuple[str, ...]:
        """Labels of the arms, in the order of the rows."""
        return tuple(row.arm for row in self.rows)

    @property
    def targets(self) -> tuple[str, ...]:
        """What its columns are of, each once."""
        return tuple(dict.fromkeys(column.target for column in self.columns))


_REMARKS = (
    "Each cell has two numbers, CPC / MINE; image-only has one.",
    (
        "Its means, tuned local .88 ± .05 (Table 2) and .84 ± .05 (Table 3), tuned global .85 ± .06 and .81 ± .05, are over "
        "columns and estimators: the plus or minus is not that of seeds, there is one run of each."
    ),
    "Frozen keeps the blocks below the last one, of local and of global representations alike.",
    "Batch size is not said. Image encoder and critic learn at 5e-4; the published code has 2e-5 for the text encoder.",
    "The published code has the global model alone, and its two bounds differ there by a constant: gradients are the same.",
    "Which parts of a report are read is not said; ours reads findings, impression, conclusion and recommendation.",
)
_BOUNDS = ("CPC", "MINE")
_WAYS = ("global frozen", "global tuned", "local frozen", "local tuned")  # after image-only, in the printed order


def _rows(printed: str) -> tuple[ReportsRow, ...]:
    """The rows of Tables 2 and 3 from lines "column | image-only | CPC/MINE of each of _WAYS"."""
    lines = [[part.strip() for part in line.split("|")] for line in printed.strip().splitlines()]
    rows = [ReportsRow("image-only", "image-only", "classifier", {name: float(alone) for name, alone, *_ in lines})]
    for place, way in enumerate(_WAYS):
        level, how = way.split()
        for k, bound in enumerate(_BOUNDS):
            numbers = {name: float(pairs[place].split("/")[k]) for name, _, *pairs in lines}
            # tuned is the arm itself, frozen is read from its runs
            arm = f"{level}-{bound.lower()}{'-frozen' if how == 'frozen' else ''}"
            rows.append(ReportsRow(f"{way}, {bound}", arm, "local-mi", numbers))
    return tuple(rows)


_EDEMA = (
    ReportsColumn("0 v 123", "AUROC/edema/>=1", 80, 61),
    ReportsColumn("01 v 23", "AUROC/edema/>=2", 36, 105),
    ReportsColumn("012 v 3", "AUROC/edema/>=3", 16, 125),
)
TABLE2 = ReportsTable(
    title="Table 2 of Liao et al. (2021), Local Mutual Information",
    caption="AUROC of the severity of pulmonary edema from the image alone, grade k or above against those below",
    source=f"{LOCAL_MI}, Table 2",
    remarks=(
        *_REMARKS,
        "Its test are 141 images graded by consensus (61, 44, 20, 16 of grades 0 to 3), its training 7 066 graded by rules.",
    ),
    statement="tuned local representations are better than tuned global ones, and both better than learning from labels alone",
    rows=_rows(
        """
        0 v 123 | .80 | .81/.83 | .81/.82 | .77/.76 | .87/.83
        01 v 23 | .71 | .77/.78 | .79/.81 | .72/.76 | .83/.85
        012 v 3 | .90 | .93/.89 | .93/.93 | .75/.86 | .97/.93
        """
    ),
    columns=_EDEMA,
    present=("frontal",),
    reference="image-only",
    decimals=2,
    layout="mimic-cxr",
    data="MIMIC-CXR (pictures and reports) with the grades of edema",
    cases=227_827,
    options={"findings": "pathology9", "protocol": "liao2021"},
    study="local_mi_table2.yaml",
    phantom={
        "name": "chest",
        "cases": 1500,
        "size": 64,
        "seed": 0,
        "release": "mimic-cxr",
        "findings": 10,
        "unhelpful": 2,
        "contrast": 3,
    },
    phantom_study="local_mi_table2_phantom.yaml",
)

# {finding: (with it, without it)} in the authors' list of 985 test images.
_TESTED = {
    "Atelectasis": (255, 7),
    "Cardiomegaly": (379, 25),
    "Consolidation": (66, 29),
    "Edema": (273, 100),
    "Lung Opacity": (311, 7),
    "Pleural Effusion": (355, 96),
    "Pneumonia": (104, 91),
    "Pneumothorax": (15, 176),
    "Support Devices": (263, 23),
}

TABLE3 = ReportsTable(
    title="Table 3 of Liao et al. (2021), Local Mutual Information",
    caption="AUROC of nine findings from the image alone",
    source=f"{LOCAL_MI}, Table 3",
    remarks=(
        *_REMARKS,
        "The paper trains a network for each finding; ours has nine outputs.",
        "Atelectasis and lung opacity rest on 7 images without, pneumothorax on 15 with it: standard errors of .06 to .08.",
        "It tests 985 images, several of one study among them; ours tests studies, each by its first frontal image.",
    ),
    statement="tuned local representations are better than tuned global ones, and both better than learning from labels alone",
    rows=_rows(
        """
        Atelectasis | .76 | .65/.63 | .74/.77 | .74/.61 | .73/.86
        Cardiomegaly | .71 | .79/.79 | .81/.81 | .73/.77 | .82/.84
        Consolidation | .78 | .67/.65 | .81/.82 | .65/.65 | .83/.83
        Edema | .89 | .81/.81 | .87/.88 | .78/.80 | .89/.89
        Lung Opacity | .86 | .69/.68 | .83/.84 | .66/.69 | .82/.88
        Pleural Effusion | .69 | .74/.74 | .90/.90 | .69/.72 | .92/.92
        Pneumonia | .75 | .71/.70 | .75/.76 | .61/.66 | .78/.79
        Pneumothorax | .65 | .65/.66 | .75/.77 | .70/.67 | .79/.76
        Support Devices | .72 | .70/.68 | .77/.79 | .72/.74 | .87/.81
        """
    ),
    columns=tuple(ReportsColumn(name, f"AUROC/findings/{name}", *sides) for name, sides in _TESTED.items()),
    present=("frontal",),
    reference="image-only",
    decimals=2,
    layout="mimic-cxr",
    data="MIMIC-CXR (pictures and reports) with the grades of edema",
    cases=227_827,
    options={"findings": "pathology9", "protocol": "liao2021"},
    study="local_mi_table3.yaml",
    phantom={
        "name": "chest",
        "cases": 1500,
        "size": 64,
        "seed": 0,
        "release": "mimic-cxr",
        "findings": 10,
        "unhelpful": 2,
        "contrast": 3,
    },
    phantom_study="local_mi_table3_phantom.yaml",
)

CMIM_TABLE1 = ReportsTable(
    title="Table 1 of Sylvain et al. (2021), CMIM",
    caption="AUROC of 14 findings from the image alone, plain mean over the findings",
    source=f"{CMIM}, Table 1",
    remarks=(
        "It has no interval, no number of seeds and no size of its split; the gain over the image alone is .008.",
        "Frontal images were chosen, and distorted ones removed, by hand; neither the list nor the balancing is told.",
        "How the mean over findings was taken is not said; ours is over the findings that some test case has and some has not.",
        "The weights of its information terms (lambda) are not said; ours are in study.yaml.",
        "TieNet writes a report first and reads it (T*); true text is at test in no row.",
        "Its loss is called a categorical cross-entropy; ours asks of each finding by itself.",
    ),
    statement="CMIM is better than the image alone, and TieNet, whose captioner had few reports to learn from, is worse",
    rows=(
        ReportsRow("ResNet50", "resnet50", "classifier", {"AUC": 0.785}),
        ReportsRow("TieNet", "tienet", "tienet", {"AUC": 0.741}),
        ReportsRow("CMIM", "cmim-class", "cmim-class", {"AUC": 0.793}),
    ),
    columns=(ReportsColumn("AUC", "AUROC/findings"),),
    present=("frontal",),
    reference="resnet50",
    decimals=3,
    layout="open-i",
    data="Open-I",
    cases=3955,
    study="cmim_table1.yaml",
    phantom={
        "name": "chest",
        "cases": 800,
        "size": 64,
        "seed": 0,
        "release": "open-i",
        "findings": 6,
        "unhelpful": 2,
        "contrast": 2,
    },
    phantom_study="cmim_table1_phantom.yaml",
)


@dataclass(frozen=True)
class CountsRow:
    """Numbers of labelled images of one task.

    Attributes:
        name: As printed.
        target: As the cohort calls it.
        label: The class; of an ordinal target the grade.
        train: Labelled images to train with; None where that cannot be read.
        positive: Test images with it.
        negative: Test images without it; None of a grade.
    """

    name: str
    target: str
    label: str
    train: int | None
    positive: int
    negative: int | None


@dataclass(frozen=True)
class CountsTable:
    """A published table of how many images there are. Nothing is trained.

    Attributes:
        title: Which table it is.
        source: Paper and table.
        remarks: What a reader must know about the published numbers, in sentences.
        rows: Grades of edema, then findings in the order of Table 3.
        layout: Key of DATASETS: the data of the paper.
        data: Whose data these are.
        options: What the layout is told.
        phantom: Arguments of `comodal.api.phantom` where no data are given.
    """

    title: str
    source: str
    remarks: tuple[str, ...]
    rows: tuple[CountsRow, ...]
    layout: str
    data: str
    options: Mapping[str, str]
    phantom: Mapping[str, int | str]


# Labelled training images as printed; those of pneumonia and pneumothorax cannot be read in the copy at hand.
_TRAINED = {
    "Atelectasis": 50_416,
    "Cardiomegaly": 65_129,
    "Consolidation": 20_074,
    "Edema": 56_203,
    "Lung Opacity": 58_105,
    "Pleural Effusion": 86_871,
    "Pneumonia": None,
    "Pneumothorax": None,
    "Support Devices": 76_492,
}
_GRADES = {"none": (2974, 61), "vascular congestion": (1585, 44), "interstitial edema": (1837, 20), "alveolar edema": (670, 16)}

TABLE1 = CountsTable(
    title="Table 1 of Liao et al. (2021), Local Mutual Information",
    source=f"{LOCAL_MI}, Table 1, and the lists of images in the code published with it",
    remarks=(
        "The paper prints totals; with and without a finding, and the grades of edema, are counted in the lists of its code.",
        "It counts images, ours counts studies with a frontal image, each once.",
        "Labels are of a program that reads reports; uncertain ones and what a report does not mention are left out.",
        "Patients who are tested in either task are trained on in neither.",
    ),
    rows=(
        *(
            CountsRow(f"edema severity {grade}", "edema", name, *counts, None)
            for grade, (name, counts) in enumerate(_GRADES.items())
        ),
        *(CountsRow(name, "findings", name, _TRAINED[name], *sides) for name, sides in _TESTED.items()),
    ),
    layout=TABLE2.layout,
    data=TABLE2.data,
    options=TABLE2.options,
    phantom={**TABLE2.phantom, "cases": 300},
)

REPORTS: dict[str, ReportsTable] = {
    "cmim/table1": CMIM_TABLE1,
    "local-mi/table2": TABLE2,
    "local-mi/table3": TABLE3,
}
COUNTS: dict[str, CountsTable] = {"local-mi/table1": TABLE1}
