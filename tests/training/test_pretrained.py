"""Weights to start from: found, checked before anything is written, taken once, and noted."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.training.fakes import write_config

from comodal.config import load_config
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.errors import ConfigError
from comodal.networks.encoders import ImageEncoder
from comodal.run import Run, read_weights
from comodal.training import pretrained
from comodal.training.events import Event, Said
from comodal.training.pretrained import find_weights
from comodal.training.train import train_run


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small volumes of two classes."""
    folder = tmp_path_factory.mktemp("scans")
    cases = []
    for number in range(8):
        image = np.random.default_rng(number).normal(size=(16, 16, 8)) + (number % 2) * 2
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / f"{number}.nii")
        cases.append(Case.build(f"p{number}", cells={"scan": f"{number}.nii", "grade": ("low", "high")[number % 2]}))
    target = TargetSpec(name="grade", kind="class", classes=["low", "high"])
    meta = CohortMeta(layout="csv", root=str(folder), modalities=[ModalitySpec(name="scan")], targets=[target])
    return Cohort.build(meta, cases, folder).save(folder / "cohort.csv")


def values_for(cohort: Path, source: str, **more: Any) -> dict[str, Any]:
    method = {"name": "classifier", "encoder": "resnet10-quarter", "slices": "mean", "steps": 2}
    return {
        "cohort": str(cohort),
        "method": {**method, "pretrained": {"scan": source}, "rate": 1e-9, **more},
        "data": {"patch": [16, 16, 8], "normalise": {"scan": "none"}, "augment": "none"},
        "splits": {"fractions": [0.5, 0.25, 0.25]},
        "training": {"batch_size": 2, "threads": 1, "device": "cpu", "validations": 0, "checkpoint_steps": 1},
    }


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a picture network of three channels, as somebody else saved it."""
    torch.manual_seed(7)
    network = ImageEncoder("resnet10-quarter", 2, 3).network
    file = tmp_path / "theirs.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in network.state_dict().items()}, file)
    return file


def test_a_training_starts_from_them_and_the_run_says_so(scans: Path, weights: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    config = load_config(write_config(tmp_path / "config.yaml", values_for(scans, str(weights))))
    run = train_run(config, tmp_path / "run", emit=events.append)
    said = [event.text for event in events if isinstance(event, Said)]
    wanted = (
        f"took 60 of 60 tensors of encoder.encoders.scan from {weights}; its first convolution was brought from 3 channels to 1"
    )
    assert [text for text in said if text.startswith(wanted)] and len([t for t in said if "took" in t]) == 1
    mine, theirs = read_weights(run.path / "weights.safetensors"), read_weights(weights)
    torch.testing.assert_close(
        mine["encoder.encoders.scan.network.layer4.0.conv1.weight"], theirs["module.layer4.0.conv1.weight"], atol=1e-5, rtol=0
    )  # after two steps at a rate of nothing
    first = theirs["module.conv1.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(mine["encoder.encoders.scan.network.conv1.weight"], first, atol=1e-5, rtol=0)
    noted = json.loads((run.path / "environment.json").read_text())["pretrained"]
    assert noted == [
        {
            "into": "encoder.encoders.scan",
            "source": str(weights),
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "tensors": 60,
            "of": 60,
            "first_convolution": "3 channels to 1",
        }
    ]
    weights.unlink()
    assert Run.load(tmp_path / "run").method() is not None  # a finished run needs nothing but its folder


def test_what_goes_on_needs_them_no_more(scans: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", values_for(scans, str(weights), rate=1e-3, steps=3)))
    whole = train_run(config, tmp_path / "whole")
    from comodal.training import train

    monkeypatch.setattr(train, "_finish", _killed)
    with pytest.raises(KeyboardInterrupt):
        train_run(config, tmp_path / "run")
    monkeypatch.undo()
    weights.unlink()
    again = train_run(config, tmp_path / "run", resume=True)
    assert (again.path / "weights.safetensors").read_bytes() == (whole.path / "weights.safetensors").read_bytes()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            None,
            r"method\.pretrained must name a \.safetensors file, a folder with model\.safetensors, or owner/name on the hub",
        ),
        (b"not at all", r"method\.pretrained must be an intact safetensors file"),
        (
            {"other.weight": torch.zeros(3)},
            r"must fit at least half of the tensors of resnet10-quarter; got 0 of 60; here: conv1",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_written(scans: Path, tmp_path: Path, make: Any, says: str) -> None:
    file = tmp_path / "weights.safetensors"
    if isinstance(make, bytes):
        file.write_bytes(make)
    elif make is not None:
        save_file(make, file)
    config = load_config(write_config(tmp_path / "config.yaml", values_for(scans, str(file))))
    with pytest.raises(ConfigError, match=says):
        train_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_modality_without_an_encoder_of_images(scans: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", values_for(scans, "a/b")), ["method.pretrained={scam: a/b}"])
    with pytest.raises(
        ConfigError, match=r"method\.pretrained must name modalities of the problem; got 'scam'\. Did you mean scan"
    ):
        train_run(config, tmp_path / "run")


# ------------------------------------------------------------------------------------------------------ where they are
def test_a_folder_is_its_model_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find_weights(str(tmp_path)) == tmp_path / "model.safetensors"


def test_pickles_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"must be a \.safetensors file; got model\.bin .* Convert it with safetensors"):
        find_weights(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("source", ["theirs.safetensors", "./a/b", "/a/b", "a/b/c", "../a", "a", "a/b.safetensors", "a/b@"])
def test_what_is_no_id_is_a_path(source: str) -> None:
    with pytest.raises(ConfigError, match=r"must name a \.safetensors file"):
        find_weights(source)


class Hub:
    """huggingface_hub as far as it is used."""

    def __init__(self, answer: Path | Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer, self.asked = answer, list[tuple[str, str, str | None]]()
        module, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
        module.hf_hub_download = self.download  # type: ignore[attr-defined]
        errors.HfHubHTTPError = type("HfHubHTTPError", (OSError,), {})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)

    def download(self, name: str, file: str, revision: str | None = None) -> str:
        self.asked.append((name, file, revision))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def test_an_id_is_fetched_as_safetensors_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "model.safetensors", monkeypatch)
    assert find_weights("timm/resnet18.a1_in1k") == tmp_path / "model.safetensors"
    find_weights("facebook/dinov2-small@refs/pr/3")
    assert hub.asked == [
        ("timm/resnet18.a1_in1k", "model.safetensors", None),
        ("facebook/dinov2-small", "model.safetensors", "refs/pr/3"),
    ]


def test_offline_there_is_one_thing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(OSError("no route to host"), monkeypatch)
    says = r"got 'a/b' \(OSError: no route to host\)\. Check the id and the network, or download model\.safetensors"
    with pytest.raises(ConfigError, match=says):
        find_weights("a/b")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"huggingface_hub is not installed; got 'a/b'\. Install comodal\[pretrained\]"):
        find_weights("a/b")
    assert pretrained.FILE == "model.safetensors"
