"""The layout of lists in JSON: `dataset.json` of the Medical Segmentation Decathlon, and the datalists of MONAI.

`{"training": [{"image": ..., "label": ..., "fold": 0}], "validation": [...], "test": [...]}`. An image is one file (whose
channels are modalities, where `modality` names several), a list of files, or each modality has a key of its own:
`{"t1": ..., "flair": ...}`. An entry that is missing, null or "" is an absent modality.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from comodal.data.atomic import replacing
from comodal.data.cohort import SPLITS, Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.jsons import read_json_file
from comodal.data.nnunet import channel_names, read_labels
from comodal.data.plain_columns import IMAGE_SUFFIXES, label_values
from comodal.data.reading import read_header
from comodal.errors import DataError, message, short

PARTS = {"training": "train", "train": "train", "validation": "val", "val": "val", "test": "test", "testing": "test"}
IDS = ("id", "subject", "subject_id", "case", "name")
LABELS = ("label", "seg", "mask", "segmentation")
OTHER = {"fold", "group", "site", "session", *IDS}


class Options(BaseModel):
    """Options of the layout datalist.

    Attributes:
        modalities: Names of the channels, or of the files in each list `image`, where the JSON has none.
        base: Folder that the paths start from; that of the JSON where empty.
        fold: The entries of this fold become the split test, the others train.
        labels: {region: value of the label maps}, where the JSON has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: tuple[str, ...] = ()
    base: str = ""
    fold: int | None = None
    labels: dict[str, int] = Field(default_factory=dict)

    @field_validator("modalities", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value


@dataclass
class _Found:
    """What the entries hold. files: {column: {case: path}}; classes: {case: class}; channels: columns that share a file."""

    file: Path
    base: Path
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)

    def error(self, rule: str, got: object, *, do: str = "Correct the JSON", subject: str = "", column: str = "") -> DataError:
        place = {"subject": subject or None, "modality": column or None}
        said = got if isinstance(got, str) and len(got) <= 80 else short(got)
        return DataError(message("datalist", rule, said, do=do, file=str(self.file), **place))


def index(root: Path, options: Options | None = None) -> Cohort:
    """Reads a list in JSON.

    Args:
        root: The JSON, or a folder with `dataset.json`.
        options: What the JSON does not say.

    Returns:
        A modality for each channel, position or key; target `seg` (label maps) or `label` (classes). Splits come from the keys
        where there is a validation or a labelled test list, or from the fold that is asked for; else they are left to be drawn.

    Raises:
        DataError: Not such a list, two entries of one case, or paths that lead out of the base folder.
    """
    options = options or Options()
    file = root / "dataset.json" if root.is_dir() else root
    if not file.is_file():
        do = "Give the JSON, or a folder with dataset.json"
        raise DataError(message("ROOT", "be a list in JSON", "none", do=do, file=str(root)))
    described = read_json_file(file)
    base = Path(os.path.abspath(file.parent / options.base))
    found = _Found(file, base)
    names = list(options.modalities) or (list(channel_names(described, file).values()) if "modality" in described else [])
    for key, part in PARTS.items():
        entries = described.get(key)
        for entry in entries if isinstance(entries, list) else ():
            _read_entry(found, entry, names, part=part)
    if not found.rows:
        raise found.error('hold a list "training" of cases', list(described))
    specs = _modalities(found)
    if not specs:
        raise found.error("have an image in some entry", "none", do='Name the files in "image", or one key per modality')
    targets = _targets(found, described, options)
    columns = {spec.name for spec in specs} | {target.name for target in targets}
    cases = [_case(found, case, columns, options.fold) for case in found.rows]
    tree = Tree(base, (), ())
    meta = CohortMeta(layout="datalist", root=str(base), modalities=specs, targets=targets, notes=tree.synthetic())
    return Cohort.build(meta, _divided(cases, targets), base)


def _read_entry(found: _Found, entry: Any, names: Sequence[str], *, part: str) -> None:
    """One case: {column: path} into `found`."""
    entry = {"image": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict):
        raise found.error("hold an object or a path in each entry", entry)
    files: dict[str, str] = {}
    image = entry.get("image")
    if isinstance(image, list):
        wanted = list(names) if len(names) == len(image) else [f"image-{k}" for k in range(len(image))]
        if names and len(names) != len(image):
            raise found.error(f"have {len(names)} files in each list `image`", image)
        files |= {name: str(path) for name, path in zip(wanted, image, strict=True) if path}
    elif isinstance(image, str) and image:
        files |= dict.fromkeys(names, image) if len(names) > 1 else {names[0] if names else "image": image}
        found.channels |= {name: k for k, name in enumerate(names)} if len(names) > 1 else {}
    label = next((entry[key] for key in LABELS if entry.get(key) not in (None, "")), None)
    more = {k: v for k, v in entry.items() if k not in ("image", *LABELS, *OTHER) and _is_image(v)}
    files |= {re.sub(r"[^0-9A-Za-z_-]+", "_", key).strip("_"): value for key, value in more.items()}
    case = _identifier(entry, files, label)
    if not files:
        return
    if case in found.rows:
        raise found.error("have one entry for each case", "two", subject=case, do='Give each entry an "id"')
    for name, path in files.items():
        found.files.setdefault(name, {})[case] = _below(found, path, case, name)
    if _is_image(label):
        found.files.setdefault("seg", {})[case] = _below(found, str(label), case, "seg")
    elif label is not None:
        found.classes[case] = str(label)
    plain = {key: str(entry[key]) for key in ("fold", "group", "site", "session") if entry.get(key) not in (None, "")}
    found.rows[case] = {**plain, "part": part}


def _is_image(value: object) -> bool:
    return isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)


def _identifier(entry: Mapping[str, Any], files: Mapping[str, str], label: object) -> str:
    """The case's own id, else the name of its first file."""
    given = next((str(entry[key]) for key in IDS if entry.get(key) not in (None, "")), "")
    if given:
        return given
    name = Path(next(iter(files.values()), str(label))).name
    ends = sorted((suffix for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), key=len)
    return name[: -len(ends[-1])] if ends else name


def _below(found: _Found, path: str, case: str, column: str) -> str:
    whole = os.path.normpath(found.base / path)
    if not Path(whole).is_relative_to(found.base):
        do = "Set base to the folder that holds all files (--set base=..)"
        raise found.error(f"list files below {found.base}", path, do=do, subject=case, column=column)
    return Path(whole).relative_to(found.base).as_posix()


def _modalities(found: _Found) -> list[ModalitySpec]:
    """From the header of the first file of each column."""
    specs = []
    for name, files in found.files.items():
        if name == "seg":
            continue
        case, path = next(iter(files.items()))
        channel = found.channels.get(name)
        header = read_header(found.base / path, channel=channel, subject=case, modality=name)
        unit = "HU" if name.lower() == "ct" else None
        dims = 2 if header.shape[2] == 1 else 3
        specs.append(ModalitySpec(name=name, spatial_dims=dims, channels=header.channels, unit=unit, channel=channel))
    return specs


def _targets(found: _Found, described: Mapping[str, Any], options: Options) -> list[TargetSpec]:
    targets = []
    if "seg" in found.files:
        if options.labels or "labels" in described:
            targets.append(read_labels({"labels": options.labels} if options.labels else described, found.file))
        else:
            files = {case: found.base / path for case, path in found.files["seg"].items()}
            codes = label_values(files, "seg")
            classes = [f"label-{code}" for code in codes]
            spec = TargetSpec(name="seg", kind="regions", classes=classes, codes=[[c] for c in codes], paint=codes)
            targets.append(spec)
    classes = sorted(set(found.classes.values()))
    if len(classes) > 1:
        targets.append(TargetSpec(name="label", kind="class", classes=classes))
    return targets


def _case(found: _Found, case: str, columns: Iterable[str], fold: int | None) -> Case:
    row = dict(found.rows[case])
    part, own = row.pop("part"), row.pop("fold", "")
    cells = {name: found.files[name].get(case, "") for name in columns if name in found.files}
    if "label" in columns and case in found.classes:
        cells["label"] = found.classes[case]
    split = part if fold is None else ("test" if own == str(fold) else "train") if own else ""
    ordered = {name: cells[name] for name in (*found.files, "label") if name in cells}
    return Case.build(case, cells=ordered, split=split, **row)


def _divided(cases: Sequence[Case], targets: Sequence[TargetSpec]) -> list[Case]:
    """Splits that say something: a test list without labels is there to be predicted, and one list alone divides nothing."""
    names = {target.name for target in targets}
    kept = [case if names & set(case.cells) else replace(case, split="") for case in cases]
    parts = {case.split for case in kept} - {""}
    return kept if len(parts) > 1 else [replace(case, split="") for case in kept]


def write(cohort: Cohort, out: Path, *, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Writes `datalist.json`: a key per modality and target, so that an absent one is simply not there.

    Args:
        cohort: Whose files are listed where they are; nothing is copied.
        out: Folder. Paths start from it where the data lie below it, else they are absolute.
        on_progress: Called with (cases done, all cases) at the end.

    Returns:
        Notes.
    """
    lists: dict[str, list[dict[str, str]]] = {}
    where = {"train": "training", "val": "validation", "test": "test", "": "training"}
    base = Path(os.path.abspath(out))
    for case in cohort.cases:
        entry = {"id": case.id, "group": case.group}
        for spec in cohort.meta.columns:
            if spec.name in case.cells:
                entry[spec.name] = _listed(cohort, case, spec.name, base)
        lists.setdefault(where[case.split], []).append(entry)
    assert set(where) == {"", *SPLITS}
    with replacing(out / "datalist.json") as file:
        file.write((json.dumps(lists, indent=1, ensure_ascii=False) + "\n").encode())
    if on_progress is not None:
        on_progress(len(cohort), len(cohort))
    channels = [spec.name for spec in cohort.meta.modalities if spec.channel is not None]
    return [f"{', '.join(channels)} are channels of files that hold several; the list names the files only"] if channels else []


def _listed(cohort: Cohort, case: Case, column: str, base: Path) -> str:
    if not cohort.holds_files(column):
        return case.cells[column]
    paths = [os.path.abspath(path) for path in cohort.files(case, column)]
    return ";".join(os.path.relpath(p, base) if Path(p).is_relative_to(base) else p for p in paths)
