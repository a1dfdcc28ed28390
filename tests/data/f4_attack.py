"""Entries of F4 about hostile input: paths, archives, pickles, tags, depth, addresses, identifiers of patients."""

from __future__ import annotations

import io
import json
import os
import pickle  # noqa: TID251  to write what must be refused
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from tests.data.f4_scene import LEVELS, Entry, Outcome, checked, cohort_in, file, image, refused

from comodal.cli.main import COMMANDS
from comodal.config import load_config
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec
from comodal.data.integrity import check_cohort
from comodal.run import read_json, read_weights


class Mark:
    """Unpickled, it makes a file; no test may find that file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("unpickled",))


def _pickle() -> bytes:
    return pickle.dumps({"weight": Mark()})


def _zip(content: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return out.getvalue()


def _never_unpickled(outcome: Outcome) -> Outcome:
    assert not Path("unpickled").exists()
    return outcome


def _cell(path: str) -> Callable[[Path], Outcome]:
    """A path in the table that leads elsewhere; a file lies there."""

    def run(root: Path) -> Outcome:
        (root / "data").mkdir()
        cohort = cohort_in(root / "data")
        (root / "secret.nii.gz").write_bytes((root / "data" / "0_t1.nii.gz").read_bytes())
        csv = cohort.save(root / "data" / "cohort.csv")
        cell = path.format(root=root)
        csv.write_text(csv.read_text().replace("0_t1.nii.gz", cell))
        outcome = refused(lambda: Cohort.load(csv))
        outcome = outcome if outcome.level == "E" else checked(Cohort.load(csv), column="t1")
        return Outcome(outcome.level, outcome.text.replace(str(csv), "cohort.csv").replace(str(root), "/elsewhere"))

    return run


def _address(root: Path) -> Outcome:
    """An address is never opened: no socket is asked for."""
    with mock.patch("socket.socket", side_effect=AssertionError("the network was used")):
        return _cell("http://169.254.169.254/latest/meta-data.nii.gz")(root)


def _link_out(root: Path) -> Outcome:
    (root / "data").mkdir()
    cohort = cohort_in(root / "data")
    (root / "data" / "0_t1.nii.gz").rename(root / "secret.nii.gz")
    (root / "data" / "0_t1.nii.gz").symlink_to(root / "secret.nii.gz")
    outcome = checked(cohort, column="t1")
    return Outcome(outcome.level, outcome.text.replace(str(root), "/elsewhere"))


def _npy(root: Path) -> Outcome:
    np.save(root / "0.npy", np.array([Mark()], dtype=object), allow_pickle=True)
    np.save(root / "1.npy", np.arange(3.0))
    spec = ModalitySpec(name="genes", kind="features", spatial_dims=0, channels=3)
    cases = [Case.build(f"p{k}", cells={"genes": f"{k}.npy"}) for k in range(2)]
    return _never_unpickled(checked(Cohort.build(CohortMeta(layout="csv", root="", modalities=[spec]), cases, root)))


def _weights(content: bytes) -> Callable[[Path], Outcome]:
    def run(root: Path) -> Outcome:
        (root / "weights.safetensors").write_bytes(content)
        return _never_unpickled(refused(lambda: read_weights(root / "weights.safetensors")))

    return run


def _safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


TENSOR = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
LYING = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}


def _yaml_of_a_cohort(root: Path) -> Outcome:
    csv = cohort_in(root).save(root / "cohort.csv")
    yaml = csv.with_suffix(".yaml")
    yaml.write_text(yaml.read_text() + "notes: !!python/object/apply:os.mkdir [unpickled]\n")
    return _never_unpickled(refused(lambda: Cohort.load(csv)))


def _configuration(text: str) -> Callable[[Path], Outcome]:
    def run(root: Path) -> Outcome:
        (root / "c.yaml").write_text(f"cohort: c.csv\nmethod: {{name: unet}}\n{text}\n")
        return _never_unpickled(refused(lambda: load_config(root / "c.yaml")))

    return run


def _deep(root: Path) -> Outcome:
    (root / "splits.json").write_bytes(b"[" * 200_000 + b"]" * 200_000)
    return refused(lambda: read_json(root / "splits.json", "splits.json"))


def _no_upload(_: Path) -> Outcome:
    assert not {"serve", "view"} & set(COMMANDS)
    return Outcome("n/a", "comodal has no server: nothing can be sent to it")


def _dicom(root: Path) -> Outcome:
    """A damaged DICOM file: what is said of it names neither the patient nor the number in its header."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
    cohort = cohort_in(root)
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Doe^Jane", "MRN4711", "19700101"
    dataset.Rows, dataset.Columns, dataset.BitsAllocated = 4, 4, 16
    dataset.PixelData = b"\0" * 6
    dataset.save_as(root / "0_t1.nii.gz", enforce_file_format=True)
    report = check_cohort(cohort)
    for word in ("Doe", "Jane", "MRN4711", "19700101"):
        assert not any(word in text for defect in report.defects for text in (defect.rule, defect.do))
    found = next(defect for defect in report.defects if defect.modality == "t1")
    assert LEVELS[found.level] == "E"
    return Outcome("H", "nothing of the header is repeated")


def _archive(content: Callable[[], bytes]) -> tuple[Callable[[Path], Outcome], Callable[[Path], Path]]:
    """An archive or a pickle in the place of an image."""

    def build(path: Path) -> None:
        path.write_bytes(content())

    return lambda root: _never_unpickled(image(build)(root)), file(build)


ATTACKS = (
    Entry("attack-dotdot", "Attack", "`../` in a path", "E", _cell("../secret.nii.gz")),
    Entry("attack-absolute", "Attack", "absolute path", "E", _cell("{root}/secret.nii.gz")),
    Entry("attack-link", "Attack", "link out of the root", "E", _link_out),
    Entry(
        "attack-zip-slip",
        "Attack",
        "archive with `../` names, as an image (comodal unpacks none)",
        "E",
        *_archive(lambda: _zip({"../../evil": b"x"})),
    ),
    Entry(
        "attack-zip-bomb",
        "Attack",
        "archive of 50 MB of zeros, as an image",
        "E",
        *_archive(lambda: _zip({"a": bytes(50_000_000)})),
    ),
    Entry("attack-pickle", "Attack", "pickle (.pt, .ckpt) as an image", "E", *_archive(_pickle)),
    Entry("attack-npy-object", "Attack", ".npy with objects", "E", _npy),
    Entry("attack-pickle-weights", "Attack", "pickle as weights", "E", _weights(_pickle())),
    Entry("attack-torch-weights", "Attack", "torch file as weights", "E", _weights(_zip({"archive/data.pkl": _pickle()}))),
    Entry("attack-offsets", "Attack", "safetensors with lying offsets", "E", _weights(_safetensors(LYING, bytes(8)))),
    Entry(
        "attack-huge-header",
        "Attack",
        "safetensors with a huge header",
        "E",
        _weights(_safetensors(TENSOR, bytes(8), length=2**63)),
    ),
    Entry("attack-yaml-cohort", "Attack", "YAML tag in a cohort", "E", _yaml_of_a_cohort),
    Entry(
        "attack-yaml-config",
        "Attack",
        "YAML tag in a configuration",
        "E",
        _configuration("training: !!python/object/apply:os.mkdir [unpickled]"),
    ),
    Entry("attack-target", "Attack", "`_target_` in a configuration", "E", _configuration("_target_: os.mkdir")),
    Entry("attack-dollar", "Attack", "`$` in a configuration", "E", _configuration("$import: os")),
    Entry("attack-depth", "Attack", "JSON of 200,000 brackets", "E", _deep),
    Entry("attack-address", "Attack", "address of a server in a table", "E", _address),
    Entry("attack-upload", "Attack", "oversized or slow upload", "n/a", _no_upload),
    Entry("attack-phi", "Attack", "name of a patient in a damaged DICOM file", "H", _dicom),
)
