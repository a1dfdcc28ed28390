"""The layout of BIDS (Brain Imaging Data Structure): `sub-<id>[/ses-<id>]/<anat|pet|ct>/sub-..._<suffix>.nii.gz`.

Images of one session are taken to lie where their affines say: BIDS does not promise that they are registered, and nothing is
guessed. Label maps come from `derivatives`: `_dseg`, `_mask` or `_roi`. Sidecar JSON files stay where they are, unread.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.formats_picture import natural_key
from comodal.data.plain_columns import label_values
from comodal.data.tables import read_table
from comodal.errors import DataError, message, nearest

KINDS = ("anat", "pet", "ct", "dwi", "perf")
# How the field calls them; other suffixes keep their own name in lower case.
NAMES = {"T1w": "t1", "T2w": "t2", "FLAIR": "flair", "PDw": "pd", "T2star": "t2star"}
LABELS = ("dseg", "mask", "roi")
_NAME = re.compile(r"(?P<entities>(?:[a-z]+-[0-9A-Za-z+]+_)+)(?P<suffix>[0-9A-Za-z]+)\.nii(?:\.gz)?")
_ABSENT = ("", "n/a")


class Options(BaseModel):
    """Options of the layout bids.

    Attributes:
        targets: Columns of participants.tsv that are targets of classes.
        derivative: Folder below `derivatives` from which the images are taken, for instance of a pipeline that registered them;
            the raw ones where empty.
        label: Part of the names of the label maps ("lesion" takes `_label-lesion_mask`), where there are several kinds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: tuple[str, ...] = ()
    derivative: str = ""
    label: str = ""

    @field_validator("targets", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value


@dataclass(frozen=True)
class _File:
    """A file by what its name says."""

    path: str
    entities: Mapping[str, str]
    suffix: str

    @property
    def case(self) -> tuple[str, str]:
        """Subject and session."""
        return self.entities["sub"], self.entities.get("ses", "")

    @property
    def modality(self) -> str:
        """t1, t1ce (with contrast agent), t2, flair, pet ...; the tracer where one is named."""
        name = NAMES.get(self.suffix, self.suffix.lower())
        if "ce" in self.entities:
            return "t1ce" if name == "t1" else f"{name}_ce"
        return f"{name}_{self.entities['trc'].lower()}" if "trc" in self.entities else name


def index(root: Path, options: Options | None = None) -> Cohort:
    """Scans a data set in BIDS.

    Args:
        root: The folder with `sub-*` and, usually, `dataset_description.json`.
        options: What is predicted, and which derivative is read.

    Returns:
        A modality for each kind of image; of several runs or acquisitions of one the first, with a note. Target seg from the
        label maps of the derivatives; targets of classes from participants.tsv. The group is the subject, the site its column
        `site`.

    Raises:
        DataError: No image of a subject, or a column that participants.tsv has not.
    """
    options = options or Options()
    tree = Tree.scan(root)
    files = [file for file in _files(tree) if file.path.split("/")[0] != "derivatives"]
    derived = [file for file in _files(tree) if file.path.split("/")[0] == "derivatives"]
    notes: list[str] = []
    if options.derivative:
        files = [file for file in derived if file.path.split("/")[1] == options.derivative]
        notes.append(f"the images are those of the derivative {options.derivative}")
    images = [file for file in files if file.suffix not in LABELS and file.path.split("/")[-2] in KINDS]
    if not images:
        do = "Give the folder that holds sub-<id>, and check --set derivative"
        rule = "hold images named sub-<id>[_ses-<id>]..._<suffix>.nii.gz in folders anat, pet or ct"
        raise DataError(message("ROOT", rule, "none", do=do, file=str(root)))
    cells = _cells(images, notes)
    masks = _masks(derived, options.label, notes)
    people = _participants(root, options.targets)
    names = sorted(
        {name for found in cells.values() for name in found}, key=lambda n: (n not in NAMES.values(), natural_key(n))
    )
    specs = [ModalitySpec(name=name, unit={"ct": "HU"}.get(name)) for name in names]
    targets = _targets(root, masks, people, options.targets)
    cases = []
    for subject, session in sorted(cells, key=lambda key: (natural_key(key[0]), natural_key(key[1]))):
        row = people.get(f"sub-{subject}", people.get(subject, {}))
        own = {**cells[subject, session], "seg": masks.get((subject, session), "")}
        own |= {name: "" if row.get(name, "").lower() in _ABSENT else row[name] for name in options.targets}
        kept = {name: own.get(name, "") for name in (*names, *(target.name for target in targets))}
        cases.append(Case.build(f"sub-{subject}", session=session, cells=kept, site=_plain(row.get("site", ""))))
    if masks and not any("seg" in case.cells for case in cases):
        notes.append("no label map belongs to a subject with images")
    notes += [*tree.not_followed(), *tree.synthetic()]
    meta = CohortMeta(layout="bids", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def _files(tree: Tree) -> list[_File]:
    """Images whose names follow BIDS, in natural order."""
    found = []
    for folder, names in tree.folders:
        for name in sorted(names, key=natural_key):
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            entities = dict(pair.split("-", 1) for pair in match["entities"].rstrip("_").split("_"))
            if "sub" in entities:
                found.append(_File((folder / name).relative_to(tree.root).as_posix(), entities, match["suffix"]))
    return found


def _cells(images: Sequence[_File], notes: list[str]) -> dict[tuple[str, str], dict[str, str]]:
    """{(subject, session): {modality: path}}; of several the one with the fewest entities, then the first."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    more: Counter[str] = Counter()
    for file in sorted(images, key=lambda f: (len(f.entities), natural_key(f.path))):
        own = cells.setdefault(file.case, {})
        if file.modality in own:
            more[file.modality] += 1
        own.setdefault(file.modality, file.path)
    notes += [f"{name}: {count} further runs or acquisitions were left out" for name, count in sorted(more.items())]
    return cells


def _masks(derived: Sequence[_File], label: str, notes: list[str]) -> dict[tuple[str, str], str]:
    """{(subject, session): path} of the label maps; of several the first, with a note."""
    masks: dict[tuple[str, str], str] = {}
    more = 0
    for file in derived:
        if file.suffix in LABELS and label.lower() in Path(file.path).name.lower():
            more += file.case in masks
            masks.setdefault(file.case, file.path)
    if more:
        notes.append(f"{more} further label maps were left out; choose the kind with --set label=...")
    return masks


def _participants(root: Path, targets: Sequence[str]) -> dict[str, dict[str, str]]:
    """{participant_id: row} of participants.tsv; empty where there is none."""
    file = root / "participants.tsv"
    columns: list[str] = []
    rows: list[dict[str, str]] = []
    if file.is_file():
        columns, rows = read_table(file)
    for name in targets:
        if name not in columns:
            rule = "name columns of participants.tsv"
            raise DataError(message("--set targets", rule, repr(name), do=nearest(name, columns), file=str(file)))
    return {row.get("participant_id", ""): row for row in rows}


def _targets(
    root: Path, masks: Mapping[tuple[str, str], str], people: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> list[TargetSpec]:
    targets = []
    if masks:
        codes = label_values({f"sub-{subject}": root / path for (subject, _), path in masks.items()}, "seg")
        named = _label_names(root, next(iter(masks.values())))
        classes = [named.get(code, f"label-{code}") for code in codes]
        targets.append(TargetSpec(name="seg", kind="regions", classes=classes, codes=[[c] for c in codes], paint=codes))
    for name in names:
        classes = sorted({row[name] for row in people.values() if row[name].lower() not in _ABSENT})
        targets.append(TargetSpec(name=name, kind="class", classes=classes))
    return targets


def _label_names(root: Path, mask: str) -> dict[int, str]:
    """{value: name} of the table beside a label map (`_dseg.tsv`), or of its derivative; empty where there is none."""
    stem = re.sub(r"\.nii(\.gz)?$", "", mask)
    places = (root / f"{stem}.tsv", root / "/".join(mask.split("/")[:2]) / "desc-seg_dseg.tsv", root / "dseg.tsv")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return {}
    _, rows = read_table(file)
    return {int(row["index"]): row["name"] for row in rows if row.get("index", "").isdigit() and row.get("name")}


def _plain(cell: str) -> str:
    return "" if cell.lower() in _ABSENT else cell
