"""Experts: each is a plain U-Net on its own subset, rows find the right one, and each keeps its own best weights."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.training.fakes import values_for, write_cohort, write_config
from torch import Tensor

from comodal.config import load_config
from comodal.data.cohort import Case, Cohort
from comodal.errors import ConfigError, UnsupportedSubset
from comodal.method import Method, Problem
from comodal.methods import METHODS, Entry
from comodal.methods.unet import UNet, UNetConfig
from comodal.methods.unet_experts import UNetExperts, UNetExpertsConfig
from comodal.modality import Modality, Target
from comodal.testing import check_method, make_batch
from comodal.training.train import train_run

SEQUENCES = ("flair", "t1", "t1ce")
REGIONS = Target("seg", "regions", ("WT", "TC"), ((1, 2), (1,)), (2, 1))
LABELS = Target("organs", "labels", ("background", "liver", "spleen"), ((0,), (1,), (2,)), (0, 1, 2))


def problem(patch: tuple[int, ...] = (8, 8), target: Target = REGIONS, names: Sequence[str] = SEQUENCES) -> Problem:
    return Problem(tuple(Modality(n) for n in names), (target,), len(patch), patch)


def experts(wanted: tuple[tuple[str, ...], ...] | None = None) -> UNetExperts:
    torch.manual_seed(0)
    method = UNetExperts(problem(), UNetExpertsConfig(width=2, levels=2, subsets=wanted))
    method.eval()
    return method


def bits(*rows: Sequence[str]) -> Tensor:
    return torch.tensor([[name in row for name in SEQUENCES] for row in rows])


@pytest.mark.parametrize(
    ("names", "wanted"), [(SEQUENCES[:2], None), (SEQUENCES, (("t1",), ("t1ce", "flair")))], ids=["all", "some"]
)
@pytest.mark.parametrize(("patch", "target"), [((8, 8), LABELS), ((8, 4, 8), REGIONS)], ids=["2-D labels", "3-D regions"])
def test_it_keeps_every_promise(
    names: tuple[str, ...], wanted: tuple[tuple[str, ...], ...] | None, patch: tuple[int, ...], target: Target
) -> None:
    check_method(UNetExperts, problem(patch, target, names), UNetExpertsConfig(width=4, levels=2, subsets=wanted))


def test_each_expert_is_a_plain_unet_on_its_subset() -> None:
    """With the weights of an expert, `unet` for a problem of just these modalities gives the same, prediction and loss."""
    method = experts()
    batch = make_batch(problem(), 3)
    for stage in method.stages():
        subset = stage.modalities
        few = problem(names=subset)
        plain = UNet(few, UNetConfig(width=2, levels=2)).eval()
        prefix = f"experts.{stage.name}."
        own = {n.removeprefix(prefix): v for n, v in method.state_dict().items() if n.startswith(prefix)}
        plain.unet.load_state_dict(own)
        assert sum(p.numel() for p in plain.parameters()) == sum(v.numel() for v in own.values())
        same = make_batch(few, 3).with_inputs({name: batch.inputs[name] for name in subset})
        alone = method.predict(batch.keep(subset)).probabilities["seg"]
        assert torch.equal(alone, plain.predict(same).probabilities["seg"])
        terms, others = method.losses(batch, stage), plain.losses(same, plain.stages()[0])
        assert terms == others, subset


def test_a_stage_trains_one_expert_on_the_cases_that_have_its_subset() -> None:
    method = experts()
    stages = method.stages()
    assert [s.name for s in stages] == ["flair", "t1", "t1ce", "flair+t1", "flair+t1ce", "t1+t1ce", "flair+t1+t1ce"]
    for stage in stages:
        trained = {n.split(".")[1] for n, _ in method.named_parameters() if stage.trains(n)}
        assert trained == {stage.name} == {"+".join(stage.modalities)}
        assert stage.monitor is not None and stage.monitor.subsets == (stage.modalities,)
    assert {stage.steps for stage in stages} == {2000}  # of each


def test_rows_of_one_batch_go_each_to_their_own_expert() -> None:
    method = experts()
    rows = [("t1",), SEQUENCES, ("flair", "t1ce"), ("t1",), ("t1ce",), SEQUENCES]
    batch = make_batch(problem(), len(rows)).restrict(bits(*rows))
    together = method.predict(batch)
    assert torch.equal(together.used, batch.present)
    asked: list[tuple[str, int]] = []
    for name, expert in method.experts.items():
        expert.register_forward_pre_hook(lambda _, given, name=name: asked.append((name, len(given[0]))))
    for row, subset in enumerate(rows):
        one = method.predict(batch.rows([row])).probabilities["seg"]
        assert torch.allclose(together.probabilities["seg"][row], one[0], atol=1e-6)
        assert asked.pop() == ("+".join(subset), 1)
    method.predict(batch)
    assert asked == [("t1", 2), ("flair+t1+t1ce", 2), ("flair+t1ce", 1), ("t1ce", 1)]  # each once, on its rows only


def test_where_a_subset_has_no_expert_the_largest_that_fits_predicts() -> None:
    method = experts((("t1ce", "t1"), ("t1",), ("flair",), ("flair", "t1")))
    assert list(method.experts) == ["flair", "t1", "flair+t1", "t1+t1ce"]  # in canonical order, however they were written
    rest = {
        ("flair",): ("flair",),
        ("t1",): ("t1",),
        ("flair", "t1"): ("flair", "t1"),
        ("flair", "t1ce"): ("flair",),
        ("t1", "t1ce"): ("t1", "t1ce"),
        SEQUENCES: ("flair", "t1"),  # of two equally large ones the first
    }
    complete = make_batch(problem(), 2)
    for have, used in rest.items():
        assert method.supports(have) and method.expert_of(have) == used
        found = method.predict(complete.keep(have))
        assert torch.equal(found.used, bits(used, used))
        assert torch.equal(found.probabilities["seg"], method.predict(complete.keep(used)).probabilities["seg"])


def test_what_no_expert_fits_is_refused_by_name() -> None:
    method = experts((("flair",), ("t1", "t1ce")))
    assert not method.supports(("t1",)) and not method.supports(("t1ce",)) and not method.supports(())
    assert not method.supports(("flair", "ct"))
    rule = re.escape("(flair, flair+t1, flair+t1ce, t1+t1ce, flair+t1+t1ce); got t1ce.")
    with pytest.raises(UnsupportedSubset, match=f"UNetExperts must get a subset of modalities .* {rule}"):
        method.predict(make_batch(problem(), 2).keep(["t1ce"]))


def test_an_expert_reads_and_learns_from_nothing_but_its_subset() -> None:
    method = experts()
    stage = method.stages()[3]
    assert stage.name == "flair+t1"
    batch = make_batch(problem(), 2)
    images = {name: value.clone().requires_grad_() for name, value in batch.inputs.items() if isinstance(value, Tensor)}
    torch.stack(list(method.losses(batch.with_inputs(images), stage).values())).sum().backward()
    assert images["t1ce"].grad is None and all(images[n].grad is not None for n in ("flair", "t1"))
    touched = {n.split(".")[1] for n, p in method.named_parameters() if p.grad is not None}
    assert touched == {"flair+t1"}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ((("t1", "t2"),), r"modality must be one of the problem; got 't2'\. Known: flair, t1, t1ce"),
        (
            (),
            r"method.subsets must list non-empty subsets; got \(\)\. For instance \[\[flair\], \[flair, t1, t1ce\]\]",
        ),
        (((), ("t1",)), r"method.subsets must list non-empty subsets; got \(\(\), \('t1',\)\)"),
    ],
)
def test_subsets_that_make_no_sense_are_refused(wanted: tuple[tuple[str, ...], ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        experts(wanted)


# ------------------------------------------------------------------------------------------------------- the real loop
ENTRY = Entry("comodal.methods.unet_experts:UNetExperts", "", ("segmentation",), "", "", "")


def settings(cohort: Path, **method: object) -> Path:
    values = values_for(cohort, "unet-experts", method={"width": 4, "levels": 2, "steps": 12, "rate": 0.01, **method})
    values["training"]["validations"] = 3
    return write_config(cohort.parent / f"config-{cohort.stem}.yaml", values)


def test_each_expert_keeps_the_weights_that_were_best_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "unet-experts", ENTRY)
    cohort = write_cohort(tmp_path / "data")
    validate = UNetExperts.validate

    def spy(self: UNetExperts, batch, stage):  # type: ignore[no-untyped-def]  # as the method's own
        assert all(tuple(row) == tuple(n in stage.modalities for n in ("a", "b")) for row in batch.present.tolist())
        copies = {n: v.clone() for n, v in self.state_dict().items()}
        if not seen or any(not torch.equal(v, seen[-1][1][n]) for n, v in copies.items()):
            seen.append((stage.name, copies))
        return validate(self, batch, stage)

    seen: list[tuple[str, dict[str, Tensor]]] = []
    monkeypatch.setattr(UNetExperts, "validate", spy)
    run = train_run(load_config(settings(cohort)), tmp_path / "run")
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["event"] == "validation"]
    assert [line["stage"] for line in validations] == [n for n in ("a", "b", "a+b") for _ in range(3)]
    assert [name for name, _ in seen] == [line["stage"] for line in validations]
    final = run.method().state_dict()
    for name in ("a", "b", "a+b"):
        best = [k for k, line in enumerate(validations) if line["stage"] == name and line["best"]][-1]
        kept = {n: v for n, v in seen[best][1].items() if n.startswith(f"experts.{name}.")}
        assert kept and all(torch.equal(v, final[n]) for n, v in kept.items()), name


def without_both(cohort: Cohort) -> Cohort:
    """Of each case only one of the images a and b."""
    cases = []
    for number, case in enumerate(cohort.cases):
        cells = dict(case.cells) | {"ab"[number % 2]: ""}
        cases.append(Case.build(case.id, cells=cells))
    return Cohort.build(cohort.meta, cases, Path(cohort.meta.root))


def test_a_subset_that_no_case_has_is_refused_until_it_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "unet-experts", ENTRY)
    whole = Cohort.load(write_cohort(tmp_path / "data"))
    path = without_both(whole).save(tmp_path / "data" / "either.csv")
    with pytest.raises(ConfigError, match=r"Stage a\+b must have training cases with a, b, seg; got none\."):
        train_run(load_config(settings(path)), tmp_path / "run")
    run = train_run(load_config(settings(path, subsets=[["a"], ["b"]], steps=2)), tmp_path / "run")
    method: Method = run.method()
    assert method.supports(("a", "b")) and len(method.stages()) == 2
