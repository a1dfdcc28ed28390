"""CMIM for segmentation: without information plain networks, the estimate by hand, who learns from what, any subset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.fakes import values_for, write_cohort, write_config
from torch import Tensor, nn
from torch.nn.functional import softplus

from comodal.batch import Batch
from comodal.config import load_config
from comodal.data.cohort import Case, Cohort
from comodal.errors import ConfigError
from comodal.information.critics import ConcatConvolveCritic
from comodal.information.objective import Objective
from comodal.method import Losses, Problem
from comodal.methods import cmim_seg
from comodal.methods.cmim_seg import CMIMSeg, CMIMSegConfig
from comodal.methods.unet import UNet, UNetConfig
from comodal.modality import Modality, Target
from comodal.networks.unet import logits_and_maps
from comodal.run import Run, read_weights
from comodal.study.evaluating import evaluate_run
from comodal.testing import check_method, make_batch, poison
from comodal.training.train import train_run

SEQUENCES = ("flair", "t1", "t1ce")
REGIONS = Target("seg", "regions", ("WT", "TC"), ((1, 2), (1,)), (2, 1))
LABELS = Target("organs", "labels", ("background", "liver", "spleen"), ((0,), (1,), (2,)), (0, 1, 2))
TINY: dict[str, Any] = {"width": 4, "levels": 2, "critic": (8, 8)}


def problem(patch: tuple[int, ...] = (8, 8), target: Target = REGIONS, names: tuple[str, ...] = SEQUENCES) -> Problem:
    return Problem(tuple(Modality(n) for n in names), (target,), len(patch), patch)


def method(**more: Any) -> CMIMSeg:
    torch.manual_seed(0)
    return CMIMSeg(problem(), CMIMSegConfig.model_validate({**TINY, **more}))


def losses(built: CMIMSeg, batch: Batch, *, seed: int = 0) -> Losses:
    torch.manual_seed(seed)
    return built.losses(batch, built.stages()[0])


def objective(built: CMIMSeg, key: str) -> Objective:
    found = built.objectives[key]
    assert isinstance(found, Objective)
    return found


VOLUME, SLICE = ((8, 4, 8), REGIONS), ((8, 8), LABELS)
# The default is among the contract tests.
VARIANTS: dict[str, tuple[tuple[tuple[int, ...], Target], dict[str, Any]]] = {
    "plain": (VOLUME, {"lambda_ll": 0.0}),
    "shared": (VOLUME, {"shared": True}),
    "all terms": (SLICE, {"lambda_lg": 0.1, "lambda_gg": 0.1, "maps": (0, -1), "negatives": "all", "positions": 4}),
    "aligned": (VOLUME, {"aligned": True, "positions": 2, "detach_multimodal": True, "bound": "info_nce", "loss": "ce"}),
    "nnunet": (SLICE, {"network": "nnunet", "levels": 3, "bound": "smile", "negatives": "derangement"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_keeps_every_promise(variant: str) -> None:
    (patch, target), options = VARIANTS[variant]
    check_method(CMIMSeg, problem(patch, target), CMIMSegConfig.model_validate({**TINY, **options}))


# ------------------------------------------------------------------------------------------------ without information
def trained(cohort: Path, out: Path, name: str, *, modalities: list[str] | None = None, **keys: Any) -> dict[str, Tensor]:
    values = values_for(cohort, name, training={"clip": None, "validations": 0}, data={"modalities": modalities})
    values["method"] = {"name": name, "width": 4, "levels": 2, "steps": 6, **keys}
    train_run(load_config(write_config(cohort.parent / f"{out.name}.yaml", values)), out)
    return read_weights(out / "weights.safetensors")


def complete_cohort(folder: Path) -> Path:
    """The small cohort, without the cases that lack b."""
    whole = Cohort.load(write_cohort(folder))
    cases: list[Case] = [case for case in whole.cases if "b" in case.cells]
    return Cohort.build(whole.meta, cases, whole.root).save(folder / "complete.csv")


def test_with_lambda_0_it_trains_the_plain_networks_exactly(tmp_path: Path) -> None:
    """Through the real loop, augmentation and all: each network is, bit for bit, what `unet` on its images becomes."""
    cohort = complete_cohort(tmp_path / "data")
    found = trained(cohort, tmp_path / "cmim", "cmim-seg", lambda_ll=0.0)
    for modalities, prefix in ((["a"], "single.a."), (["b"], "single.b."), (["a", "b"], "multimodal.")):
        plain = trained(cohort, tmp_path / "-".join(modalities), "unet", modalities=modalities)
        own = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        assert len(own) == len(plain) > 0
        for name, value in plain.items():
            assert torch.equal(own[name.removeprefix("unet.")], value), (modalities, name)


def test_where_some_lack_a_modality_the_others_are_still_plain_networks(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "data")
    found = trained(cohort, tmp_path / "cmim", "cmim-seg", lambda_ll=0.0)
    for modalities, prefix in ((["a"], "single.a."), (["a", "b"], "multimodal.")):
        plain = trained(cohort, tmp_path / "-".join(modalities), "unet", modalities=modalities)
        for name, value in plain.items():
            assert torch.equal(found[prefix + name.removeprefix("unet.")], value), (modalities, name)


def test_information_changes_the_networks(tmp_path: Path) -> None:
    """The counterpart of the test above: it would pass, too, if the term reached nothing."""
    cohort = complete_cohort(tmp_path / "data")
    without = trained(cohort, tmp_path / "without", "cmim-seg", lambda_ll=0.0)
    having = trained(cohort, tmp_path / "having", "cmim-seg", lambda_ll=0.1, critic=[8, 8])
    changed = {name.split(".")[0] for name, value in without.items() if not torch.equal(having[name], value)}
    assert changed == {"single", "multimodal"}


# ------------------------------------------------------------------------------------------------ the estimate
def silence(built: CMIMSeg) -> None:
    """Critics that score every pair with 0."""
    for module in built.objectives.values():
        assert isinstance(module, Objective) and isinstance(module.critic, ConcatConvolveCritic)
        nn.init.zeros_(module.critic.output.weight)
        nn.init.zeros_(module.critic.output.bias)


@pytest.mark.parametrize("negatives", ["shift", "derangement", "all"])
def test_a_critic_that_says_nothing_gives_minus_2_log_2(negatives: str) -> None:
    built = method(lambda_lg=0.5, lambda_gg=0.5, negatives=negatives)
    silence(built)
    found = losses(built, make_batch(problem(), 4))
    assert len(found.diagnostics) == 9
    for name, value in found.diagnostics.items():
        assert float(value) == pytest.approx(-2 * math.log(2), abs=1e-6), name
    assert float(found["ll/t1"].detach()) == pytest.approx(0.1 * 2 * math.log(2), abs=1e-6)
    assert float(found["gg/t1"].detach()) == pytest.approx(0.5 * 2 * math.log(2), abs=1e-6)


@torch.no_grad()
def slow_value(built: CMIMSeg, batch: Batch, name: str, *, term: str = "ll", places: list[int] | None = None) -> float:
    """Sums of the formulas, one pair after the other; negatives are those of the next case.

    All positions with all, or, where `places` are given, each of these with itself; a global feature is the mean of a map.
    """
    critic = objective(built, f"{term}-{name}-1").critic
    single = built.single[name]
    assert isinstance(single.network, nn.Module)
    x = logits_and_maps(single.network, batch.image(name))[1][-1].flatten(2)  # (B, F, N)
    y = logits_and_maps(built.multimodal.network, built.multimodal.stack(batch))[1][-1].flatten(2)
    x, y = (x.mean(2, keepdim=True) if term == "gg" else x), (y if term == "ll" else y.mean(2, keepdim=True))
    pairs = [(n, m) for n in range(x.shape[2]) for m in range(y.shape[2])] if places is None else [(n, n) for n in places]
    joint, marginal = [], []
    for case in range(len(batch)):
        other = (case + 1) % len(batch)
        joint += [-softplus(-critic(x[case, :, n], y[case, :, m])) for n, m in pairs]
        marginal += [softplus(critic(x[case, :, n], y[other, :, m])) for n, m in pairs]
    return float(torch.stack(joint).mean() - torch.stack(marginal).mean())


@pytest.mark.parametrize("term", ["ll", "lg", "gg"])
def test_every_term_is_that_of_the_paper_pair_by_pair(term: str) -> None:
    """Also which side is local: lg pairs positions of the single network with the whole of the multimodal one."""
    built = method(positions=None, lambda_lg=0.2, lambda_gg=0.3)
    batch = make_batch(problem(), 3)
    found = losses(built, batch)
    weight = {"ll": 0.1, "lg": 0.2, "gg": 0.3}[term]
    for name in SEQUENCES:
        slow = slow_value(built, batch, name, term=term)
        assert float(found.diagnostics[f"I/{term}/{name}"]) == pytest.approx(slow, abs=1e-5)
        assert float(found[f"{term}/{name}"].detach()) == pytest.approx(-weight * slow, abs=1e-6)


def test_aligned_positions_are_drawn_once_for_both_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    built, batch = method(aligned=True, positions=2), make_batch(problem(), 3)
    places = [0, 3]
    given = torch.tensor([places])

    def draw(count: int, *_: Any, **__: Any) -> Tensor:
        """The first draw, and another one after it."""
        nonlocal given
        now, given = given, given.flip(1)
        return now.expand(count, -1)

    monkeypatch.setattr(cmim_seg, "draw_locations", draw)
    found = losses(built, batch)
    for name in SEQUENCES:
        slow = slow_value(built, batch, name, places=places)
        assert float(found.diagnostics[f"I/ll/{name}"]) == pytest.approx(slow, abs=1e-5)


def test_levels_are_averaged() -> None:
    built, batch = method(maps=(0, 1), positions=None), make_batch(problem(), 3)
    both = losses(built, batch).diagnostics["I/ll/t1"]
    each = []
    for level in (0, 1):
        one = CMIMSeg(built.problem, CMIMSegConfig.model_validate({**TINY, "maps": (level,), "positions": None}))
        weights = built.state_dict()
        one.load_state_dict({key: weights[key] for key in one.state_dict()})
        each.append(losses(one, batch).diagnostics["I/ll/t1"])
    assert float(both) == pytest.approx(float(sum(each)) / 2, abs=1e-6)
    assert float(each[0]) != pytest.approx(float(each[1]), abs=1e-4)


def test_a_network_learns_from_the_rows_that_have_its_modality() -> None:
    """An image of zeros with a label would teach it something else."""
    built, batch = method(lambda_ll=0.0), make_batch(problem(), 4)
    present = batch.present.clone()
    present[2:] = torch.tensor([True, False, True])
    gradients = []
    for given in (batch.restrict(present), batch.rows([0, 1])):
        built.zero_grad()
        torch.stack(list(losses(built, given).values())).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in built.single["t1"].named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("term", ["ll", "lg", "gg"])
def test_one_step_on_its_negative_raises_the_information(term: str) -> None:
    weights = {"lambda_ll": 0.0, f"lambda_{term}": 1.0}
    built, batch = method(**weights, positions=None), make_batch(problem(), 4)
    optimiser = torch.optim.SGD(built.parameters(), lr=1e-2)
    found = losses(built, batch)
    torch.stack([value for name, value in found.items() if name.startswith(f"{term}/")]).sum().backward()
    optimiser.step()
    after = losses(built, batch)
    for name in SEQUENCES:
        assert after.diagnostics[f"I/{term}/{name}"] > found.diagnostics[f"I/{term}/{name}"]


def test_slices_of_one_patient_are_no_negatives() -> None:
    """Without another patient in the batch nothing is compared, and no critic learns."""
    built, batch = method(), make_batch(problem(), 4)
    found = losses(built, replace(batch, groups=("p",) * 4))
    assert not found.diagnostics  # a value of 0 would read as the best there is
    assert all(float(found[f"ll/{name}"].detach()) == 0.0 for name in SEQUENCES)
    torch.stack(list(found.values())).sum().backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in built.objectives.parameters() if p.grad is not None)
    two = losses(built, replace(batch, groups=("p", "p", "q", "q")))
    assert all(float(value) < 0.0 for value in two.diagnostics.values())


def test_a_row_with_one_modality_tells_nothing_of_another() -> None:
    """Its two maps would be of the same image; it takes no part in the information, but learns to segment."""
    built, batch = method(positions=None), make_batch(problem(), 4)
    present = batch.present.clone()
    present[3] = torch.tensor([True, False, False])
    found, without = losses(built, batch.restrict(present)), losses(built, batch.rows([0, 1, 2]))
    for name, value in found.diagnostics.items():
        assert float(value) == pytest.approx(float(without.diagnostics[name]), abs=1e-6)
    assert float(found["ce/seg/flair"].detach()) != pytest.approx(float(without["ce/seg/flair"].detach()), abs=1e-4)


def test_a_detached_multimodal_network_is_a_teacher() -> None:
    built, batch = method(detach_multimodal=True), make_batch(problem(), 4)
    found = losses(built, batch)
    torch.stack([value for name, value in found.items() if name.startswith("ll/")]).sum().backward()
    assert all(p.grad is None or float(p.grad.abs().sum()) == 0 for p in built.multimodal.parameters())
    assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in built.single.parameters())


def test_critics_are_those_of_deep_infomax() -> None:
    """1 x 1 convolutions from both bottlenecks to 512, 512 and 1; one critic for each modality."""
    built = CMIMSeg(problem((32, 32)), CMIMSegConfig(width=16, levels=3))
    channels = 64
    each = (2 * channels * 512 + 512) + (512 * 512 + 512) + (512 + 1)
    assert sum(p.numel() for p in built.objectives.parameters()) == 3 * each


def test_one_shared_network_is_as_large_as_the_plain_one() -> None:
    built, plain = method(shared=True, lambda_ll=0.0), UNet(problem(), UNetConfig(width=4, levels=2))
    assert sum(p.numel() for p in built.parameters()) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("level", [2, -3])
def test_a_level_that_is_not_there_is_refused(level: int) -> None:
    with pytest.raises(ConfigError) as caught:
        method(maps=(level,))
    assert str(caught.value) == (
        f"method.maps must be levels of a network that has 2; got {level}. 0 is the finest, -1 the bottleneck."
    )


# ------------------------------------------------------------------------------------------------ prediction
def test_one_image_goes_through_its_network_all_through_the_multimodal_and_two_are_averaged() -> None:
    built, batch = method().eval(), make_batch(problem(), 2)
    logits: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in SEQUENCES:
            logits[name] = built.single[name](batch)
            alone = built.predict(poison(batch.keep([name])))
            torch.testing.assert_close(alone.probabilities["seg"], logits[name].sigmoid())
        two = built.predict(poison(batch.keep(["flair", "t1ce"])))
        torch.testing.assert_close(two.probabilities["seg"], ((logits["flair"] + logits["t1ce"]) / 2).sigmoid())
        every = built.predict(batch)
        torch.testing.assert_close(every.probabilities["seg"], built.multimodal(batch).sigmoid())
    assert two.used.tolist() == [[True, False, True]] * 2


def test_rows_that_are_all_complete_are_predicted_by_the_multimodal_network_alone() -> None:
    built, batch = method().eval(), make_batch(problem(), 2)
    asked: list[str] = []
    for name, network in built.single.named_children():
        network.register_forward_pre_hook(lambda *_, name=name: asked.append(name))
    built.predict(batch)
    assert asked == []
    present = torch.tensor([[True, True, True], [True, False, False]])
    torch.testing.assert_close(
        built.predict(batch.restrict(present)).probabilities["seg"][:1], built.predict(batch).probabilities["seg"][:1]
    )
    assert set(asked) == set(SEQUENCES)


def test_rows_to_compare_with_are_asked_for() -> None:
    assert [method(**more).stages()[0].least_rows for more in ({}, {"negatives": "all"}, {"lambda_ll": 0.0})] == [2, 2, 1]


def test_validation_judges_every_single_image_and_all_of_them() -> None:
    monitor = method().stages()[0].monitor
    assert monitor is not None
    assert monitor.subsets == (("flair",), ("t1",), ("t1ce",), SEQUENCES)


# ------------------------------------------------------------------------------------------------ what it is for
def shares(run: Path) -> Mapping[tuple[str, ...], float]:
    found = evaluate_run(Run.load(run), examples=False)
    values = {row.present: row.metrics["DSC/mean"].value for row in found.subsets}
    return {present: value for present, value in values.items() if value is not None}


@pytest.mark.slow
def test_a_weak_modality_does_not_suffer_from_the_information(tmp_path: Path) -> None:
    """Modality a shows the ball clearly, b with half its contrast; predicted from b alone. A loose check: not a benchmark."""
    cohort = complete_cohort(tmp_path / "data")
    for name, weight in (("with", 0.1), ("without", 0.0)):
        trained(cohort, tmp_path / name, "cmim-seg", lambda_ll=weight, critic=[16, 16], steps=150, rate=3e-3)
    having, without = shares(tmp_path / "with"), shares(tmp_path / "without")
    assert having[("b",)] > 0.5
    assert having[("b",)] >= without[("b",)] - 0.1
