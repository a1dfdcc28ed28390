"""The layout of nnU-Net, versions 1 and 2: `dataset.json`, `imagesTr/<case>_0000.<ending>`, `labelsTr/<case>.<ending>`.

What nnU-Net itself does not allow is allowed here: a case without one of the channels has a blank cell. `dataset.json` may
begin with a byte order mark. Where one file holds all channels (natural images), each channel is a modality of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.formats_picture import natural_key
from comodal.data.jsons import read_json_file
from comodal.data.reading import read_header
from comodal.errors import DataError, message, short

FOLDERS = (("imagesTr", "labelsTr", ""), ("imagesTs", "labelsTs", "test"))
_NUMBER = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
Channels = dict[int, dict[str, str]]  # {number of the channel: {case: path}}


class Options(BaseModel):
    """Options of the layout nnunet.

    Attributes:
        group: Regular expression that finds the patient in the name of a case, as its first bracketed part; each case is a
            patient of its own where empty.
        fold: A fold of `splits_final.json` (in the folder, or where nnU-Net puts it): its validation cases become the test
            cases, since they are what nnU-Net reports.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str = ""
    fold: int | None = None

    @field_validator("group")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            brackets = re.compile(value).groups if value else 1
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from None
        if brackets < 1:
            raise ValueError("must have a part in brackets, the patient, for instance (.+)_[0-9]+")
        return value


def index(root: Path, options: Options | None = None) -> Cohort:
    """Scans a data set of nnU-Net.

    Args:
        root: The folder with `dataset.json`.
        options: How patients and splits are known.

    Returns:
        A modality for each channel, by its name in `channel_names` (or `modality`, version 1); target seg, kind "regions" where
        `regions_class_order` is given, else "labels". Cases of imagesTs with labels are the split test; those without labels
        have no split.

    Raises:
        DataError: No `dataset.json` or one that describes something else, no case, two files of one channel of a case, or a
            label to be ignored, which comodal does not know.
    """
    options = options or Options()
    file, tree = root / "dataset.json", Tree.scan(root)
    if not file.is_file():
        do = "Give the folder that holds dataset.json, imagesTr and labelsTr"
        raise DataError(message("ROOT", "hold the dataset.json of nnU-Net", "none", do=do, file=str(root)))
    described = read_json_file(file)
    names = channel_names(described, file)
    ending = _ending(described, tree)
    channels, labels, part = _scan(tree, ending, file)
    target = read_labels(described, file)
    notes = [*_check_number(described, labels), *tree.not_followed(), *tree.synthetic()]
    specs, cells = _modalities(names, channels, root, notes)
    ids = sorted({case for found in cells.values() for case in found}, key=natural_key)
    if not ids:
        do = f"Check that imagesTr holds <case>_0000{ending}"
        raise DataError(message("ROOT", "hold cases of nnU-Net", "none", do=do, file=str(root)))
    lost = sorted(set(labels) - set(ids))
    if lost:
        notes.append(f"{len(lost)} label maps have no image and were left out ({', '.join(lost[:3])})")
    column = _fold(root, options.fold, ids) if options.fold is not None else None
    cases = [
        Case.build(
            case,
            cells={**{name: found.get(case, "") for name, found in cells.items()}, "seg": labels.get(case, "")},
            group=_group(case, options.group),
            split=column.get(case, "") if column is not None else part[case] if case in labels else "",
        )
        for case in ids
    ]
    targets = [target] if any("seg" in case.cells for case in cases) else []
    if not targets:
        notes.append("no case has a label map: there is nothing to train on, only to predict")
    meta = CohortMeta(layout="nnunet", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def channel_names(described: Mapping[str, Any], file: Path) -> dict[int, str]:
    """{number: name as a column} of the channels that a `dataset.json` describes; equal names get their number.

    Args:
        described: Its content.
        file: For the error text.

    Raises:
        DataError: No channels, or numbers that are not numbers.

    >>> channel_names({"channel_names": {"0": "CT", "1": "CT", "2": "T1 ce"}}, Path("dataset.json"))
    {0: 'CT-0', 1: 'CT-1', 2: 'T1_ce'}
    """
    given = described.get("channel_names", described.get("modality"))
    try:
        found = {int(number): str(name) for number, name in given.items()}
    except (AttributeError, ValueError, TypeError):
        rule, do = 'have channel_names, such as {"0": "T1"}', "Correct dataset.json"
        raise DataError(message("dataset.json", rule, short(given), do=do, file=str(file))) from None
    plain = {k: re.sub(r"[^0-9A-Za-z_-]+", "_", name).strip("_") or f"channel{k}" for k, name in sorted(found.items())}
    values = [name.lower() for name in plain.values()]
    return {k: f"{name}-{k}" if values.count(name.lower()) > 1 or name == "seg" else name for k, name in plain.items()}


def read_labels(described: Mapping[str, Any], file: Path) -> TargetSpec:
    """The target that a `dataset.json` describes.

    Args:
        described: Its content.
        file: For the error text.

    Raises:
        DataError: Labels that are no numbers, an ignore label, or an order of regions of another length.
    """
    given = described.get("labels")

    def error(rule: str, got: object, do: str = "Correct dataset.json") -> DataError:
        return DataError(message("dataset.json: labels", rule, short(got), do=do, file=str(file)))

    if not isinstance(given, dict) or not given:
        raise error('name the labels, such as {"background": 0, "tumour": 1}', given)
    if all(str(key).isdigit() for key in given):  # version 1: {"0": "background"}
        given = {str(name): int(key) for key, name in given.items()}
    if "ignore" in given:
        do = "Leave those cases out, or decide what the ignored voxels are"
        raise error("be known for every voxel: comodal has no label that is ignored", "an ignore label", do)
    try:
        codes = {str(name): [int(c) for c in (value if isinstance(value, list) else [value])] for name, value in given.items()}
    except (TypeError, ValueError):
        raise error("be integers or lists of integers", given) from None
    regions = {name: values for name, values in codes.items() if values != [0]}
    if not regions:
        raise error("name something beside the background", given)
    order = described.get("regions_class_order")
    if order is None and [0] not in codes.values() and all(len(values) == 1 for values in codes.values()):
        order = [values[0] for values in codes.values()]  # nothing is said of background: regions over it
    if order is None and all(len(values) == 1 for values in codes.values()):
        ordered = dict(sorted(codes.items(), key=lambda item: item[1]))
        classes, paint = list(ordered), [values[0] for values in ordered.values()]
        return TargetSpec(name="seg", kind="labels", classes=classes, codes=list(ordered.values()), paint=paint)
    if not isinstance(order, list) or len(order) != len(regions):
        raise error(f"come with a regions_class_order of {len(regions)} values", order)
    return TargetSpec(
        name="seg", kind="regions", classes=list(regions), codes=list(regions.values()), paint=[int(c) for c in order]
    )


def _ending(described: Mapping[str, Any], tree: Tree) -> str:
    """Of version 2 as stated; version 1 knows .nii.gz only. A folder of .nii that says .nii.gz is read all the same."""
    stated = str(described.get("file_ending", ".nii.gz")).lower()
    if stated == ".nii.gz" and not any(name.lower().endswith(stated) for _, names in tree.folders for name in names):
        return ".nii"
    return stated


def _scan(tree: Tree, ending: str, file: Path) -> tuple[Channels, dict[str, str], dict[str, str]]:
    """Images by channel, label maps by case, and the split of each case by its folder."""
    channels: Channels = {}
    labels: dict[str, str] = {}
    part: dict[str, str] = {}
    for folder, names in tree.folders:
        place = next((found for found in FOLDERS if folder.parent == tree.root and folder.name in found[:2]), None)
        for name in names if place is not None else ():
            assert place is not None
            if not name.lower().endswith(ending):
                continue
            stem, path = name[: -len(ending)], (folder / name).relative_to(tree.root).as_posix()
            match = _NUMBER.fullmatch(stem)
            if folder.name == place[1]:
                _put(labels, stem, path, file, column="seg")
            elif match:
                case, number = match["case"], int(match["channel"])
                _put(channels.setdefault(number, {}), case, path, file, column=f"{number:04}")
                part[case] = place[2]
    return channels, labels, part


def _put(found: dict[str, str], case: str, path: str, file: Path, *, column: str) -> None:
    if case in found:
        got, do = f"{found[case]} and {path}", "Rename one of the two"
        raise DataError(
            message("ROOT", "hold each case once", got, subject=case, modality=column, do=do, file=str(file.parent))
        )
    found[case] = path


def _modalities(
    names: Mapping[int, str], channels: Channels, root: Path, notes: list[str]
) -> tuple[list[ModalitySpec], dict[str, dict[str, str]]]:
    """Specs, and {modality: {case: path}}."""
    present = {k: found for k, found in channels.items() if k in names}
    unknown = sorted(set(channels) - set(names))
    notes += [f"channel {k:04} is not in dataset.json; its {len(channels[k])} files were left out" for k in unknown]
    together = len(names) > 1 and set(present) == {0} and len(names) == _width(present[0], root)
    if together:
        present = dict.fromkeys(names, present[0])
    notes += [f"no case has {names[k]}; it is left out" for k in names if k not in present]
    specs, cells = [], {}
    for k in sorted(present):
        case, path = next(iter(sorted(present[k].items())))
        header = read_header(root / path, channel=k if together else None, subject=case, modality=names[k])
        unit = "HU" if re.fullmatch(r"ct(-\d+)?", names[k], re.IGNORECASE) else None
        dims = 2 if header.shape[2] == 1 else 3
        one = k if together else None
        specs.append(ModalitySpec(name=names[k], spatial_dims=dims, channels=header.channels, unit=unit, channel=one))
        cells[names[k]] = present[k]
    return specs, cells


def _width(found: Mapping[str, str], root: Path) -> int:
    """Channels of the first file."""
    case, path = next(iter(sorted(found.items())))
    return read_header(root / path, subject=case).channels


def _check_number(described: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    stated = described.get("numTraining")
    there = sum(path.startswith("labelsTr/") for path in labels.values())
    if isinstance(stated, int) and stated != there:
        return [f"dataset.json speaks of {stated} training cases; labelsTr holds {there}"]
    return []


def _group(case: str, pattern: str) -> str:
    match = re.search(pattern, case) if pattern else None
    return match[1] if match and match[1] else case


def _fold(root: Path, fold: int, ids: Sequence[str]) -> dict[str, str]:
    """{case: split} of one fold of `splits_final.json`."""
    places = (root / "splits_final.json", root.parent.parent / "nnUNet_preprocessed" / root.name / "splits_final.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        do = "Put splits_final.json beside dataset.json, or leave the option out"
        raise DataError(message("layout nnunet: fold", "be one of splits_final.json", "no such file", do=do, file=str(root)))
    try:
        chosen = read_json_file(file, list)[fold]
        parts = {"train": [str(case) for case in chosen["train"]], "test": [str(case) for case in chosen["val"]]}
    except (LookupError, TypeError):
        do = "Choose another fold, or leave the option out"
        raise DataError(message("splits_final.json", f"have a fold {fold}", "none", do=do, file=str(file))) from None
    known = set(ids)
    return {case: part for part, cases in parts.items() for case in cases if case in known}
