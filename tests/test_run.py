"""A run folder is data: it comes back as it was written, and nothing that a hostile one holds is run."""

from __future__ import annotations

import io
import json
import os
import pickle  # noqa: TID251  # to make hostile files
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from comodal.config import RunConfig, validated
from comodal.data.cohort import Case, Cohort, CohortMeta
from comodal.data.columns import ModalitySpec, TargetSpec
from comodal.data.preprocessing import Fitted
from comodal.data.text import Tokenizer
from comodal.errors import ComodalError, ConfigError, DataError, RunError
from comodal.run import Run, check_folder, environment, read_json, read_weights, save_weights
from comodal.study.evaluating import evaluate_run

SPLITS = {"train": ["1", "2"], "val": ["3"], "test": ["4"]}


def make_run(root: Path, *, weights: bool = True, text: bool = False) -> Run:
    """A run as training leaves it, of a network that never learned."""
    specs = [ModalitySpec(name="flair"), ModalitySpec(name="t1")]
    specs += [ModalitySpec(name="report", kind="text", spatial_dims=0)] if text else []
    seg = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]], paint=[1])
    meta = CohortMeta(layout="csv", root=".", modalities=specs, targets=[seg])
    cases = [Case.build(str(k), cells={"flair": f"{k}.nii", "seg": f"{k}-seg.nii"}) for k in range(1, 5)]
    values = {
        "cohort": "elsewhere.csv",
        "method": {"name": "unet", "width": 2, "levels": 2},
        "data": {"spatial_dims": 2, "patch": [8, 8]},
    }
    config = validated(RunConfig, values, "config").resolved()
    tokenizer = Tokenizer(words=("mass",)) if text else None
    cohort = Cohort.build(meta, cases, root / "files")
    run = Run.create(root / "run", config, cohort, splits=SPLITS, fitted=Fitted(), tokenizer=tokenizer)
    if weights:
        torch.manual_seed(0)
        from comodal.config import build_method

        save_weights(run.path / "weights.safetensors", build_method(run.config, run.problem).state_dict())
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path).path


@pytest.fixture(autouse=True)
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the hostile files try to make; it must not exist after any test."""
    file = tmp_path / "ran"
    monkeypatch.setenv("MARK", str(file))
    yield file
    assert not file.exists(), "something in the run folder was run"


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ('touch "$MARK"',)


# ------------------------------------------------------------------------------------------------------- as it was written
def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = make_run(tmp_path, text=True, weights=False)
    again = Run.load(run.path)
    assert again.config == run.config and again.config.cohort == "cohort.csv"
    assert again.cohort == run.cohort and again.cohort.root == tmp_path / "files"
    assert again.splits == SPLITS
    assert again.tokenizer == run.tokenizer
    assert again.problem.vocabulary == 4  # padding, unknown, start and one word
    assert again.label == "unet"
    assert again.results() is None


def test_the_weights_carry_the_method_to_the_bit(folder: Path) -> None:
    first, second = Run.load(folder).method(), Run.load(str(folder)).method()
    assert not first.training
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


def test_the_cache_is_the_folders_own_unless_configured(folder: Path) -> None:
    assert Run.load(folder).cache == folder / "cache"
    rewrite(folder, data={"spatial_dims": 2, "patch": [8, 8], "cache": "/somewhere"})
    assert Run.load(folder).cache == Path("/somewhere")


def test_a_run_that_is_used_keeps_no_images(folder: Path, tmp_path: Path) -> None:
    """Where its configuration says to keep them does not count: it may be somebody else's, or hostile."""
    rewrite(folder, data={"spatial_dims": 2, "patch": [8, 8], "cache": str(tmp_path / "elsewhere")})
    run, before = Run.load(folder), sorted(os.listdir(folder))
    with run.cache_for() as place:
        assert place.parent == folder and not os.listdir(place)
        (place / "image.npy").write_bytes(b"image")
    assert sorted(os.listdir(folder)) == before and not (tmp_path / "elsewhere").exists()
    with pytest.raises(KeyboardInterrupt), run.cache_for() as place:
        raise KeyboardInterrupt
    assert sorted(os.listdir(folder)) == before
    with run.cache_for(tmp_path / "told") as place:
        assert place == tmp_path / "told"
        place.mkdir()
    assert place.is_dir()


def test_dropping_the_cache_leaves_configured_and_linked_folders_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.npy").touch()
    (folder / "cache" / "ab").mkdir(parents=True)
    rewrite(folder, data={"spatial_dims": 2, "patch": [8, 8], "cache": str(tmp_path / "mine")})
    Run.load(folder).drop_cache()
    assert not (folder / "cache").exists() and os.listdir(tmp_path / "mine") == ["a.npy"]
    (folder / "cache").symlink_to(tmp_path / "mine")
    Run.load(folder).drop_cache()
    assert not (folder / "cache").is_symlink() and os.listdir(tmp_path / "mine") == ["a.npy"]


# --------------------------------------------------------------------------------------------------- where a run may be made
def test_a_run_is_made_in_no_folder_of_something_else(tmp_path: Path) -> None:
    mine = tmp_path / "run" / "cohort.csv"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(ConfigError) as caught:
        make_run(tmp_path)
    place = f"[file {tmp_path / 'run'}]"
    expected = (
        f"--out must be a new folder, an empty one or a run; got one that holds cohort.csv {place}. Choose another folder."
    )
    assert str(caught.value) == expected
    assert os.listdir(mine.parent) == ["cohort.csv"] and mine.read_text() == "mine"
    mine.unlink()
    make_run(tmp_path)  # empty now
    make_run(tmp_path)  # and a run now
    check_folder(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"--out must be a folder; got a file \[file .*config.yaml\]\. Choose another name\."):
        check_folder(tmp_path / "run" / "config.yaml")


@pytest.mark.parametrize("count", range(1, 7))
def test_a_creation_that_was_killed_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Killed at each of the six files that make a run folder, with the half-written one left behind."""
    replace, seen = os.replace, [0]

    def dies(source: str, target: str) -> None:
        seen[0] += 1
        if seen[0] == count:
            Path(f"{source}.left.partial").touch()
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path, weights=False)
    monkeypatch.setattr(os, "replace", replace)
    assert not (tmp_path / "run" / "config.yaml").exists()
    run = make_run(tmp_path, weights=False)
    names = ["cohort.csv", "cohort.yaml", "config.yaml", "environment.json", "preprocessing.json", "splits.json"]
    assert sorted(os.listdir(run.path)) == names


def test_weights_of_all_kinds_survive(tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(2)
    shared = {
        "a": torch.arange(6.0).reshape(2, 3).T,
        "b": torch.tensor(3),
        "c": torch.zeros(0),
        "d": torch.ones(2, dtype=torch.bfloat16),
    }
    save_weights(tmp_path / "w.safetensors", {**norm.state_dict(), **shared, "again": shared["a"]})
    found = read_weights(tmp_path / "w.safetensors")
    assert set(found) == {*norm.state_dict(), *shared, "again"}
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in shared.items())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.safetensors"
    save_weights(file, {"a": torch.ones(1)})

    def full(*_: object) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr("comodal.run.save", full)
    with pytest.raises(OSError, match="disk full"):
        save_weights(file, {"a": torch.zeros(1)})
    assert read_weights(file)["a"].tolist() == [1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_environment_names_versions_and_no_machine() -> None:
    found = environment()
    assert found["packages"]["torch"] == torch.__version__.split("+")[0] or found["packages"]["torch"] == torch.__version__
    text = json.dumps(found)
    assert os.uname().nodename not in text and str(Path.home()) not in text


# ------------------------------------------------------------------------------------------------------- damaged folders
def rewrite(folder: Path, **changes: Any) -> None:
    values = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**values, **changes}))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        Run.load(tmp_path)
    expected = f"RUN must be a run folder with a config.yaml; got '{tmp_path}'. Give the folder that comodal train wrote."
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        (
            "splits.json",
            RunError,
            r"splits.json must be a file of the run of at most 200000000 bytes; got no file .* Copy the run",
        ),
        (
            "preprocessing.json",
            RunError,
            r"preprocessing.json must be a file of the run of at most 200000000 bytes; got no file",
        ),
        ("cohort.csv", ComodalError, r"cohort"),
        ("cohort.yaml", ConfigError, r"cohort must have a yaml beside its csv; got none"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, error: type[Exception], text: str) -> None:
    (folder / name).unlink()
    with pytest.raises(error, match=text):
        Run.load(folder)


def test_a_run_without_weights_was_not_trained_to_its_end(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(RunError) as caught:
        Run.load(folder).method()
    assert str(caught.value) == (
        f"RUN must have been trained to its end; got no weights.safetensors [file {folder}]. "
        "Finish the training with comodal train --resume."
    )


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    rewrite(folder, method={"name": "unet", "width": 3, "levels": 2})
    with pytest.raises(
        RunError, match=r"weights must fit the configuration; got unet\..*: \(2,\) instead of \(3,\) .*Take weights and"
    ):
        Run.load(folder).method()


@pytest.mark.parametrize(("change", "text"), [("lack", "missing instead of"), ("add", r"extra: \(1,\) instead of nothing")])
def test_weights_that_lack_or_add_something_are_refused(folder: Path, change: str, text: str) -> None:
    weights = read_weights(folder / "weights.safetensors")
    if change == "lack":
        weights.pop(next(iter(weights)))
    else:
        weights["extra"] = torch.zeros(1)
    save_weights(folder / "weights.safetensors", weights)
    with pytest.raises(RunError, match=rf"weights must fit the configuration; got .*{text}"):
        Run.load(folder).method()


@pytest.mark.parametrize(
    ("splits", "text"),
    [
        ([], "splits.json must map split names to lists of case ids; got []"),
        ({"test": "1"}, "splits.json must map split names to lists of case ids; got {'test': '1'}"),
        ({"test": [1]}, "splits.json must map split names to lists of case ids; got {'test': [1]}"),
        ({"test": [["1"]]}, "splits.json must map split names to lists of case ids; got {'test': [['1']]}"),
    ],
)
def test_splits_are_lists_of_names(folder: Path, splits: Any, text: str) -> None:
    (folder / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(RunError) as caught:
        Run.load(folder)
    assert str(caught.value).startswith(text)


def test_a_split_or_case_that_does_not_exist_is_named(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--split must be a split of the run; got 'tset'. Did you mean test\? Known: all, test, train, val"
    ):
        evaluate_run(Run.load(folder), split="tset", device="cpu")
    (folder / "splits.json").write_text(json.dumps({"test": ["9"]}))
    with pytest.raises(DataError, match="9"):
        evaluate_run(Run.load(folder), device="cpu")


def test_a_damaged_vocabulary_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, text=True, weights=False)
    (run.path / "tokenizer" / "vocabulary.json").write_text('{"words": ["a", "a"]}')
    with pytest.raises(RunError, match=r"vocabulary.json must hold the words of a trained run; got .*words must be distinct"):
        Run.load(run.path)


# ------------------------------------------------------------------------------------------------------- hostile folders
@pytest.mark.parametrize("file", ["config.yaml", "cohort.yaml"])
@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch \"$MARK\"']",
        "!!python/object/new:os.system ['touch \"$MARK\"']",
        "!!python/object/apply:subprocess.check_call [['touch', 'ran']]",
        "!!python/name:os.system",
    ],
)
def test_a_yaml_tag_builds_nothing(folder: Path, file: str, tag: str) -> None:
    with (folder / file).open("a") as stream:
        stream.write(f"\nnotes: {tag}\n")
    with pytest.raises(ConfigError, match=r"must be plain YAML; got could not determine a constructor for the tag"):
        Run.load(folder)


@pytest.mark.parametrize(
    "name", ["os:system", "os.system", "comodal.methods.unet:UNet", "builtins:eval", "../../evil", "__import__"]
)
def test_a_method_is_a_name_of_the_table_and_nothing_else_is_imported(folder: Path, name: str) -> None:
    rewrite(folder, method={"name": name})
    with pytest.raises(ConfigError, match=r"method.name must be a known method; got .*Known: .*moddrop.* unet"):
        Run.load(folder)


@pytest.mark.parametrize("key", ["_target_", "__class__", "_partial_", "class_path"])
def test_keys_that_build_objects_elsewhere_are_unknown_here(folder: Path, key: str) -> None:
    rewrite(folder, method={"name": "unet", key: "os.system", "width": 2, "levels": 2})
    with pytest.raises(ConfigError, match=rf"method.{key} must be a known key; got '{key}'"):
        Run.load(folder)
    rewrite(folder, method={"name": "unet"}, **{key: "os.system"})
    with pytest.raises(ConfigError, match=rf"config.{key} must be a known key; got '{key}'"):
        Run.load(folder)


def _pickled() -> bytes:
    return pickle.dumps({"weight": Bomb()})


def _torch_zip() -> bytes:
    """What torch.save writes: a zip with a pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(), protocol=2))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def _header(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file: eight bytes of length, a JSON header, the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "a pickle": _pickled(),
    "a torch file": _torch_zip(),
    "nothing": b"",
    "half a length": b"\x08\x00",
    "a header longer than the file": _header({"a": TENSOR}, b"\0" * 8, length=10_000),
    "a header of 2^63 bytes": _header({"a": TENSOR}, b"\0" * 8, length=2**63),
    "a header of 150 MB": _header({"a": TENSOR}, b"\0" * 8, length=150_000_000),
    "no JSON": _header(b"{not json"),
    "a list": _header([1, 2]),
    "nesting without end": _header(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "offsets beyond the file": _header({"a": {**TENSOR, "data_offsets": [0, 80]}}, b"\0" * 8),
    "offsets backwards": _header({"a": {**TENSOR, "data_offsets": [8, 0]}}, b"\0" * 8),
    "negative offsets": _header({"a": {**TENSOR, "data_offsets": [-8, 0]}}, b"\0" * 8),
    "a shape that does not fit": _header({"a": {**TENSOR, "shape": [4000]}}, b"\0" * 8),
    "a shape that overflows": _header({"a": {**TENSOR, "shape": [2**62, 8]}}, b"\0" * 8),
    "tensors on top of each other": _header({"a": TENSOR, "b": TENSOR}, b"\0" * 8),
    "a hole": _header({"a": TENSOR}, b"\0" * 64),
    "an unknown type": _header({"a": {**TENSOR, "dtype": "OBJECT"}}, b"\0" * 8),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(RunError) as caught:
        Run.load(folder).method()
    assert str(caught.value).startswith("weights must be an intact safetensors file; got ")
    assert str(caught.value).endswith(f"[file {folder / 'weights.safetensors'}]. Copy the run again, or train it again.")


def test_truncated_weights_are_refused(folder: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[:-1])
    with pytest.raises(RunError, match="weights must be an intact safetensors file"):
        Run.load(folder).method()


@pytest.mark.parametrize("file", ["splits.json", "preprocessing.json"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"test":' + b"[" * 200_000 + b"]" * 200_000 + b"}", r"must be plain JSON; got maximum recursion depth exceeded"),
        (b"{", r"must be plain JSON; got Expecting property name"),
        (b"\x80\x04\x95", r"must be plain JSON; got 'utf-8' codec"),
        (b"", r"must be plain JSON; got Expecting value"),
        (_pickled(), r"must be plain JSON"),
    ],
    ids=["depth", "half", "bytes", "empty", "pickle"],
)
def test_hostile_json_is_refused(folder: Path, file: str, content: bytes, text: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(RunError, match=rf"{file} {text}.*Copy the run folder again, whole"):
        Run.load(folder)


def test_json_that_is_too_large_is_not_read(folder: Path) -> None:
    os.truncate(folder / "splits.json", 300_000_000)  # sparse: takes no room
    with pytest.raises(
        RunError, match=r"splits.json must be a file of the run of at most 200000000 bytes; got 300000000 bytes"
    ):
        read_json(folder / "splits.json", "splits.json")


@pytest.mark.parametrize(
    "values",
    [{"version": 2}, {"ct": {"t1": {"low": 0}}}, {"py/object": "os.system"}, {"ct": 3}, [], {"tokenizer": "../../etc/passwd"}],
)
def test_fitted_numbers_follow_their_schema(folder: Path, values: Any) -> None:
    (folder / "preprocessing.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"preprocessing.json.* must .*; got "):
        Run.load(folder)


@pytest.mark.parametrize("cell", ["../../etc/passwd", "/etc/passwd", "a/../../b.nii", "C:\\\\windows\\\\x.nii"])
def test_a_cohort_cannot_point_out_of_its_root(folder: Path, cell: str) -> None:
    text = (folder / "cohort.csv").read_text()
    (folder / "cohort.csv").write_text(text.replace("1.nii", cell, 1))
    with pytest.raises(DataError, match="cohort"):
        Run.load(folder)


def test_the_cohort_of_the_configuration_is_not_followed(folder: Path) -> None:
    rewrite(folder, cohort="/etc/passwd")
    assert len(Run.load(folder).cohort) == 4  # the run's own copy counts


def test_a_symbolic_link_in_place_of_weights_is_only_read_as_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret words")
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(RunError) as caught:
        Run.load(folder).method()
    assert "secret words" not in str(caught.value)
