from __future__ import annotations

import builtins
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.training.fakes import TwoStage, TwoStageConfig, problem
from torch import Tensor

from comodal.errors import RunError
from comodal.method import Optimiser, Stage
from comodal.run import save_weights
from comodal.training.checkpoint import Info, load_checkpoint, restore_optimisers, restore_weights, save_checkpoint
from comodal.training.collapse import WatchState
from comodal.training.schedule import build_optimisers

Kind = Literal["adam", "adamw", "sgd"]
INFO = Info(score=0.1 + 0.2, since=2, watch=WatchState(first=(1 / 3,), said=("flat 4",)), log=17, warnings=("ü",))


def trained(kind: Kind, steps: int, seed: int = 0) -> tuple[TwoStage, dict[str, torch.optim.Optimizer]]:
    """A method after some steps along made-up gradients, and its optimisers of two prefixes."""
    torch.manual_seed(seed)
    method = TwoStage(problem(), TwoStageConfig())
    stage = Stage("s", optimisers={"": Optimiser(kind, 0.01, 0.1), "head": Optimiser("adam", 0.02)}, steps=1)
    optimisers = build_optimisers(method, stage)
    go_on(method, optimisers, steps)
    return method, optimisers


def go_on(method: TwoStage, optimisers: dict[str, torch.optim.Optimizer], steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        for parameter in method.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimiser in optimisers.values():
            optimiser.step()


def bytes_of(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def save(folder: Path, method: TwoStage, optimisers: dict[str, torch.optim.Optimizer], step: int, info: Info = INFO) -> None:
    save_checkpoint(folder, stage=0, step=step, weights=method.state_dict(), optimisers=optimisers, info=info)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_round_trip_is_exact(tmp_path: Path, kind: Kind) -> None:
    method, optimisers = trained(kind, 3)
    save(tmp_path, method, optimisers, 3)
    found = load_checkpoint(tmp_path)
    assert found is not None and (found.stage, found.step, found.info) == (0, 3, INFO)
    other, fresh = trained(kind, 0, seed=1)
    restore_weights(other, found.weights)
    restore_optimisers(fresh, found)
    for prefix, optimiser in optimisers.items():
        one, two = optimiser.state_dict(), fresh[prefix].state_dict()
        assert one["param_groups"] == two["param_groups"]
        for number, values in one["state"].items():
            assert values.keys() == two["state"][number].keys()
            for key, value in values.items():
                assert torch.equal(value, two["state"][number][key]) and value.dtype == two["state"][number][key].dtype
    go_on(method, optimisers, 2)
    go_on(other, fresh, 2)
    assert bytes_of(method.state_dict()) == bytes_of(other.state_dict())


def test_there_may_be_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "nothing") is None


def test_only_the_last_one_and_its_best_weights_are_kept(tmp_path: Path) -> None:
    method, optimisers = trained("adam", 1)
    for step in (1, 2, 3):
        save_weights(tmp_path / f"best-0-{step}.safetensors", method.state_dict())
        (tmp_path / f".best-0-{step}.safetensors.7.partial").touch()  # left by a killed process
        save(tmp_path, method, optimisers, step, INFO.model_copy(update={"best": f"best-0-{min(step, 2)}.safetensors"}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-3", "best-0-2.safetensors", "latest.json"]
    found = load_checkpoint(tmp_path)
    assert found is not None and bytes_of(found.best) == bytes_of(method.state_dict())


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def die_in(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the count-th operation on files does not happen, nor any that would tidy up after it."""
    seen = [0]

    def guard(owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            seen[0] += 1
            if seen[0] >= count:
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, operation)

    for owner, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (shutil, "rmtree"), (Path, "mkdir")):
        guard(owner, name)
    guard(Path, "open")
    return seen


def test_a_kill_between_any_two_operations_leaves_a_whole_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The previous one, until in one operation the new one takes its place."""
    method, optimisers = trained("adam", 1)
    old = bytes_of(method.state_dict())
    save_weights(tmp_path / "start" / "best-0-1.safetensors", method.state_dict())
    save(tmp_path / "start", method, optimisers, 1, INFO.model_copy(update={"best": "best-0-1.safetensors"}))
    go_on(method, optimisers, 1)
    new = bytes_of(method.state_dict())
    steps = []
    for count in range(1, 100):
        folder = tmp_path / str(count)
        shutil.copytree(tmp_path / "start", folder)
        save_weights(folder / "best-0-2.safetensors", method.state_dict())
        with monkeypatch.context() as patch:
            seen = die_in(count, patch)
            try:
                save(folder, method, optimisers, 2, INFO.model_copy(update={"best": "best-0-2.safetensors"}))
            except Killed:
                pass
            else:
                assert seen[0] < count
                break
        found = load_checkpoint(folder)
        assert found is not None
        steps.append(found.step)
        assert bytes_of(found.weights) == bytes_of(found.best) == (old if found.step == 1 else new)
        save(
            folder, method, optimisers, 3, INFO.model_copy(update={"best": "best-0-2.safetensors"})
        )  # and the next one is made
        assert sorted(path.name for path in folder.iterdir()) == ["0-3", "best-0-2.safetensors", "latest.json"]
    assert steps == sorted(steps) and steps.count(1) >= 10 and steps.count(2) >= 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    method, optimisers = trained("adam", 1)
    save(tmp_path / "resume", method, optimisers, 1)
    return tmp_path / "resume"


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("name", ["..", ".", "", "../elsewhere", "/tmp", "0-1/../0-1", "0-9", 7, None, ["0-1"]])
def test_a_name_that_is_no_folder_of_resume_is_refused(folder: Path, name: object) -> None:
    shutil.copytree(folder / "0-1", folder.parent / "elsewhere")
    change(folder / "latest.json", checkpoint=name)
    with pytest.raises(RunError, match=r"checkpoint must .* Start again in a new folder, without --resume\."):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"info": {"best": "../../weights.safetensors"}},
        {"info": {"best": "best-0-1.safetensors/../../x"}},
        {"info": {"log": -1}},
        {"info": {"watch": {"first": "x"}}},
        {"info": {"run": "code"}},
        {"info": []},
        {"stage": "x"},
        {"step": -1},
        {"scalars": {"": 3}},
        {"scalars": {}},
    ],
)
def test_a_state_of_another_form_is_refused(folder: Path, values: dict[str, Any]) -> None:
    change(folder / "0-1" / "state.json", **values)
    with pytest.raises(RunError, match=r"checkpoint must .* \[file .*\]"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"null", b"[]"])
@pytest.mark.parametrize("name", ["latest.json", "0-1/state.json"])
def test_damaged_json_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=r"checkpoint must be readable"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimisers.safetensors"])
def test_damaged_weights_are_refused(folder: Path, name: str) -> None:
    file = folder / "0-1" / name
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RunError, match=r"weights must be an intact safetensors file"):
        load_checkpoint(folder)
    file.unlink()
    with pytest.raises(RunError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["a|b", "head|x|step", "other|0|step", "head|0"])
def test_tensors_of_no_optimiser_are_refused(folder: Path, name: str) -> None:
    save_weights(folder / "0-1" / "optimisers.safetensors", {name: torch.zeros(1)})
    with pytest.raises(RunError, match=r"checkpoint must have a state for each parameter"):
        load_checkpoint(folder)


def test_states_of_other_parameters_are_refused(folder: Path) -> None:
    found = load_checkpoint(folder)
    assert found is not None
    _, optimisers = trained("adam", 0)
    found.optimisers["head"][0]["exp_avg"] = torch.zeros(5)
    with pytest.raises(RunError, match=r"checkpoint must hold exp_avg of the shape of parameter 0, \(1, 3, 1, 1\); got \(5,\)"):
        restore_optimisers(optimisers, found)
    found.optimisers["head"] = {9: {}}
    with pytest.raises(RunError, match=r"checkpoint must hold the state of the optimiser of head; got 1 for 2 parameters"):
        restore_optimisers(optimisers, found)
    del found.optimisers["head"]
    with pytest.raises(RunError, match=r"checkpoint must hold the state of the optimiser of head; got none"):
        restore_optimisers(optimisers, found)


def test_weights_of_another_method_are_refused(folder: Path) -> None:
    found = load_checkpoint(folder)
    assert found is not None
    method, _ = trained("adam", 0)
    del found.weights["first.bias"]
    with pytest.raises(RunError, match=r"checkpoint must hold the weights of this method; got .*first\.bias"):
        restore_weights(method, found.weights)


def test_nothing_is_unpickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("code of a checkpoint would run")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr(builtins, "eval", refuse)
    assert load_checkpoint(folder) is not None
