"""The verification task of CIML: gradients of the two paths, reductions of the KL, absence, and what a short training finds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from comodal import api
from comodal.batch import Batch
from comodal.errors import ConfigError, UnsupportedSubset
from comodal.evaluation.complement import measure_complement
from comodal.method import Losses, Problem
from comodal.methods.ciml_shapes import LOG_VARIANCE, Block, CIMLShapes, CIMLShapesConfig
from comodal.modality import Modality, Target
from comodal.study.cohorts import write_phantom
from comodal.testing import check_method, make_batch, poison

UNION = Target("seg", "regions", ("union",), ((1,),), (1,))
TWO = Target("seg", "regions", ("WT", "TC"), ((1, 2), (1,)), (2, 1))
ORGANS = Target("organs", "labels", ("background", "liver"), ((0,), (1,)), (0, 1))
TINY: dict[str, Any] = {"width": 4, "levels": 2}
PAIR = ("triangle", "ellipse")


def problem(
    patch: tuple[int, ...] = (8, 8), *targets: Target, names: tuple[str, ...] = PAIR, grids: tuple[str, ...] = ("grid", "grid")
) -> Problem:
    images = tuple(Modality(name, grid=grid) for name, grid in zip(names, (*grids, *names[2:]), strict=False))
    return Problem(images, targets or (UNION,), len(patch), patch)


def method(made_for: Problem | None = None, **more: Any) -> CIMLShapes:
    torch.manual_seed(0)
    return CIMLShapes(made_for or problem(), CIMLShapesConfig.model_validate({**TINY, **more}))


def losses(built: CIMLShapes, batch: Batch, *, seed: int = 0) -> Losses:
    torch.manual_seed(seed)
    return built.losses(batch, built.stages()[0])


def rows(*bits: str) -> Tensor:
    """ "pa" has both images, "p" the primary one, "a" the auxiliary one."""
    return torch.tensor([["p" in one, "a" in one] for one in bits])


def gradients(part: nn.Module) -> list[float]:
    return [0.0 if p.grad is None else float(p.grad.abs().max()) for p in part.parameters()]


# ------------------------------------------------------------------------------------- the contract
@pytest.mark.parametrize(("patch", "target"), [((8, 8), UNION), ((8, 4, 8), TWO)], ids=["2-D", "3-D"])
@pytest.mark.parametrize(
    "more", [{}, {"primary": "ellipse", "kl": "sum", "detach": False, "samples": 2}], ids=["paper", "other"]
)
def test_it_keeps_every_promise(patch: tuple[int, ...], target: Target, more: dict[str, Any]) -> None:
    check_method(CIMLShapes, problem(patch, target), CIMLShapesConfig.model_validate({**TINY, **more}))


def test_shapes_and_number_of_parameters() -> None:
    built = method(problem((32, 16)), width=8, levels=3).eval()
    with torch.no_grad():
        found = built.predict(make_batch(built.problem, 3))
    assert found.probabilities["seg"].shape == (3, 1, 32, 16)
    assert {name: tuple(extra.shape) for name, extra in found.extras.items()} == dict.fromkeys(
        ("kappa", "nats"), (3, 1, 32, 16)
    )
    down = sum(9 * a * b + 3 * b for a, b in ((1, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)))  # bias, scale, shift
    up = sum(9 * 3 * f * f + 3 * f for f in (8, 16))
    paths = (9 * 16 * 8 + 24) + (8 * 2 + 2) + (9 * 9 * 8 + 24) + (9 * 8 * 8 + 24) + (8 + 1)
    assert sum(p.numel() for p in built.parameters()) == 2 * (down + up) + paths


def test_the_defaults_are_those_of_the_paper_where_it_states_them() -> None:
    config = CIMLShapesConfig()
    assert (config.beta, config.detach, config.optimiser, config.weight_decay, config.schedule) == (
        0.5,
        True,
        "adam",
        3e-5,
        "poly",
    )
    assert (config.kl, config.samples, config.width, config.levels, config.rate) == ("mean", 0, 8, 3, 2e-3)


# ------------------------------------------------------------------------------------- the two paths
@pytest.mark.parametrize("detach", [True, False])
def test_a_loss_on_kappa_does_not_reach_the_primary_encoder(detach: bool) -> None:
    built = method(detach=detach)
    terms = losses(built, make_batch(built.problem, 3))
    terms["kl/triangle"].backward()
    reached = [g > 0 for g in gradients(built.encoders["triangle"])]
    assert not any(reached) if detach else any(reached)
    assert any(g > 0 for g in gradients(built.encoders["ellipse"]))
    assert set(gradients(built.union)) == {0.0}


def test_the_loss_on_the_union_reaches_both_encoders_and_both_paths() -> None:
    built = method()
    terms = losses(built, make_batch(built.problem, 3))
    (terms["dice/seg/triangle"] + terms["ce/seg/triangle"]).backward()
    for part in (*built.encoders.values(), built.complement, built.union):
        assert any(g > 0 for g in gradients(part))


def test_kappa_of_the_stopped_path_by_hand() -> None:
    built = method().eval()
    batch = make_batch(built.problem, 2)
    with torch.no_grad():
        own, other = (built.encoders[name](batch.image(name)) for name in PAIR)
        found = built.complement(torch.cat([own, other], dim=1))
        mean, log_variance = found[:, :1], found[:, 1:].clamp(*LOG_VARIANCE)
        said = built.predict(batch)
        union = built.union(torch.cat([mean, own], dim=1)).sigmoid()
    assert torch.allclose(said.extras["kappa"], mean, atol=1e-6)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, torch.exp(0.5 * log_variance)), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(said.extras["nats"], kl, atol=1e-5) and bool((said.extras["nats"] >= 0).all())
    assert torch.allclose(said.probabilities["seg"], union, atol=1e-6)


def test_group_normalisation_with_one_channel_a_group_is_instance_normalisation() -> None:
    block, maps = Block(2, 3, 4), torch.randn(2, 3, 8, 8)
    assert torch.allclose(block[1](block[0](maps)), nn.InstanceNorm2d(4)(block[0](maps)), atol=1e-5)


@pytest.mark.parametrize("kl", ["mean", "sum"])
@pytest.mark.parametrize("beta", [0.0, 0.25])
def test_the_reductions_of_the_kl_by_a_slow_loop(kl: str, beta: float) -> None:
    built = method(problem((4, 6)), kl=kl, beta=beta, levels=1)
    present = rows("pa", "p", "pa")
    batch = make_batch(built.problem, 3, present=present)
    found = losses(built, batch)
    with torch.no_grad():
        own, other = (built.encoders[name](batch.inputs[name]) for name in PAIR)
        both = built.complement(torch.cat([own, other], dim=1))
    per_row = []
    for row in (0, 2):
        total = 0.0
        for x in range(4):
            for y in range(6):
                mu, log_variance = float(both[row, 0, x, y]), float(both[row, 1, x, y])
                total += 0.5 * (mu**2 + math.exp(log_variance) - log_variance - 1)
        per_row.append(total)
    nats = sum(per_row) / 2
    assert float(found.diagnostics["nats/triangle/ellipse/1"]) == pytest.approx(nats, rel=1e-4)
    assert float(found["kl/triangle"].detach()) == pytest.approx(
        beta * (nats / 24 if kl == "mean" else nats), rel=1e-4, abs=1e-9
    )
    assert set(found) == {"dice/seg/triangle", "ce/seg/triangle", "kl/triangle"}


# ------------------------------------------------------------------------------------- absence
def test_an_absent_auxiliary_image_is_kappa_zero() -> None:
    built = method().eval()
    batch = make_batch(built.problem, 3, present=rows("pa", "p", "pa"))
    with torch.no_grad():
        found = built.predict(poison(batch))
        alone = built.predict(batch.rows([1]))
        own = built.encoders["triangle"](batch.image("triangle"))
        by_hand = built.union(torch.cat([torch.zeros_like(own[:, :1]), own], dim=1)).sigmoid()
    assert not found.extras["kappa"][1].any() and not found.extras["nats"][1].any()
    assert found.extras["nats"][0].any() and found.extras["nats"][2].any()
    assert torch.allclose(found.probabilities["seg"][1], by_hand[1], atol=1e-6)
    assert torch.allclose(alone.probabilities["seg"][0], by_hand[1], atol=1e-6)
    assert torch.equal(found.used, batch.present)


def test_rows_learn_from_what_they_have() -> None:
    """Rows without the primary image give nothing, those without the auxiliary one no KL, and none changes another's noise."""
    built = method()
    batch = make_batch(built.problem, 4, present=rows("pa", "p", "a", "pa"))
    whole = losses(built, poison(batch))
    kept = losses(built, batch.rows([0, 1, 3]))
    pairs = losses(built, batch.rows([0, 3]))
    assert torch.allclose(whole["kl/triangle"], kept["kl/triangle"]) and torch.allclose(
        whole["kl/triangle"], pairs["kl/triangle"]
    )
    alone = losses(built, make_batch(built.problem, 2, present=rows("p", "p")))
    assert float(alone["kl/triangle"].detach()) == 0.0 and alone["dice/seg/triangle"].requires_grad
    nothing = losses(built, make_batch(built.problem, 2, present=rows("a", "a")))
    assert [float(term.detach()) for term in nothing.values()] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    noise = losses(built, batch)
    again = losses(built, batch.restrict(rows("pa", "p", "a", "p")))
    assert float(noise["ce/seg/triangle"].detach()) != float(again["ce/seg/triangle"].detach())


def test_without_the_primary_image_it_refuses() -> None:
    built = method()
    assert built.supports(("triangle",)) and built.supports(PAIR) and not built.supports(("ellipse",))
    with pytest.raises(UnsupportedSubset, match=r"\(triangle, triangle\+ellipse\); got ellipse"):
        built.predict(make_batch(built.problem, 2, present=rows("pa", "a")))
    assert built.stages()[0].modalities == ("triangle",)
    assert (built.requires.at_training, built.requires.at_test) == (PAIR, ("triangle",))


def test_the_other_assignment_reads_the_same_with_the_names_exchanged() -> None:
    one, two = method(), method(primary="ellipse")
    assert (two.primary, two.auxiliary) == ("ellipse", "triangle")
    weights = {name.replace("triangle", "*").replace("ellipse", "triangle"): v for name, v in one.state_dict().items()}
    two.load_state_dict({name.replace("*", "ellipse"): value for name, value in weights.items()})
    batch = make_batch(one.problem, 3)
    exchanged = batch.with_inputs({"triangle": batch.inputs["ellipse"], "ellipse": batch.inputs["triangle"]})
    with torch.no_grad():
        first, second = one.eval().predict(batch), two.eval().predict(exchanged)
    assert torch.equal(first.probabilities["seg"], second.probabilities["seg"])
    assert torch.equal(first.extras["kappa"], second.extras["kappa"])


def test_a_third_image_is_not_read() -> None:
    built = method(problem(names=("t1", "t2", "flair"), grids=("grid",) * 3), primary="flair").eval()
    assert (built.primary, built.auxiliary) == ("flair", "t1")
    batch = make_batch(built.problem, 2)
    with torch.no_grad():
        whole, without = built.predict(batch), built.predict(poison(batch.drop(["t2"])))
    assert torch.equal(whole.probabilities["seg"], without.probabilities["seg"])
    assert whole.used.tolist() == [[True, False, True]] * 2


@pytest.mark.parametrize(
    ("names", "more", "text"),
    [
        (("triangle",), {}, r"data.modalities must have two images, a primary and an auxiliary one; got .*'triangle'"),
        (
            PAIR,
            {"primary": "trangle"},
            r"method.primary must be an image of the problem; got 'trangle'. Did you mean triangle\?",
        ),
        (PAIR, {"auxiliary": "x"}, r"method.auxiliary must be an image of the problem; got 'x'"),
        (
            PAIR,
            {"primary": "ellipse", "auxiliary": "ellipse"},
            r"another image than method.primary; got 'ellipse'. For instance tri",
        ),
        (PAIR, {"levels": 4}, r"data.patch must have sides divisible by 8 .*; got \(8, 8\)"),
    ],
)
def test_mistakes(names: tuple[str, ...], more: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        method(problem(names=names), **more)


def test_images_of_different_grids_are_refused() -> None:
    with pytest.raises(ConfigError, match="share the grid one"):
        method(problem(grids=("one", "two")))


# ------------------------------------------------------------------------------------- at test
def test_draws_at_test_do_not_depend_on_the_batch_and_come_to_a_mean() -> None:
    batch = make_batch(problem(), 4, present=rows("pa", "p", "pa", "pa"))
    found = {}
    for samples in (0, 1, 2, 200):
        built = method(samples=samples).eval()
        with torch.no_grad():
            found[samples] = built.predict(batch).probabilities["seg"]
            assert torch.equal(found[samples], built.predict(batch).probabilities["seg"])
            turned = built.predict(batch.rows([3, 0])).probabilities["seg"]
        assert torch.allclose(turned, found[samples][[3, 0]], atol=1e-6)
    assert not torch.allclose(found[0][0], found[1][0]) and torch.allclose(found[0][1], found[1][1], atol=1e-6)
    built = method().eval()
    with torch.no_grad():
        features = built.encode(batch)
        mean, log_variance, _ = built._posterior(features, batch.present)
        torch.manual_seed(3)
        other = [mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance) for _ in range(200)]
        by_hand = torch.stack([built._logits(features, batch.present, kappa).sigmoid() for kappa in other]).mean(0)
    assert torch.allclose(by_hand[0], found[200][0], atol=0.1)


def test_complements_are_those_of_the_prediction_and_have_gradients() -> None:
    built = method(problem((8, 8), TWO)).eval()
    batch = make_batch(built.problem, 3, present=rows("pa", "p", "pa"))
    assert built.explains
    told, said = built.complements(batch), built.predict(batch)
    assert set(told.logits) == {("triangle", "WT"), ("triangle", "TC")}
    probabilities = torch.stack([told.logits["triangle", name] for name in ("WT", "TC")], dim=1).sigmoid()
    assert torch.allclose(probabilities, said.probabilities["seg"], atol=1e-6)
    assert torch.equal(told.maps[PAIR], said.extras["kappa"]) and torch.equal(told.nats[PAIR], said.extras["nats"].squeeze(1))
    (slope,) = torch.autograd.grad(told.logits["triangle", "WT"].sum(), told.maps[PAIR])
    assert slope.shape == told.maps[PAIR].shape and bool(slope[0].any())
    nothing = built.complements(batch.rows([1]))
    assert (nothing.maps, nothing.nats) == ({}, {}) and len(nothing.logits) == 2
    several = method(problem((8, 8), TWO, ORGANS)).eval()
    keys = set(several.complements(make_batch(several.problem, 2)).logits)
    assert keys == {("triangle", name) for name in ("seg.WT", "seg.TC", "organs.liver")}


# ------------------------------------------------------------------------------------- training
def test_more_pressure_means_fewer_nats() -> None:
    """On made-up pairs of which the auxiliary image alone shows the ball: the KL is smaller where it costs more."""

    def pairs(seed: int) -> Batch:
        made = make_batch(problem(), 8, seed=seed)  # new ones in each step: a few could be known by heart
        noise = torch.randn(made.image("triangle").shape, generator=torch.Generator().manual_seed(seed))
        return made.with_inputs({**made.inputs, "triangle": noise})

    found = []
    for beta in (0.0, 0.1, 30.0):
        built = method(beta=beta)
        optimiser = torch.optim.Adam(built.parameters(), 1e-2)
        for step in range(30):
            optimiser.zero_grad()
            torch.stack(list(losses(built, pairs(step), seed=step).values())).sum().backward()
            optimiser.step()
        with torch.no_grad():
            found.append(float(built.eval().predict(pairs(99)).extras["nats"].mean()))
    assert found[0] > 1.3 * found[1] > 10 * found[2] > 0


@pytest.mark.slow
@pytest.mark.parametrize("primary", PAIR)
def test_a_short_training_finds_what_the_auxiliary_image_adds(primary: str, tmp_path: Path) -> None:
    """KL(A) > 3 KL(O), and a DSC that no method reaches from the primary picture alone."""
    cohort = write_phantom("shapes", tmp_path / "phantom", {"cases": 100, "size": 32})
    config = {
        "cohort": str(cohort),
        "method": {"name": "ciml-shapes", "primary": primary, "steps": 250, "rate": 0.005},
        "data": {"spatial_dims": 2, "patch": [32, 32], "augment": "none", "draws_per_case": 1},
        "training": {"batch_size": 8, "device": "cpu", "threads": 1, "validations": 0},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    run = api.train(tmp_path / "c.yaml", out=tmp_path / "run")
    built = run.method()
    assert isinstance(built, CIMLShapes)
    cases = [run.cohort.case(name) for name in run.splits["test"]]
    found = measure_complement(built, run.preparer(), cases, pair=(built.primary, built.auxiliary))
    added, shared = found.kl["auxiliary_only"].value, found.kl["overlap"].value
    assert added is not None and shared is not None and added > 3 * shared
    ceilings = json.loads((cohort.parent / "ceilings.json").read_text())
    (ceiling,) = [c["value"] for c in ceilings if c["present"] == [primary]]
    dsc = {kappa: estimate.value or 0.0 for kappa, estimate in found.dsc.items()}
    assert dsc["mean"] > ceiling + 0.1 and dsc["zero"] < ceiling + 0.05
