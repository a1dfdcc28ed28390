"""Two gloo processes that hold a part of a batch each compute what one process computes from the whole: values and gradients.

The same file is the program of the processes: `python -m tests.information.test_processes <rank> <folder>`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from comodal.information import bounds, critics
from comodal.information.critics import BilinearCritic, ConcatCritic, CosineCritic, Critic, SeparableCritic
from comodal.information.local import maximum_over_regions
from comodal.information.objective import Objective
from comodal.information.pairs import Negatives, contrast
from comodal.processes import alone, gather_rows, rows_of_processes

ROOT = Path(__file__).resolve().parents[2]
CASES, WORLD = 8, 2
CRITICS: dict[str, Callable[[], Critic]] = {
    "concat": lambda: ConcatCritic(4, 3, hidden=(8, 6)),
    "concat, three layers": lambda: ConcatCritic(4, 3, hidden=(8, 6, 5)),
    "concat in blocks": lambda: ConcatCritic(4, 3, hidden=(8, 6), memory=0.001),
    "concat, three layers in blocks": lambda: ConcatCritic(4, 3, hidden=(8, 6, 5), memory=0.001),
    "separable": lambda: SeparableCritic(4, 3, hidden=(8,), embedding=4),
    "bilinear": lambda: BilinearCritic(4, 3),
    "cosine": lambda: CosineCritic(4, 3, embedding=4),
}
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # locations of x and of y
    "global": ((), ()),
    "local with global": ((4,), ()),
    "global with local": ((), (3,)),
    "local with local": ((4,), (3,)),
    "aligned": ((4,), (4,)),
    "maximum": ((4,), ()),
}


@dataclass(frozen=True)
class Case:
    """A value, and how many rows (images) each process has of its batch."""

    bound: str = "info_nce"
    shape: str = "global"
    critic: str = "concat"
    sizes: tuple[int, int] = (4, 4)
    symmetric: bool = False
    select_by: Literal["estimate", "score"] = "estimate"
    wrapped: bool = False  # in torch's DistributedDataParallel, which averages the gradients itself

    @property
    def name(self) -> str:
        flags = [word for word, on in (("symmetric", self.symmetric), ("wrapped", self.wrapped)) if on]
        return ", ".join([self.bound, self.shape, self.critic, f"{self.sizes[0]} + {self.sizes[1]}", self.select_by, *flags])


HALVES = [
    *(Case(bound) for bound in ("info_nce", "dv", "mine", "nwj", "smile", "demi", "jsd")),
    Case(symmetric=True),
    *(Case("dv", shape) for shape in SHAPES if shape not in ("global", "maximum")),
    *(Case(shape="maximum", select_by=way) for way in ("estimate", "score")),
    Case("dv", "maximum", "separable"),
    *(Case(critic=critic) for critic in CRITICS if critic != "concat"),
    *(Case(bound, sizes=(3, 5)) for bound in ("info_nce", "dv", "mine", "jsd")),
    Case(sizes=(3, 5), symmetric=True),
    Case("dv", "aligned", sizes=(5, 3)),
    Case("info_nce", "local with local", sizes=(1, 7)),
    *(Case(shape="maximum", sizes=sizes) for sizes in ((3, 5), (7, 1))),
    Case("mine", "maximum", sizes=(2, 6)),
    *(Case(bound, wrapped=True) for bound in ("info_nce", "mine")),
    Case(shape="maximum", sizes=(3, 5), wrapped=True),
    *(Case(critic=critic, sizes=(3, 5), wrapped=True) for critic in list(CRITICS)[1:4]),
    Case(shape="maximum", critic="concat in blocks", sizes=(3, 5)),
]
EMPTY = [Case(shape=shape, critic="bilinear", sizes=sizes) for sizes in ((0, 8), (8, 0)) for shape in SHAPES]
EMPTY_AND_CONCAT = [
    *(Case(shape=shape, critic=critic, sizes=(0, 8)) for critic in list(CRITICS)[:4] for shape in SHAPES),
    *(Case(critic=critic, sizes=(8, 0), wrapped=True) for critic in list(CRITICS)[:4]),
]
SETS = {"first": [*HALVES, *EMPTY], "second": EMPTY_AND_CONCAT}  # one after the other: the second may break


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Rows:
    """Some rows of the batch of a case: images and their partners, or images and the sentences of those images."""

    x: Tensor
    y: Tensor
    groups: tuple[Tensor, Tensor]
    owner: Tensor

    @staticmethod
    def of(case: Case, rows: slice, seed: int = 0) -> Rows:
        of_x, of_y = SHAPES[case.shape]
        x = normal(CASES, *of_x, 6, seed=10 + seed)[rows]
        if case.shape != "maximum":
            y = normal(CASES, *of_y, 5, seed=20 + seed)[rows]
            return Rows(x, y, (torch.tensor([0, 1, 2, 0, 3, 4, 2, 5])[rows], torch.arange(CASES)[rows] // 2), torch.empty(0))
        owner = torch.tensor([2, 7, 0, 0, 5, 7, 3, 1, 7, 6, 3])  # image 4 has no sentence, others have up to three
        mine = (owner >= rows.start) & (owner < rows.stop)
        groups = torch.tensor([0, 1, 2, 0, 3, 4, 5, 6, 2, 1, 7]), torch.arange(11)
        return Rows(x, normal(11, 5, seed=20 + seed)[mine], (groups[0][mine], groups[1][mine]), owner[mine] - rows.start)


class Model(nn.Module):
    """Two encoders and an objective."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case = case
        self.x_encoder, self.y_encoder = nn.Linear(6, 4), nn.Linear(5, 3)
        self.objective = Objective(CRITICS[case.critic](), bound=case.bound, symmetric=case.symmetric, rate=0.3)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2)  # else scores are so close that little depends on who is whose negative

    def forward(self, rows: Rows) -> Tensor:
        x, y = self.x_encoder(rows.x), self.y_encoder(rows.y)
        if self.case.shape != "maximum":
            value: Tensor = self.objective(x, y, groups=rows.groups, aligned=self.case.shape == "aligned")
            return value
        critic, by = self.objective.critic, self.case.select_by
        found = maximum_over_regions(critic, x, y, owner=rows.owner, groups=rows.groups, select_by=by)
        return self.objective.of(found.scores)


def outcome(case: Case, rows: slice, *, wrap: bool = False) -> dict[str, Tensor]:
    """The value of the batch and its gradients, as this process has them after the second of two batches."""
    model = Model(case)
    runner: nn.Module = DistributedDataParallel(model) if wrap else model
    value = torch.zeros(())
    with patch.object(critics, "SMALL", 0 if case.critic.endswith("in blocks") else critics.SMALL):
        for seed in (0, 1):
            model.zero_grad()
            value = runner(Rows.of(case, rows, seed))
            value.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"value": value.detach(), "average": model.objective.log_average, **gradients}


# -------------------------------------------------------------------------------------------------------- in the processes


def part(sizes: Sequence[int], rank: int) -> slice:
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank])


def exchanged(rank: int) -> dict[str, Tensor]:
    """Rows of several kinds, 2 from the first process and 3 from the second."""
    sizes, place = rows_of_processes(2 + rank)
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.bool)
    found = {str(kind): gather_rows((torch.arange(5) % 3)[part(sizes, rank), None].to(kind), sizes) for kind in kinds}
    leaf = (torch.arange(5.0)[part(sizes, rank)] + 1).requires_grad_()
    (gather_rows(leaf, sizes) * torch.arange(5.0) * (1 + 9 * rank)).sum().backward()
    assert leaf.grad is not None
    none = gather_rows(torch.zeros(0 if rank == 0 else 2, 3), rows_of_processes(0 if rank == 0 else 2)[0])
    return {"sizes": torch.tensor(sizes), "place": torch.tensor(place), "gradient": leaf.grad, "none here": none, **found}


def one_each(sizes: Sequence[int], rank: int) -> dict[str, Tensor]:
    """One negative for each row, by a shift within each process."""
    torch.manual_seed(0)
    critic = CRITICS["concat"]().double()
    value = one_each_value(critic, [part(sizes, rank)], "shift")
    value.backward()
    return {"value": value.detach(), **{name: p.grad for name, p in critic.named_parameters() if p.grad is not None}}


def one_each_value(critic: Critic, parts: Sequence[slice], negatives: Negatives) -> Tensor:
    x, y, group = normal(CASES, 4, seed=1), normal(CASES, 3, seed=2), torch.tensor([0, 1, 1, 2, 3, 4, 4, 5])
    scores = [contrast(critic, x[rows], y[rows], groups=(group[rows],), negatives=negatives) for rows in parts]
    joined = [torch.cat([getattr(part, name) for part in scores]) for name in ("joint", "marginal", "negative")]
    return bounds.donsker_varadhan(*joined)


def work(rank: int, folder: Path) -> None:
    """All cases, one after the other; what came out of a set goes into a file."""
    for name, cases in SETS.items():
        found: dict[str, dict[str, Tensor]] = {}
        if name == "first":
            if rank == 0:  # the other never enters, and what follows is in step
                with alone():
                    found["alone"] = outcome(Case(), part((4, 4), rank))
            found["exchanged"] = exchanged(rank)
            found["one each"] = one_each((3, 5), rank)
        for case in cases:
            found[case.name] = outcome(case, part(case.sizes, rank), wrap=case.wrapped)
        flat = {
            f"{case}/{key}": tensor.clone().contiguous() for case, result in found.items() for key, tensor in result.items()
        }
        save_file(flat, folder / f"{name}.{rank}.safetensors")


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    wait = timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=wait)
    try:
        work(rank, folder)
    finally:
        torch.distributed.destroy_process_group()


# ------------------------------------------------------------------------------------------------------------- in the test

Found = list[dict[str, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes leave what they found, and what they said. Where one fails the other is not waited for."""
    folder = tmp_path_factory.mktemp("processes")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(WORLD):
            words = [sys.executable, "-m", "tests.information.test_processes", str(rank), str(folder)]
            with (folder / f"{rank}.log").open("w") as log:
                processes.append(subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT, env=environment))
        end = time.monotonic() + 100
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            if any(process.poll() for process in processes):
                break
            time.sleep(0.02)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
    return folder


def read(folder: Path, name: str) -> Found:
    text = "\n".join(log.read_text() for log in sorted(folder.glob("*.log")))
    files = [folder / f"{name}.{rank}.safetensors" for rank in range(WORLD)]
    assert all(file.is_file() for file in files), text
    results: Found = []
    for file in files:
        results.append({})
        for key, tensor in load_file(file).items():
            case, _, what = key.partition("/")
            results[-1].setdefault(case, {})[what] = tensor
    return results


@pytest.fixture(scope="module")
def first(folder: Path) -> Found:
    return read(folder, "first")


@pytest.fixture(scope="module")
def second(folder: Path) -> Found:
    return read(folder, "second")


def test_the_processes_end_in_silence(second: Found, folder: Path) -> None:
    assert [(folder / f"{rank}.log").read_text() for rank in range(WORLD)] == ["", ""]


def near(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)


def assert_as_one(case: Case, found: Found) -> None:
    """Both have the value of one process; the mean of their gradients, which a training takes, is its gradient."""
    one, both = outcome(case, slice(0, CASES)), [result[case.name] for result in found]
    assert bool(one["value"].isfinite()) and abs(float(one["value"])) > 1e-3
    assert both[0]["value"].equal(both[1]["value"]) and near(both[0]["value"], one["value"])
    assert near(both[0]["average"], one["average"]) and near(both[1]["average"], one["average"])
    assert bool(one["average"].isnan()) == (case.bound != "mine")
    assert set(both[0]) == set(both[1]) == set(one)  # every parameter has a gradient on every process: the others wait for it
    seen = False
    for name in set(one) - {"value", "average"}:
        if case.wrapped:
            assert near(both[0][name], one[name]) and near(both[1][name], one[name]), name
        else:
            assert near((both[0][name] + both[1][name]) / WORLD, one[name]), name
        seen |= bool(one[name].any()) and name.startswith("x_encoder")
    assert seen


@pytest.mark.parametrize("case", [*HALVES, *EMPTY], ids=lambda case: case.name)
def test_two_processes_are_as_one(first: Found, case: Case) -> None:
    assert_as_one(case, first)


@pytest.mark.parametrize("case", EMPTY_AND_CONCAT, ids=lambda case: case.name)
def test_a_process_without_rows_is_as_any_other(second: Found, case: Case) -> None:
    assert_as_one(case, second)


def test_a_half_by_itself_is_another_value(first: Found) -> None:
    """Else the tests above would show nothing."""
    whole, half = (outcome(Case(), slice(0, count))["value"] for count in (CASES, CASES // 2))
    assert not near(whole, half) and near(first[1][Case().name]["value"], whole)


def test_within_alone_nothing_is_exchanged(first: Found) -> None:
    """The first process makes a batch by itself; the second never enters, and what follows is in step."""
    wanted, found = outcome(Case(), slice(0, CASES // 2)), first[0]["alone"]
    assert set(found) == set(wanted) and "alone" not in first[1]
    assert all(near(found[name], wanted[name]) for name in wanted)


def test_rows_of_every_kind_are_gathered_in_order(first: Found) -> None:
    for rank, result in enumerate(first):
        found = result["exchanged"]
        assert found["sizes"].tolist() == [2, 3] and int(found["place"]) == rank
        kinds = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.bool]
        for kind in kinds:
            assert found[str(kind)].dtype == kind and found[str(kind)].equal((torch.arange(5) % 3)[:, None].to(kind))
        assert found["none here"].shape == (2, 3)
        # The gradient of a row is the sum of what both make of it: once and ten times its weight.
        assert found["gradient"].equal(11 * torch.arange(5.0)[part((2, 3), rank)])


def test_one_negative_each_is_drawn_within_a_process(first: Found) -> None:
    torch.manual_seed(0)
    critic = CRITICS["concat"]().double()
    value = one_each_value(critic, [slice(0, 3), slice(3, 8)], "shift")
    wanted = dict(zip(dict(critic.named_parameters()), torch.autograd.grad(value, list(critic.parameters())), strict=True))
    both: list[dict[str, Any]] = [result["one each"] for result in first]
    assert both[0]["value"].equal(both[1]["value"]) and near(both[0]["value"], value.detach())
    for name, gradient in wanted.items():
        assert near((both[0][name] + both[1][name]) / WORLD, gradient)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
