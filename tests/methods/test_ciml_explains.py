"""What a CIML says of where it learned what: maps with their gradients, weights, and who is blamed for a region."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.methods.ciml_fakes import (
    ORGANS,
    OWNERS,
    REGIONS,
    TABLE_5,
    batch_of,
    losses,
    method,
    opinions,
    predicted,
    problem,
    total,
)
from torch import Tensor, nn

from comodal.batch import Batch
from comodal.methods.ciml import CIML
from comodal.modality import Target
from comodal.networks.message_passing import Gate
from comodal.testing import make_batch


# ------------------------------------------------------------------------------------------------ explanation
def test_maps_lead_to_logits() -> None:
    built, batch = method().eval(), batch_of("all", "flair t2")
    told = built.complements(batch)
    assert built.explains and set(told.logits) == {(primary, region) for primary, own in OWNERS.items() for region in own}
    said = opinions(built, batch)
    torch.testing.assert_close(told.logits["flair", "WT"].sigmoid(), said["flair"]["WT"])
    for (primary, region), logits in told.logits.items():
        mine = {pair: kappa for pair, kappa in told.maps.items() if pair[0] == primary}
        for gradient in torch.autograd.grad(logits.sum(), list(mine.values()), retain_graph=True):
            assert bool(gradient[0].any()), (primary, region)
        others = [kappa for pair, kappa in told.maps.items() if pair[0] != primary]
        found = torch.autograd.grad(logits.sum(), others, retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in found)


def test_logits_of_labels_are_log_odds_and_targets_are_told_apart() -> None:
    """Their sigmoid is the softmax of the segmentor; the background has no row."""
    alone = method(problem((16, 16), ORGANS, names=("flair", "t1")), assignment={"flair": ["organs"], "t1": []}).eval()
    batch = make_batch(alone.problem, 2)
    told, said = alone.complements(batch), predicted(alone, batch).probabilities["organs"]
    assert set(told.logits) == {("flair", "liver"), ("flair", "spleen")}
    for k, name in enumerate(ORGANS.classes[1:], 1):
        torch.testing.assert_close(told.logits["flair", name].sigmoid(), said[:, k])
    again = Target("later", "regions", ("WT",), ((1,),), (1,))
    both = method(problem((16, 16), REGIONS, again), assignment=None).eval()
    keys = {region for primary, region in both.complements(make_batch(both.problem, 1)).logits if primary == "flair"}
    assert keys == {"seg.WT", "seg.TC", "seg.ET", "later.WT"}


@pytest.mark.parametrize("variant", ["message and attention", "message and filter"])
def test_maps_of_the_variants(variant: str) -> None:
    built = method(**TABLE_5[variant])
    told = built.complements(batch_of("all", "flair t1"))
    assert built.explains and len(told.maps) == 12
    assert all(bool(nats.any()) == (variant == "message and filter") for nats in told.nats.values())
    assert not method(**TABLE_5["message"]).explains  # fused before they can be told apart


def weights(built: CIML, batch: Batch, pair: tuple[str, str]) -> dict[str, float]:
    """Equations (14) to (17): each auxiliary's share of the heat, over voxels that are predicted."""
    told = built.eval().complements(batch)
    names = [auxiliary for primary, auxiliary in told.maps if primary == pair[0]]
    maps = [told.maps[pair[0], name] for name in names]
    logit = told.logits[pair]
    y = logit[logit > 0].sum() if bool((logit > 0).any()) else logit.sum()
    heat = []
    for kappa, gradient in zip(maps, torch.autograd.grad(y, maps), strict=True):
        alpha = gradient.mean(dim=tuple(range(2, kappa.ndim)), keepdim=True)
        heat.append(float((alpha * kappa).sum(dim=1).relu().sum().detach()))
    return {name: one / sum(heat) for name, one in zip(names, heat, strict=True)}


@pytest.mark.parametrize("bias", [True, False])
def test_silence_weighs_nothing_but_for_a_bias(bias: bool) -> None:
    """A message multiplied by 0 still says the bias of its mean head: its weight is 0 only where that is 0, too."""
    built, batch = method(attention=False), batch_of("all", "all")

    def silent(_: nn.Module, __: Any, found: tuple[Tensor, list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        return found[0], [0 * message for message in found[1]]

    built.network.generators["t2"].register_forward_hook(silent)
    gates = [gate for gate in built.network.gates["flair"].modules() if isinstance(gate, Gate)]
    biases = dict(built.network.gates["flair"].named_parameters())
    of_t2 = [biases[f"{level}.mean.bias"].data[2 * gate.channels :] for level, gate in enumerate(gates)]
    shares = []
    for sign in (1, -1):  # its heat is above 0 where the bias points the way of the gradient
        for values in of_t2:
            values.mul_(sign if bias else 0)
        shares.append(weights(built, batch, ("flair", "WT"))["t2"])
    kappa = built.complements(batch).maps["flair", "t2"]
    assert bool(kappa.any()) == bias and (max(shares) > 0) == bias
    constant = kappa.flatten(2)
    torch.testing.assert_close(constant, constant[:, :, :1].expand_as(constant))  # whatever it says, it says everywhere


# ------------------------------------------------------------------------------------------------ a region that one shows
BLOB = Target("seg", "regions", ("blob",), ((1,),), (1,))


PRICES: dict[str, dict[str, Any]] = {
    "alone": {"messages": False},
    "0.01": {"beta": 0.01},
    "0.5": {},
    "10": {"beta": 10.0},
    "unfiltered": {"filter": False},
}


def _disks(count: int, seed: int, side: int = 16) -> Tensor:
    """(count, side, side): a disk in a random place."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.arange(side, dtype=torch.float32)
    centre = 3 + (side - 6) * torch.rand((count, 2), generator=generator)
    across = (grid[None, :, None] - centre[:, 0, None, None]) ** 2 + (grid[None, None] - centre[:, 1, None, None]) ** 2
    return (across < 9.0).float()


def _scene(count: int, *, shown: dict[str, Tensor], truth: Tensor, seed: int) -> Batch:
    """Images of noise and of what is shown in them, with what is to be found."""
    made_for = problem((16, 16), BLOB, names=tuple(shown))
    generator = torch.Generator().manual_seed(seed)
    batch = make_batch(made_for, count)
    noise = {name: 0.3 * torch.randn((count, 1, 16, 16), generator=generator) for name in shown}
    images = {name: noise[name] + value[:, None] for name, value in shown.items()}
    return replace(batch.with_inputs(images), targets={"seg": truth[:, None].to(torch.uint8)})


def _train(built: CIML, batch: Batch, steps: int, rate: float = 5e-3) -> None:
    built.train()
    optimiser = torch.optim.Adam(built.parameters(), rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randint(len(batch), (8,), generator=generator)
        optimiser.zero_grad()
        total(losses(built, batch.rows(rows), seed=step)).backward()
        optimiser.step()


def _dice(built: CIML, batch: Batch) -> float:
    found = predicted(built, batch).probabilities["seg"] > 0.5
    truth = batch.targets["seg"].bool()
    return 2 * int((found & truth).sum()) / (int(found.sum()) + int(truth.sum()))


def test_what_one_auxiliary_shows_is_found_and_laid_to_its_account() -> None:
    """The primary image and the other auxiliary are noise; alone the segmentor can know nothing."""
    disks = {split: _disks(count, seed) for split, count, seed in (("train", 96, 0), ("test", 32, 1))}
    data = {
        split: _scene(len(d), shown={"p": 0 * d, "shows": d, "noise": 0 * d}, truth=d, seed=len(d))
        for split, d in disks.items()
    }
    made, found = {}, {}
    for messages in (True, False):
        options = {"assignment": {"p": ["blob"], "shows": [], "noise": []}, "messages": messages}
        made[messages] = method(problem((16, 16), BLOB, names=("p", "shows", "noise")), **options)
        _train(made[messages], data["train"], 60)
        found[messages] = _dice(made[messages], data["test"])
    assert found[True] > 0.7 and found[True] > found[False] + 0.2, found
    share = weights(made[True], data["test"], ("p", "blob"))
    assert share["shows"] > 0.6, share
    nats = {pair[1]: float(value.detach().mean()) for pair, value in made[True].complements(data["test"]).nats.items()}
    assert nats["shows"] > 2 * nats["noise"], nats


@pytest.mark.slow
def test_two_disks_of_which_each_image_shows_one() -> None:
    """Messages let everybody find both, whatever their price; the dearer they are, the less is said."""
    shown = {}
    for split, count in (("train", 160), ("test", 40)):
        a, b = (_disks(count, seed + count) for seed in (0, 1))
        truth = torch.maximum(a, b)
        shown[split] = _scene(count, shown={"m0": a, "m1": b, "m2": 0 * a}, truth=truth, seed=count)
    dice, told, said = {}, {}, {}
    for name, options in PRICES.items():
        built = method(problem((16, 16), BLOB, names=("m0", "m1", "m2")), **options)
        _train(built, shown["train"], 120)
        dice[name] = _dice(built, shown["test"])
        if built.explains:
            told[name] = [weights(built, shown["test"], (primary, "blob")) for primary in ("m0", "m1")]
            said[name] = sum(float(value.detach().mean()) for value in built.complements(shown["test"]).nats.values())
    assert all(dice[name] > dice["alone"] + 0.2 for name in dice if name != "alone"), dice
    assert said["0.01"] > said["0.5"] > said["10"] > 0, said
    assert told["0.5"][0]["m1"] > 0.6 and told["0.5"][1]["m0"] > 0.6, told
