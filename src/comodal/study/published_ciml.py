"""Published tables whose rows are methods or variants: those of Shen et al., CIML. Plain data, as in `published`.

Every number was copied as printed. Four printed means are not the means of their three regions; they are in `wrong` and stand
in our tables with "(sic)". Others are cut and not rounded in their last digit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

PAPER = (
    "Shen et al. (2024). Complementary Information Mutual Learning for Multimodality Medical Image Segmentation. "
    "arXiv:2401.02717"
)


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        metric: As in our results ("DSC/WT"); "HD95/mean", which results do not have, is the mean of the other HD95 columns.
        unit: Of the published numbers.
        scale: Our metric times this is in that unit.
    """

    metric: str
    unit: str
    scale: float


@dataclass(frozen=True)
class VariantRow:
    """One method or variant.

    Attributes:
        name: As printed, with the patch where a method stands there twice.
        arm: Label of the study's arm that does it again; None where comodal does not have this method.
        numbers: {metric of a column: number}, as printed; empty where the paper has none.
        note: What these numbers are that the others are not.
    """

    name: str
    arm: str | None
    numbers: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class VariantTable:
    """A published table of methods or variants, each predicting from all modalities.

    Attributes:
        title: Which table or figure it is.
        caption: What its numbers are, in one line.
        source: Paper and table.
        remarks: What a reader must know about the published numbers, in sentences.
        rows: In the printed order.
        columns: In the printed order.
        layout: Key of DATASETS: the data of the paper.
        data: Whose data these are.
        cases: How many cases with a label map these data have.
        study: File of the study on these data, in `study/tables`: the paper's configuration.
        phantom: Arguments of `comodal.api.phantom` where no data are given.
        phantom_study: File of the study on the phantom.
        wrong: {(row, metric): what the printed number should be}.
        statement: What the paper says in words where it prints no numbers.
    """

    title: str
    caption: str
    source: str
    remarks: tuple[str, ...]
    rows: tuple[VariantRow, ...]
    columns: tuple[Column, ...]
    layout: str
    data: str
    cases: int
    study: str
    phantom: Mapping[str, int | str]
    phantom_study: str
    wrong: Mapping[tuple[str, str], float] = field(default_factory=dict)
    statement: str = ""

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that its columns need."""
        names = [column.metric.partition("/")[2] for column in self.columns]
        return tuple(dict.fromkeys(name for name in names if name != "mean"))

    @property
    def printed(self) -> bool:
        """Whether the paper has numbers for it."""
        return any(row.numbers for row in self.rows)


@dataclass(frozen=True)
class ShapesTable:
    """The verification task, of which the paper prints pictures and no number.

    Attributes:
        title: What it is.
        caption: What our numbers are, in one line.
        source: Paper and section.
        remarks: What a reader must know, in sentences.
        statement: What the paper says its pictures show.
        layout: Key of DATASETS.
        data: What the paper used.
        cases: How many pairs it used.
        study: File of the study in the paper's configuration.
        phantom: Arguments of `comodal.api.phantom`.
        phantom_study: File of the study on the phantom.
        regions: What is segmented, as the cohort calls it.
        method: Key of METHODS: what every arm must be.
    """

    title: str
    caption: str
    source: str
    remarks: tuple[str, ...]
    statement: str
    layout: str
    data: str
    cases: int
    study: str
    phantom: Mapping[str, int | str]
    phantom_study: str
    regions: tuple[str, ...]
    method: str


def _columns(*regions: str) -> tuple[Column, ...]:
    names = (*regions, "mean") if len(regions) > 1 else regions
    dice = tuple(Column(f"DSC/{name}", "%", 100.0) for name in names)
    return (*dice, *(Column(f"HD95/{name}", "mm", 1.0) for name in names))


_BRATS = _columns("WT", "TC", "ET")


def _row(name: str, arm: str | None, dice: str, hd95: str = "", *, note: str = "", region: str = "") -> VariantRow:
    """Numbers as they are printed: "WT TC ET MEAN", or one number for the only region."""
    columns = _columns(region) if region else _BRATS
    half = len(columns) // 2
    texts = chain(zip(columns[:half], dice.split(), strict=True), zip(columns[half:], hd95.split(), strict=False))
    return VariantRow(name, arm, {column.metric: float(text) for column, text in texts}, note)


def _only(name: str, arm: str | None, numbers: str, *, region: str) -> VariantRow:
    dice, hd95 = numbers.split()
    return _row(name, arm, dice, hd95, region=region)


_FAIR = "It states neither the number of filters (C) behind its tables nor what counts where a region is empty."
_EMPTY = (
    "Its HD95 of ET, about 5 mm, is possible only if cases with an empty region are left out or hardly count; ours leaves them "
    "out and says how many are left."
)
_NAMED = "It prints the formula of the maximum under the name HD95; ours is the 95th percentile."
_SPLIT = "It has five-fold cross-validation, without stating the folds, and no intervals or tests."
_NNUNET = "It does not say how long nnU-Net was trained: ours has CIML's optimiser and steps, and does not mirror."
_BRAIN: dict[str, int | str] = {"name": "brain", "cases": 40, "size": 76, "seed": 0}
_TRAINING_SET = "the training set of BraTS 2020"
_ABLATION = (_FAIR, _EMPTY, _NAMED, _SPLIT)

VARIANTS: dict[str, VariantTable | ShapesTable] = {
    "ciml/table2": VariantTable(
        title="Table 2 of Shen et al. (2024), CIML",
        caption="Dice (%) and HD95 (mm) of the regions of BraTS 2020 from all four sequences, by method",
        source=f"{PAPER}, Table 2",
        remarks=(
            (
                "Methods with * have numbers from their own papers, of another split than the five folds of the others: not "
                "comparable with them."
            ),
            "The text calls RFNet closed source; its code is public.",
            (
                "The text says that CIML is best everywhere; nnU-Net has a better HD95 of TC (4.08) than CIML at 128³ (4.12), "
                "and ACMINet and NestedFormer a better Dice of WT than CIML at 64³."
            ),
            *_ABLATION,
            _NNUNET,
        ),
        rows=(
            _row("nnU-Net, 128³", "nnunet", "91.59 87.50 83.47 87.52", "4.75 4.08 5.60 4.81"),
            _row("Attention U-Net, 128³", None, "90.62 86.33 81.32 86.09", "5.42 7.88 8.98 7.43"),
            _row("UNETR, 128³", None, "91.11 86.42 82.96 86.76", "7.97 5.16 5.90 6.34"),
            _row("MAML, 128³", None, "91.40 88.05 82.40 87.28", "4.84 5.95 7.90 7.82"),
            _row("DIGEST*, 128³", None, "90.20 87.00 81.20 86.17", note="from its own paper, another split"),
            _row("RFNet*, 128³", None, "91.11 85.21 78.00 84.77", note="from its own paper, another split"),
            _row("ACMINet, 128³", None, "91.79 87.99 82.56 87.45", "5.70 5.09 6.95 5.91"),
            _row("NestedFormer, 128³", None, "91.76 88.20 83.19 87.72", "5.35 5.07 7.16 5.86"),
            _row("CIML, 64³", "ciml-64", "91.60 89.14 83.91 88.21", "5.83 3.70 4.95 4.83"),
            _row("CIML, 128³", "ciml", "91.88 88.69 84.34 88.30", "4.58 4.12 5.23 4.64"),
        ),
        columns=_BRATS,
        layout="brats",
        data=_TRAINING_SET,
        cases=369,
        study="ciml_table2.yaml",
        phantom={**_BRAIN, "cases": 30},
        phantom_study="ciml_table2_phantom.yaml",
        wrong={
            ("UNETR, 128³", "DSC/mean"): 86.83,
            ("MAML, 128³", "HD95/mean"): 6.23,
            ("DIGEST*, 128³", "DSC/mean"): 86.13,
        },
    ),
    "ciml/table3": VariantTable(
        title="Table 3 of Shen et al. (2024), CIML",
        caption="Dice (%) and HD95 (mm) of lesions of autoPET from CT and PET, by method",
        source=f"{PAPER}, Table 3",
        remarks=(
            _FAIR,
            (
                "About half of the studies have no lesion (513 of 1014); ours counts them in the Dice (both empty 1, one empty "
                "0) and leaves them out of HD95."
            ),
            _NAMED,
            _SPLIT,
            "It states no batch size for these data: ours is 2.",
            _NNUNET,
        ),
        rows=(
            _only("nnU-Net", "nnunet", "55.23 139.84", region="lesion"),
            _only("Attention U-Net", None, "57.87 108.62", region="lesion"),
            _only("UNETR", None, "41.62 177.04", region="lesion"),
            _only("MAML", None, "53.9 194.36", region="lesion"),
            _only("ACMINet", None, "45.67 121.81", region="lesion"),
            _only("NestedFormer", None, "52.51 183.14", region="lesion"),
            _only("CIML", "ciml", "61.37 107.58", region="lesion"),
        ),
        columns=_columns("lesion"),
        layout="autopet",
        data="the training set of autoPET 2022",
        cases=1014,
        study="ciml_table3.yaml",
        phantom={"name": "petct", "cases": 40, "size": 48, "seed": 0, "release": "autopet"},
        phantom_study="ciml_table3_phantom.yaml",
    ),
    "ciml/table4": VariantTable(
        title="Table 4 of Shen et al. (2024), CIML",
        caption="Dice (%) and HD95 (mm) of lymph nodes (GTVn) of HECKTOR 2022 from CT and PET, by method",
        source=f"{PAPER}, Table 4",
        remarks=(
            _FAIR,
            (
                "The target is the lymph nodes alone (GTVn), as its text says; the challenge itself has the aggregated Dice of "
                "GTVp and GTVn, which is another number."
            ),
            _NAMED,
            _SPLIT,
            "It states no batch size and no voxel size for these data: ours are 2 and 1 x 1 x 3 mm.",
            _NNUNET,
        ),
        rows=(
            _only("nnU-Net", "nnunet", "73.61 6.09", region="GTVn"),
            _only("Attention U-Net", None, "72.30 16.13", region="GTVn"),
            _only("UNETR", None, "74.50 5.85", region="GTVn"),
            _only("MAML", None, "70.00 29.05", region="GTVn"),
            _only("ACMINet", None, "74.23 8.13", region="GTVn"),
            _only("NestedFormer", None, "75.16 6.09", region="GTVn"),
            _only("CIML", "ciml", "76.28 5.17", region="GTVn"),
        ),
        columns=_columns("GTVn"),
        layout="hecktor",
        data="the training set of HECKTOR 2022",
        cases=524,
        study="ciml_table4.yaml",
        phantom={"name": "petct", "cases": 40, "size": 48, "seed": 0, "release": "hecktor"},
        phantom_study="ciml_table4_phantom.yaml",
    ),
    "ciml/table5": VariantTable(
        title="Table 5 of Shen et al. (2024), CIML",
        caption="Dice (%) and HD95 (mm) of the regions of BraTS 2020 at a patch of 64³, by which parts of CIML there are",
        source=f"{PAPER}, Table 5",
        remarks=(
            *_ABLATION,
            (
                "It does not say whether the fused messages of + Message are the complementary maps or a gate on them: ours "
                "are the maps."
            ),
        ),
        rows=(
            _row("Baseline", "baseline", "88.08 86.54 83.78 86.13", "13.13 4.70 5.31 7.71"),
            _row("+ Message", "message", "90.30 88.37 81.38 86.68", "8.71 6.22 6.63 7.18"),
            _row("+ Message + Attention", "message-attention", "90.43 87.23 82.93 86.86", "6.47 5.26 7.49 6.08"),
            _row("+ Message + VI", "message-vi", "91.54 88.70 83.72 87.99", "4.60 3.96 4.97 4.51"),
            _row("+ Message + Attention + VI", "full", "91.60 89.14 83.91 88.21", "5.83 3.70 4.95 4.83"),
        ),
        columns=_BRATS,
        layout="brats",
        data=_TRAINING_SET,
        cases=369,
        study="ciml_table5.yaml",
        phantom=_BRAIN,
        phantom_study="ciml_table5_phantom.yaml",
        wrong={("+ Message + Attention", "HD95/mean"): 6.41},
    ),
    "ciml/table6": VariantTable(
        title="Table 6 of Shen et al. (2024), CIML",
        caption="Dice (%) and HD95 (mm) of the regions of BraTS 2020 at a patch of 64³, by which sequence owns which regions",
        source=f"{PAPER}, Table 6",
        remarks=(
            *_ABLATION,
            (
                "Its text also says that T1 has TC and ET, and elsewhere TC and T1; the last row, which made its main numbers, "
                "and the six pairs of its Figure 18 have TC alone."
            ),
        ),
        rows=(
            _row("FLAIR TC; T1 TC, ET; T2 WT; T1CE TC", "row1", "91.01 88.95 81.01 86.99", "6.01 4.55 6.85 5.80"),
            _row("FLAIR WT; T1 WT; T2 TC; T1CE TC, ET", "row2", "91.13 88.96 82.38 87.49", "5.16 5.34 5.13 5.21"),
            _row("FLAIR WT; T1 WT, TC; T2 TC; T1CE ET", "row3", "91.21 89.12 82.41 87.58", "5.08 6.18 5.24 5.50"),
            _row("FLAIR WT; T1 WT, TC; T2 WT, TC; T1CE TC, ET", "row4", "91.62 88.20 83.79 87.87", "5.98 3.97 5.17 5.04"),
            _row("FLAIR WT; T1 TC; T2 WT, TC; T1CE TC, ET", "row5", "91.60 89.14 83.91 88.21", "5.83 3.70 4.95 4.83"),
        ),
        columns=_BRATS,
        layout="brats",
        data=_TRAINING_SET,
        cases=369,
        study="ciml_table6.yaml",
        phantom=_BRAIN,
        phantom_study="ciml_table6_phantom.yaml",
    ),
    "ciml/filters": VariantTable(
        title="Figure 14 of Shen et al. (2024), CIML",
        caption="Dice (%) and HD95 (mm) of the regions of BraTS 2020 at a patch of 64³, by the number of filters (C)",
        source=f"{PAPER}, Figure 14",
        remarks=_ABLATION,
        rows=(
            *(VariantRow(f"C = {width}", f"c{width}") for width in (4, 8, 16, 24, 32)),
            VariantRow("nnU-Net (line of the figure)", "nnunet"),
        ),
        columns=_BRATS,
        layout="brats",
        data=_TRAINING_SET,
        cases=369,
        study="ciml_filters.yaml",
        phantom={**_BRAIN, "cases": 30},
        phantom_study="ciml_filters_phantom.yaml",
        statement="Mean Dice rises with the number of filters, and 24 and 32 come near the best. The values are in a figure "
        "alone, and are not printed.",
    ),
    "ciml/beta": VariantTable(
        title="The sweep of beta in Section 4.5.3 of Shen et al. (2024), CIML",
        caption="Dice (%) and HD95 (mm) of the regions of BraTS 2020 at a patch of 64³, by the weight of the KL term (beta)",
        source=f"{PAPER}, Section 4.5.3 and its figure of beta",
        remarks=(*_ABLATION, "It does not say which betas between 1e-3 and 10 were tried, nor how its KL term is reduced."),
        rows=(
            *(VariantRow(f"beta = {beta}", f"beta-{beta}") for beta in ("0.001", "0.01", "0.1", "0.5", "1", "10")),
            VariantRow("nnU-Net (line of the figure)", "nnunet"),
        ),
        columns=_BRATS,
        layout="brats",
        data=_TRAINING_SET,
        cases=369,
        study="ciml_beta.yaml",
        phantom={**_BRAIN, "cases": 30},
        phantom_study="ciml_beta_phantom.yaml",
        statement="Of betas from 1e-3 to 10 the mean Dice is highest at 0.5, and every one is above that of nnU-Net (87.52): "
        "CIML is not sensitive to beta. The values are in a figure alone, and are not printed.",
    ),
    "ciml/shapes": ShapesTable(
        title="ShapeComposition, Section 4.3 and Figure 13 of Shen et al. (2024), CIML",
        caption="What the complementary map holds, by beta: nats per pixel in each part of a pair, and the DSC of the union",
        source=f"{PAPER}, Section 4.3 and Figure 13",
        remarks=(
            "It prints pictures and no number: every number here is ours.",
            (
                "It states neither the distributions of the shapes nor a split nor how the KL term is reduced; with a sum over "
                "pixels its best beta, 0.5, leaves nothing."
            ),
        ),
        statement="The complementary map is bright on what the auxiliary picture adds to the primary one and dark "
        "elsewhere, on their overlap too.",
        layout="csv",
        data="the pairs of shapes of the paper",
        cases=1000,
        study="ciml_shapes.yaml",
        phantom={"name": "shapes", "cases": 300, "size": 48, "seed": 0},
        phantom_study="ciml_shapes_phantom.yaml",
        regions=("label-1",),
        method="ciml-shapes",
    ),
}
