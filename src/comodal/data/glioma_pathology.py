"""The layout of regions of interest of glioma slides (TCGA), paired with the LGG MRI segmentation set.

    radpath_pairs.csv       one row per patient: case, Patient, roi_files, idh_mutation, codeletion_1p19q, ...
    <any folder>/<ROI>.png  256 x 256 pixels, stained with haematoxylin and eosin

The regions come from Mobadersany et al. (2018) by way of Langbein et al. (2025), and show tumour: people chose them.
`roi_files` lists those of a patient, joined by ";". `case` is the MRI case (TCGA_CS_4941_19960909), so that
`comodal join lgg-mri:... glioma-pathology:...` gives one cohort of both.

Targets: idh (wildtype, mutant), codeletion of 1p/19q (no, yes), and molecular, the classes of CPM-RadPath: G IDH-wildtype, A
mutant without codeletion, O mutant with codeletion. What is unknown (-1 or blank) is blank, never "no". A codeleted wildtype
tumour has no class. With `grade` also the histologic grade, which the table codes 1 and 2: lower-grade gliomas of TCGA are of
grade 2 or 3, and 1 is taken as 2, 2 as 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.formats_picture import natural_key
from comodal.data.tables import read_table
from comodal.errors import ConfigError, DataError, message

_TABLE = re.compile(r"radpath_pairs.*\.csv", re.IGNORECASE)
_NEEDED = ("case", "Patient", "roi_files", "idh_mutation", "codeletion_1p19q")
_GRADE = "neoplasm_histologic_grade"
_CLINICAL = ("age_at_initial_pathologic", "gender")
_SITE = re.compile(r"TCGA[_-](?P<site>[A-Z0-9]{2})[_-].+", re.IGNORECASE)
_MOLECULAR = {("0", "0"): "G", ("1", "0"): "A", ("1", "1"): "O"}


class Options(BaseModel):
    """What `comodal index glioma-pathology` can be told.

    Attributes:
        folder: Name of the folder that holds the regions, where several hold files of their names; "" finds it.
        clinical: Adds the modality `clinical`: age in years / 100, and the table's code of the sex, 1 or 2, as 0 or 1.
        grade: Adds the target `grade`: 2 or 3.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = ""
    clinical: bool = False
    grade: bool = False


def index(root: Path, options: Options) -> Cohort:
    """Reads the table, and looks for the regions by name. No picture is opened.

    Args:
        root: The folder with the table.
        options: See `Options`.

    Returns:
        Modality pathology, a bag of pictures, and clinical where asked for; targets idh, codeletion and molecular, and grade
        where asked for. The group is the patient, the site TCGA's code of the centre. Regions that are not on disk are left out
        and counted in `meta.notes`; a case without any stays, for its answers.

    Raises:
        DataError: No table, a column that is missing, a value that is none of the codes, or one name in two folders.
        ConfigError: `folder` is not there.
    """
    tree = Tree.scan(root)
    rows = _rows(tree, options)
    places = _places(tree, options)
    cases, gone = [], []
    for row in rows:
        names = [name.strip() for name in row["roi_files"].split(";") if name.strip()]
        gone += [name for name in names if name not in places]
        paths = [_one(places[name], row["case"]) for name in names if name in places]
        cells = {"pathology": ";".join(paths), **_answers(row)}
        if options.clinical:
            cells["clinical"] = _clinical(row)
        if options.grade:
            cells["grade"] = {"1": "2", "2": "3"}.get(_code(row, _GRADE, ("1", "2")), "")
        site = _SITE.fullmatch(row["case"])
        group = row["Patient"] or row["case"]
        cases.append(Case.build(row["case"], cells=cells, group=group, site=site["site"].upper() if site else ""))
    cases.sort(key=lambda case: natural_key(case.id))
    specs = [ModalitySpec(name="pathology", kind="bag", spatial_dims=2, channels=3, grid="pathology")]
    specs.append(ModalitySpec(name="clinical", kind="features", spatial_dims=0, channels=2, inline=True))
    specs = [spec for spec in specs if any(spec.name in case.cells for case in cases)]
    if not specs:
        do = "Put the folder with the PNG files beside the table, or name it: --set folder=..."
        raise DataError(message("ROOT", "hold the regions that its table lists", "none", do=do, file=str(root)))
    classes = {"idh": ["wildtype", "mutant"], "codeletion": ["no", "yes"], "molecular": ["G", "O", "A"]}
    classes |= {"grade": ["2", "3"]} if options.grade else {}
    targets = [TargetSpec(name=name, kind="class", classes=names) for name, names in classes.items()]
    notes = [*_notes(cases, gone, targets), *tree.not_followed(), *tree.synthetic()]
    meta = CohortMeta(layout="glioma-pathology", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def _rows(tree: Tree, options: Options) -> list[dict[str, str]]:
    tables = [folder / name for folder, names in tree.folders for name in names if _TABLE.fullmatch(name)]
    if len(tables) != 1:
        got = ", ".join(path.relative_to(tree.root).as_posix() for path in tables) or "none"
        do = "Give the folder that holds radpath_pairs.csv, and keep one such table there"
        raise DataError(message("ROOT", "hold one table radpath_pairs.csv", got, do=do, file=str(tree.root)))
    columns, rows = read_table(tables[0])
    for name in (*_NEEDED, *(_CLINICAL if options.clinical else ()), *((_GRADE,) if options.grade else ())):
        if name not in columns:
            do = "Restore the table from the original data set"
            raise DataError(message("table", f"have the column {name}", ", ".join(columns), do=do, file=str(tables[0])))
    for number, row in enumerate(rows, start=2):
        if not row["case"]:
            rule, do = "name its case in every row", f"Fill the column case in row {number}"
            raise DataError(message("table", rule, "a blank cell", do=do, file=str(tables[0])))
    return rows


def _places(tree: Tree, options: Options) -> dict[str, list[str]]:
    """{name of a picture: its paths}, in the chosen folder or in all of them."""
    found: dict[str, list[str]] = {}
    seen = False
    for folder, names in tree.folders:
        place = folder.relative_to(tree.root).as_posix()
        if options.folder and options.folder not in (folder.name, place):
            continue
        seen = True
        for name in names:
            found.setdefault(name, []).append(name if place == "." else f"{place}/{name}")
    if not seen:
        got = repr(options.folder)
        raise ConfigError(message("layout glioma-pathology: folder", "be below ROOT", got, do="Check its name"))
    return found


def _one(paths: Sequence[str], case: str) -> str:
    if len(paths) > 1:
        rule, do = "hold each region once", "Choose one of the folders: --set folder=..."
        raise DataError(message("ROOT", rule, " and ".join(paths), subject=case, modality="pathology", do=do))
    return paths[0]


def _code(row: Mapping[str, str], column: str, codes: tuple[str, str] = ("1", "0")) -> str:
    """The code as it is, blank where nobody knows."""
    text = row[column].removesuffix(".0")
    if text not in (*codes, "-1", ""):
        do = "Correct the table, or blank the cell where it is not known"
        raise DataError(message(column, f"be {', '.join(codes)} or -1", repr(row[column]), subject=row["case"], do=do))
    return "" if text == "-1" else text


def _answers(row: Mapping[str, str]) -> dict[str, str]:
    idh, codeleted = _code(row, "idh_mutation"), _code(row, "codeletion_1p19q")
    return {
        "idh": {"0": "wildtype", "1": "mutant"}.get(idh, ""),
        "codeletion": {"0": "no", "1": "yes"}.get(codeleted, ""),
        "molecular": _MOLECULAR.get((idh, codeleted), ""),
    }


def _clinical(row: Mapping[str, str]) -> str:
    """Age and sex; "" where one of them is not known, since a vector is whole or absent."""
    age, sex = row[_CLINICAL[0]], row[_CLINICAL[1]].removesuffix(".0")
    if not age or not sex:
        return ""
    try:
        return f"{float(age) / 100:g};{ {'1': 0, '2': 1}[sex] }"
    except (ValueError, KeyError):
        do = "Correct the table, or blank the cell"
        got = f"{age!r} and {sex!r}"
        raise DataError(message("age and gender", "be years, and 1 or 2", got, subject=row["case"], do=do)) from None


def _notes(cases: list[Case], gone: list[str], targets: list[TargetSpec]) -> list[str]:
    notes = []
    if gone:
        what = "1 region of the table is" if len(gone) == 1 else f"{len(gone)} regions of the table are"
        notes.append(f"{what} not on disk and left out ({gone[0]})")
    without = [case.id for case in cases if "pathology" not in case.cells]
    if without:
        what = "1 case has" if len(without) == 1 else f"{len(without)} cases have"
        notes.append(f"{what} no region on disk: a blank cell ({', '.join(without)})")
    for target in targets:
        unknown = [case.id for case in cases if target.name not in case.cells]
        if unknown:
            notes.append(f"{target.name} is unknown in {len(unknown)} of {len(cases)} cases ({', '.join(unknown[:5])})")
    return notes
