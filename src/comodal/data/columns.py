"""What the columns of a cohort mean: `ModalitySpec`, `TargetSpec`, and the yaml that holds them, `CohortMeta`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from comodal.errors import ConfigError, DataError, message, nearest, short
from comodal.modality import Kind, Modality, Target, TargetKind

RESERVED = ("subject", "session", "group", "site", "split")


class ModalitySpec(BaseModel):
    """One modality column of a cohort: a `Modality`, and how its cells are read.

    Attributes:
        name: The column.
        kind: "image", "text" (path of a .txt), "features" (path of a .npy) or "bag".
        spatial_dims: See `Modality`, as for channels, unit and grid.
        channels: Channels of an image, length of a vector.
        unit: "HU", "SUV" or None.
        grid: Name shared by co-registered images.
        files: Where a cell names a folder: pattern of the names of its slices ("*_flair.png").
        channel: Where a file holds several modalities as channels (RGB slices): which one this is, from 0.
        inline: Cells hold the content itself (a text, or numbers separated by ";") and not the path of a file.
        sections: Of reports (XML of Open-I, or titles in capitals): the sections that are read, in this order; all where empty.
        tile: Of bags whose cell is one large picture or slide: pixels along X and Y of each item.
        microns: Of the same: micrometres per pixel at which a slide is read; None reads its finest level.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Kind = "image"
    spatial_dims: int = 3
    channels: int = Field(1, ge=1)
    unit: str | None = None
    grid: str = "grid"
    files: str = ""
    channel: int | None = Field(None, ge=0)
    inline: bool = False
    sections: list[str] = []
    tile: int = Field(0, ge=0)
    microns: float | None = Field(None, gt=0)

    @property
    def modality(self) -> Modality:
        """What methods see of it."""
        return Modality(self.name, self.kind, self.spatial_dims, self.channels, self.unit, self.grid)


class TargetSpec(BaseModel):
    """One target column of a cohort: a `Target`, and how its cells are read.

    Cells of "class" and "ordinal" hold the name of the class; of "multilabel" the names that apply, joined by ";", or "-" for
    none; "?edema" among them says that nobody knows of edema. A blank cell is unlabelled. Cells of "regions" and "labels" are
    paths.

    Attributes:
        name: The column.
        kind: See `Target`, as for classes, codes and paint.
        classes: Names of the classes or regions.
        codes: Label values that make up each class.
        paint: Label value written for each class.
        other: Of regions: further label values that the files may hold and that count as background, because they are known
            and not asked for. A value that is named nowhere is an error.
        files: As in `ModalitySpec`.
        channel: As in `ModalitySpec`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: TargetKind
    classes: list[str]
    codes: list[list[int]] = []
    paint: list[int] = []
    other: list[int] = []
    files: str = ""
    channel: int | None = Field(None, ge=0)

    @property
    def target(self) -> Target:
        """What methods see of it."""
        return Target(self.name, self.kind, tuple(self.classes), tuple(map(tuple, self.codes)), tuple(self.paint))

    @property
    def is_segmentation(self) -> bool:
        """True where cells are paths of label maps."""
        return self.target.is_segmentation


class CohortMeta(BaseModel):
    """The file `X.yaml` beside `X.csv`.

    Attributes:
        schema_version: 1; written as `schema`.
        layout: The layout that it was indexed from.
        root: Folder that the paths start from: absolute, or relative to the folder of the yaml. Absolute once loaded.
        modalities: In canonical order: every table, subset and tensor axis follows it.
        targets: What can be predicted.
        notes: What was guessed or found odd, one sentence each.
        withheld: {modality or target: {case id: cell}} of what a training was told to do without
            (`comodal.data.withholding`); the cells themselves are blank. Only a run's own copy has some.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    layout: str
    root: str
    modalities: list[ModalitySpec] = Field(min_length=1)
    targets: list[TargetSpec] = []
    notes: list[str] = []
    withheld: dict[str, dict[str, str]] = {}

    @property
    def columns(self) -> tuple[ModalitySpec | TargetSpec, ...]:
        """Modalities, then targets."""
        return (*self.modalities, *self.targets)

    @model_validator(mode="after")
    def _check(self) -> CohortMeta:
        names = [spec.name for spec in self.columns]
        for name in names:
            if names.count(name) > 1 or name in RESERVED:
                raise ValueError(f"the name {name!r} must be used once and be none of {', '.join(RESERVED)}")
        for spec in self.columns:
            if "/" in spec.files or "\\" in spec.files or ".." in spec.files:
                raise ValueError(f"files of {spec.name} must be a pattern of names, not of paths; got {spec.files!r}")
        for modality in self.modalities:
            _ = modality.modality
            if modality.inline and modality.kind not in ("text", "features"):
                raise ValueError(f"inline of {modality.name} must be false for the kind {modality.kind!r}")
        for target in self.targets:
            if target.is_segmentation and not target.codes:
                raise ValueError(f"codes of {target.name} must name the label values of each class")
            if target.other and (target.kind != "regions" or {c for group in target.codes for c in group} & {*target.other}):
                raise ValueError(f"other of {target.name} must be label values of regions that are in no class")
        return self


def read_meta(path: Path) -> CohortMeta:
    """Reads `X.yaml`; plain values only, tags that would build objects are refused.

    Raises:
        ConfigError: No such file, not YAML, or not the yaml of a cohort.
    """
    do = f"Make it with `comodal index`, which writes {path.with_suffix('.csv').name} and {path.name} together"
    if not path.is_file():
        raise ConfigError(message("cohort", "have a yaml beside its csv", "none", do=do, file=str(path)))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(message("cohort", "be plain YAML", str(error).splitlines()[0], do=do, file=str(path))) from None
    try:
        return CohortMeta.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "cohort"
        if first["type"] == "value_error":  # raised here, and already a whole sentence
            rule, got = "follow the schema of cohorts", first["msg"].removeprefix("Value error, ")
        else:
            known = {"extra_forbidden": "be one of the keys of cohorts", "missing": "be there"}
            rule = known.get(first["type"], re.sub("^(Input|List) should ", "", first["msg"]))
            got = "nothing" if first["type"] == "missing" else short(first["input"])
        raise ConfigError(message(where, rule, got, do=do, file=str(path))) from None


def label_indices(spec: TargetSpec, cell: str, *, subject: str = "") -> tuple[int, ...]:
    """Positions in `spec.classes` of what a cell of a class, ordinal or multilabel target names.

    Args:
        spec: The target.
        cell: Not blank. One class name; for multilabel several, joined by ";", or "-" for none.
        subject: For the error text.

    Raises:
        DataError: A name that is not among the classes.

    >>> label_indices(TargetSpec(name="finding", kind="multilabel", classes=["edema", "effusion"]), "effusion; ?edema")
    (1,)
    """
    names = [name for name in _named(spec, cell, subject) if not _unknown(spec, name)]
    return tuple(i for i, name in enumerate(spec.classes) if name in names)


def unknown_indices(spec: TargetSpec, cell: str, *, subject: str = "") -> tuple[int, ...]:
    """Positions in `spec.classes` of which a cell of a multilabel target says that nobody knows: "?edema".

    Args:
        spec: The target.
        cell: As for `label_indices`.
        subject: For the error text.

    Raises:
        DataError: A name that is not among the classes.

    >>> unknown_indices(TargetSpec(name="finding", kind="multilabel", classes=["edema", "effusion"]), "effusion; ?edema")
    (0,)
    """
    names = [name[1:].strip() for name in _named(spec, cell, subject) if _unknown(spec, name)]
    return tuple(i for i, name in enumerate(spec.classes) if name in names)


def _unknown(spec: TargetSpec, name: str) -> bool:
    return spec.kind == "multilabel" and name.startswith("?") and name not in spec.classes


def _named(spec: TargetSpec, cell: str, subject: str) -> list[str]:
    """What a cell lists, each a class or, with a question mark, one that is not known."""
    several = spec.kind == "multilabel"
    names = [] if several and cell == "-" else [name.strip() for name in cell.split(";")] if several else [cell]
    for name in names:
        plain = name[1:].strip() if _unknown(spec, name) else name
        if plain not in spec.classes:
            rule, do = "name a class of its yaml", nearest(plain, spec.classes)
            raise DataError(message("cohort", rule, repr(name), subject=subject, modality=spec.name, do=do))
    return names
