"""Published tables: numbers as they were printed, with their source. Plain data, so that listing them imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from comodal.errors import ConfigError, message, nearest
from comodal.study.published_ciml import VARIANTS, ShapesTable, VariantTable
from comodal.study.published_guidance import CHECKLISTS, GUIDANCE, ChecklistTable, GuidanceTable
from comodal.study.published_reports import COUNTS, REPORTS, CountsTable, ReportsTable


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        name: As printed.
        present: The modalities that there are at test, in canonical order.
        numbers: {column: number}, as printed.
    """

    name: str
    present: tuple[str, ...]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class PublishedTable:
    """A published table, and how it is done again.

    Attributes:
        title: Which table it is.
        caption: What its numbers are, in one line.
        source: Paper and table.
        remarks: What a reader must know about the published numbers, in sentences.
        rows: In the printed order.
        columns: {column as printed: label of the study's arm that does it again}.
        metric: What we measure for it ("DSC/ET").
        scale: Our metric times this is in the unit of the published numbers.
        unit: Of the published numbers.
        subject: Label of the arm whose gain is asked for.
        against: Labels of the arms that it is compared with.
        layout: Key of DATASETS: the data of the paper.
        data: Whose data these are.
        cases: How many cases with a label map these data have.
        study: File of the study on these data, in `study/tables`.
        phantom: Arguments of `comodal.api.phantom` where no data are given.
        phantom_study: File of the study on the phantom.
    """

    title: str
    caption: str
    source: str
    remarks: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    columns: Mapping[str, str]
    metric: str
    scale: float
    unit: str
    subject: str
    against: tuple[str, ...]
    layout: str
    data: str
    cases: int
    study: str
    phantom: Mapping[str, int | str]
    phantom_study: str

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that its numbers are of."""
        return (self.metric.partition("/")[2],)


AnyTable: TypeAlias = PublishedTable | VariantTable | ShapesTable | GuidanceTable | ReportsTable

TABLES: dict[str, PublishedTable] = {
    "cmim/table2": PublishedTable(
        title="Table 2 of Sylvain et al. (2021), CMIM",
        caption="Dice (%) of enhancing tumour when only the marked sequence is there at test",
        source="Sylvain et al. (2021). CMIM: Cross-Modal Information Maximization for Medical Imaging. ICASSP, "
        "arXiv:2010.10593, Table 2",
        remarks=(
            "Its authors copied the columns HeMIS, Mean and MLP from Havaei et al. (2016), HeMIS, and did not run them again.",
            "All four sequences are there in the training of the published CMIM.",
            "CMIM without its information term (cmim-lambda0) and U-Nets of one sequence (unet-experts) are not in the paper.",
            "It states neither split, widths, steps nor weights of losses, nor what counts where there is no enhancing tumour.",
            "Ours is without N4 bias correction, which HeMIS is reported to have, unless study.yaml says hemis-n4.",
        ),
        rows=(
            PublishedRow("FLAIR", ("flair",), {"CMIM": 23.37, "HeMIS": 5.57, "Mean": 6.25, "MLP": 15.90}),
            PublishedRow("T1", ("t1",), {"CMIM": 14.15, "HeMIS": 4.67, "Mean": 6.25, "MLP": 10.78}),
            PublishedRow("T1c", ("t1ce",), {"CMIM": 49.00, "HeMIS": 49.93, "Mean": 30.02, "MLP": 32.92}),
            PublishedRow("T2", ("t2",), {"CMIM": 29.56, "HeMIS": 20.31, "Mean": 6.25, "MLP": 18.62}),
        ),
        columns={"CMIM": "cmim-seg", "HeMIS": "hemis", "Mean": "mean", "MLP": "mlp-fill"},
        metric="DSC/ET",
        scale=100.0,
        unit="%",
        subject="cmim-seg",
        against=("cmim-lambda0", "unet-experts"),
        layout="brats2015",
        data="the training set of BRATS 2015",
        cases=220 + 54,  # high-grade and low-grade patients
        study="cmim_table2.yaml",
        phantom={"name": "brain", "cases": 60, "size": 64, "seed": 0, "release": "2015"},
        phantom_study="cmim_table2_phantom.yaml",
    ),
}


def known_tables() -> dict[str, AnyTable | ChecklistTable | CountsTable]:
    """Every table by its name: of TABLES (rows are subsets of modalities), VARIANTS, GUIDANCE, REPORTS, CHECKLISTS, COUNTS."""
    return {**TABLES, **VARIANTS, **GUIDANCE, **REPORTS, **CHECKLISTS, **COUNTS}


def load_table(name: str) -> AnyTable:
    """A table of TABLES, VARIANTS, GUIDANCE or REPORTS.

    Raises:
        ConfigError: The name is unknown; the message lists the nearest known ones.

    >>> load_table("cmim/table2").rows[0].numbers["CMIM"]
    23.37
    """
    known: dict[str, AnyTable] = {**TABLES, **VARIANTS, **GUIDANCE, **REPORTS}
    if name not in known:
        raise ConfigError(message("TABLE", "be a known table", repr(name), do=nearest(name, known_tables())))
    return known[name]
