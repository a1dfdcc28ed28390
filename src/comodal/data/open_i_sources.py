"""What the layout of Open-I reads: reports (XML or the mirror's table), the names of pictures, tables of views."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from comodal.data.cohort import check_path, existing_file
from comodal.data.folders import Tree
from comodal.data.formats_picture import natural_key
from comodal.data.reading import read_text
from comodal.data.reports import openi_report
from comodal.data.tables import read_table
from comodal.errors import DataError, message

_FOLDERS = ("ecgen-radiology", "NLMCXR_reports")
_TABLE, _PROJECTIONS, _VIEWS = "indiana_reports.csv", "indiana_projections.csv", "views.csv"
_SUFFIXES = (".png", ".jpg", ".jpeg")
# Of the archive "CXR1_1_IM-0001-3001", of the mirror "1_IM-0001-3001": one picture.
_PREFIX = re.compile(r"CXR\d+_(?=\d)", re.IGNORECASE)
_VIEW = {"frontal": "frontal", "pa": "frontal", "ap": "frontal", "lateral": "lateral", "ll": "lateral", "lat": "lateral"}
_UNKNOWN = ("", "unknown", "na", "n/a", "nan", "?")
_FRONTAL_WORD = re.compile(r"\b(?:pa|ap|frontal|posteroanterior|anteroposterior)\b", re.IGNORECASE)
_LATERAL_WORD = re.compile(r"\b(?:lateral|lat)\b", re.IGNORECASE)
# "Chest XXXX and lateral" is a frontal view whose word was taken out by de-identification.
_SEVERAL_WORD = re.compile(r"\b(?:and|two|2|2v|views|x{3,})\b|[/&+]", re.IGNORECASE)


@dataclass(frozen=True)
class Report:
    """A report as it lies in the data set.

    Attributes:
        uid: "CXR1".
        cell: What the cohort lists: the path of the XML, or the text.
        has_words: Whether findings or impression hold any.
        major: Terms given by people.
        automatic: Terms given by a program.
        images: (key, caption) of its pictures; see `picture_key`.
    """

    uid: str
    cell: str
    has_words: bool
    major: tuple[str, ...]
    automatic: tuple[str, ...]
    images: tuple[tuple[str, str], ...]


def picture_key(name: str) -> str:
    """What a picture is called in archive and mirror alike.

    Args:
        name: An identifier or the name of a file.

    >>> picture_key("CXR1_1_IM-0001-3001"), picture_key("1_IM-0001-3001.dcm.png")
    ('1_IM-0001-3001', '1_IM-0001-3001')
    """
    stem = name.strip()
    for suffix in (*_SUFFIXES, ".dcm"):
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    return _PREFIX.sub("", stem, count=1)


@dataclass
class Pictures:
    """The pictures below the root. paths: {key: paths relative to the root}; used: keys that a report named."""

    paths: dict[str, list[str]]
    used: set[str] = field(default_factory=set)

    @staticmethod
    def find(tree: Tree) -> Pictures:
        """All pictures of a folder. tree: its names."""
        found: dict[str, list[str]] = {}
        for folder, names in tree.folders:
            for name in names:
                if name.lower().endswith(_SUFFIXES):
                    found.setdefault(picture_key(name), []).append((folder / name).relative_to(tree.root).as_posix())
        return Pictures(found)

    def path(self, key: str, subject: str) -> str:
        """Where a picture lies, "" where it does not.

        Args:
            key: See `picture_key`.
            subject: The report, for the error text.

        Raises:
            DataError: It lies there twice.
        """
        paths = self.paths.get(key, [])
        if len(paths) > 1:
            got, do = f"{paths[0]} and {paths[1]}", "Remove one of them"
            raise DataError(message("ROOT", "hold one file for each picture", got, subject=subject, do=do))
        self.used.update([key] if paths else [])
        return paths[0] if paths else ""

    def unused(self) -> list[str]:
        """Paths of the pictures that no report named."""
        return [path for key, paths in self.paths.items() if key not in self.used for path in paths]


def read_reports(tree: Tree) -> list[Report]:
    """The XML reports in the root or in `ecgen-radiology`, in natural order of their identifiers.

    Args:
        tree: Names below the root.

    Returns:
        Empty where there are none.

    Raises:
        DataError: One that cannot be read, is of another kind or lies outside the root; two of one identifier.
    """
    found: dict[str, Report] = {}
    for folder, names in tree.folders:
        if folder != tree.root and folder.name not in _FOLDERS:
            continue
        for name in names:
            if name.lower().endswith(".xml"):
                report = _from_xml(tree.root, (folder / name).relative_to(tree.root).as_posix())
                _add(found, report, name)
    return sorted(found.values(), key=lambda report: natural_key(report.uid))


def _from_xml(root: Path, cell: str) -> Report:
    path = existing_file(root, cell, subject=Path(cell).stem, modality="report")
    place = {"subject": path.stem, "modality": "report"}
    read = openi_report(read_text(path, **place), **place, file=str(path))
    words = any(map(str.isalnum, read.sections.get("findings", "") + read.sections.get("impression", "")))
    images = tuple(dict.fromkeys((picture_key(name), caption) for name, caption in read.images if name))
    return Report(read.uid, cell, words, read.major, read.automatic, images)


def _add(found: dict[str, Report], report: Report, where: str) -> None:
    if report.uid in found:
        rule, do = "hold one report of each identifier", "Remove one of them"
        raise DataError(message("ROOT", rule, f"a second one, {where}", subject=report.uid, do=do))
    found[report.uid] = report


def read_mirror(tree: Tree) -> list[Report]:
    """The reports of the mirror's table, in natural order; empty where there is none.

    Args:
        tree: Names below the root.

    Raises:
        DataError: A column is missing, or two rows are of one report.
    """
    path = _find(tree, _TABLE)
    if path is None:
        return []
    columns, rows = read_table(path)
    _check_columns(path, columns, ("uid", "MeSH", "findings", "impression"))
    pictures: dict[str, list[tuple[str, str]]] = {}
    projections = _find(tree, _PROJECTIONS)
    if projections is not None:
        columns, listed = read_table(projections)
        _check_columns(projections, columns, ("uid", "filename", "projection"))
        for row in listed:
            pictures.setdefault(row["uid"], []).append((picture_key(row["filename"]), ""))
    found: dict[str, Report] = {}
    for row in rows:
        texts = [" ".join(row[name].split()) for name in ("findings", "impression")]
        text = "\n".join(part for part in texts if any(map(str.isalnum, part)))
        major, problems = (tuple(filter(None, map(str.strip, row.get(name, "").split(";")))) for name in ("MeSH", "Problems"))
        uid = row["uid"] if row["uid"].upper().startswith("CXR") else f"CXR{row['uid']}"
        _add(found, Report(uid, text, bool(text), major, problems, tuple(pictures.get(row["uid"], []))), path.name)
    return sorted(found.values(), key=lambda report: natural_key(report.uid))


def _find(tree: Tree, name: str) -> Path | None:
    """The one table of this name below the root; of several that in the root itself. No link may lead out of it."""
    places = [folder for folder, names in tree.folders if name in names]
    if not places:
        return None
    place = tree.root if tree.root in places else places[0]
    if len(places) > 1 and place != tree.root:
        got, do = " and ".join((folder / name).relative_to(tree.root).as_posix() for folder in places[:2]), "Keep one of them"
        raise DataError(message("ROOT", f"hold one {name}", got, do=do, file=str(tree.root)))
    return existing_file(tree.root, (place / name).relative_to(tree.root).as_posix(), subject="", modality="")


def _check_columns(path: Path, columns: list[str], needed: tuple[str, ...]) -> None:
    for name in needed:
        if name not in columns:
            do = "Take the table as it was published, or rename the column"
            raise DataError(message("table", f"have the column {name!r}", ", ".join(columns), do=do, file=str(path)))


def read_views(tree: Tree, given: str, pictures: Pictures) -> tuple[dict[str, str], str]:
    """Which picture shows what.

    Args:
        tree: Names below the root.
        given: Path of a table below the root; "" looks for `views.csv`, then for `indiana_projections.csv`.
        pictures: What the rows should be of.

    Returns:
        {key: "frontal", "lateral", or another word for another view}, without rows that say "unknown"; and a note, "" where
        there is no table.

    Raises:
        DataError: No such table, several of one name, one without the columns image_id and view, or a picture with two views.
    """
    if given:
        check_path(given, owner="views", subject="", modality="")
        path: Path | None = existing_file(tree.root, given, subject="", modality="views")
    else:
        path = _find(tree, _VIEWS) or _find(tree, _PROJECTIONS)
    if path is None:
        return {}, ""
    columns, rows = read_table(path)
    image, view = ("filename", "projection") if "projection" in columns else ("image_id", "view")
    _check_columns(path, columns, (image, view))
    found: dict[str, str] = {}
    for row in rows:
        said = row[view].lower()
        if said in _UNKNOWN:
            continue
        key, said = picture_key(row[image]), _VIEW.get(said, f"other: {said}")
        if found.setdefault(key, said) != said:
            do = "Keep the row that is right"
            raise DataError(message("table", "give each picture one view", row[image], do=do, file=str(path)))
    strange = sum(key not in pictures.paths for key in found)
    tail = f"; {strange} of {len(found)} rows are of pictures that are not in the folder" if strange else ""
    return found, f"views of pictures come from {os.path.relpath(path, tree.root)}{tail}"


def view_of_caption(caption: str, *, alone: bool) -> str:
    """The view that a caption tells: "frontal", "lateral" or "".

    Args:
        caption: Of the study, whatever picture it stands beside.
        alone: Whether the study has one picture.

    >>> view_of_caption("AP chest", alone=False), view_of_caption("PA and lateral", alone=True)
    ('frontal', '')
    """
    frontal, lateral = (bool(word.search(caption)) for word in (_FRONTAL_WORD, _LATERAL_WORD))
    if frontal == lateral:
        return ""
    if frontal:
        return "frontal" if alone or not re.search(r"\b(?:two|2|2v)\b", caption, re.IGNORECASE) else ""
    return "lateral" if alone and not _SEVERAL_WORD.search(caption) else ""
