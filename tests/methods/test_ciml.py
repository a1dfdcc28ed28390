"""CIML: the size of Table 1, the rows of Table 5, Equation (8) by hand, who teaches whom, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.methods.ciml_fakes import (
    ORGANS,
    OWNERS,
    REGIONS,
    SEQUENCES,
    TABLE_5,
    TINY,
    batch_of,
    gradients,
    losses,
    method,
    opinions,
    predicted,
    problem,
    share_of,
    total,
)
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from comodal.batch import Batch
from comodal.errors import ConfigError
from comodal.method import Losses, Problem
from comodal.methods import ciml
from comodal.methods.ciml import CIML, CIMLConfig
from comodal.modality import Target
from comodal.testing import check_method, make_batch

# ------------------------------------------------------------------------------------------------ the contract
VARIANTS: dict[str, tuple[Problem, dict[str, Any]]] = {
    "message": (problem((8, 8), names=("a", "b")), {**TABLE_5["message"], "norm": "batch"}),
    "batch norm": (
        problem((8, 8)),
        {"norm": "batch", "message_dropout": 0.5, "spare": "learned", "nested": ("ET", "TC", "WT")},
    ),
    "joined": (
        problem((8, 8), ORGANS, REGIONS, names=("a", "b", "c")),
        {"assignment": {"a+b": ["organs", "WT"], "c": ["TC", "ET"], "a": []}, "samples": 2, "spare": "none"},
    ),
    "other": (
        problem((8, 4, 8), REGIONS, names=("a", "b")),
        {"spread": "softplus", "combine": "mean", "kl": "voxel", "samples": 2, "dilation": 2, "detach_messages": True},
    ),
}


@pytest.mark.parametrize("variant", ["joined", *[pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS if v != "joined"]])
def test_every_variant_keeps_every_promise(variant: str) -> None:
    made_for, options = VARIANTS[variant]
    check_method(CIML, made_for, CIMLConfig.model_validate({"width": 4, "levels": 1, "rate": 5e-3, **options}))


def test_the_defaults_are_those_of_the_paper_where_it_states_them() -> None:
    config = CIMLConfig()
    assert (config.optimiser, config.weight_decay, config.schedule) == ("adam", 3e-5, "poly")
    assert (config.beta, config.levels, config.width) == (0.5, 4, 32)
    assert config.messages and config.attention and config.filter and not config.detach_messages
    assert (config.kl, config.spread, config.combine, config.dilation) == ("mean", "log_variance", "sum", 1)
    assert (config.samples, config.message_dropout, config.nested) == (0, 0.0, ())


# ------------------------------------------------------------------------------------------------ size
@pytest.mark.parametrize(
    ("width", "expected"), [(4, 874_350), (8, 3_398_598), (16, 13_484_790), (24, 30_287_910), (32, 53_807_958)]
)
def test_four_segmentors_have_the_parameters_of_table_1(width: int, expected: int) -> None:
    with torch.device("meta"):
        built = CIML(problem((32, 32, 32)), CIMLConfig(width=width, spare="none"))
        more = CIML(problem((32, 32, 32)), CIMLConfig(width=width, spare="detached"))
    assert sum(p.numel() for p in built.parameters()) == expected
    assert sum(p.numel() for p in more.parameters()) - expected == (2 + 2 + 1 + 1) * (27 * width + 1)  # six other pairs


@pytest.mark.parametrize(("width", "expected"), [(16, 6_555_034), (32, 26_192_026)])
def test_two_segmentors_of_pet_and_ct(width: int, expected: int) -> None:
    lesion = Target("lesion", "regions", ("lesion",))
    with torch.device("meta"):
        built = CIML(problem((32, 32, 32), lesion, names=("ct", "pet")), CIMLConfig(width=width))
    assert sum(p.numel() for p in built.parameters()) == expected  # both own all there is, so that nothing is spare


@pytest.mark.parametrize("names", [("ct", "pet"), SEQUENCES], ids=["K=1", "K=3"])
@pytest.mark.parametrize("regions", [1, 2])
@pytest.mark.parametrize("patch", [(32, 32, 32), (48, 16, 16), (32, 48)])
def test_shapes_of_four_levels(names: tuple[str, ...], regions: int, patch: tuple[int, ...]) -> None:
    target = Target("seg", "regions", ("WT", "TC")[:regions])
    built = method(problem(patch, target, names=names), levels=4)
    found = predicted(built, make_batch(built.problem, 1))
    assert found.probabilities["seg"].shape == (1, regions, *patch) and found.extras == {}
    coarse = tuple(n // 2 for n in patch)
    told = built.complements(make_batch(built.problem, 1))
    assert len(told.maps) == len(names) * (len(names) - 1)
    assert {tuple(v.shape) for v in told.maps.values()} == {(1, 4, *coarse)}
    assert {tuple(v.shape) for v in told.nats.values()} == {(1, *coarse)}
    assert {tuple(v.shape) for v in told.logits.values()} == {(1, *patch)}


# ------------------------------------------------------------------------------------------------ variants of Table 5
@pytest.mark.parametrize("variant", TABLE_5)
def test_noise_is_for_training_alone(variant: str) -> None:
    built, batch = method(**TABLE_5[variant]), batch_of("all", "all")
    assert torch.equal(*(predicted(built, batch).probabilities["seg"] for _ in range(2)))
    built.train()
    with torch.no_grad():
        first, again, other = (total(losses(built, batch, seed=seed)) for seed in (0, 0, 1))
    filtered = variant in ("whole", "message and filter")
    assert torch.equal(first, again) and torch.equal(first, other) != filtered


@pytest.mark.parametrize("variant", TABLE_5)
def test_without_the_filter_there_is_no_price(variant: str) -> None:
    batch = batch_of("all", "flair t2", "t1ce")
    found = {beta: losses(method(beta=beta, **TABLE_5[variant]), batch) for beta in (0.5, 5.0)}
    priced = [name for name in found[0.5] if name.startswith("kl/")]
    if variant in ("whole", "message and filter"):
        assert priced == [f"kl/{name}" for name in SEQUENCES]
        for name in priced:
            torch.testing.assert_close(found[5.0][name], 10 * found[0.5][name])
    else:
        assert not priced and not found[0.5].diagnostics and torch.equal(total(found[0.5]), total(found[5.0]))


def test_alone_each_segmentor_is_what_it_is_without_the_others() -> None:
    built = method(**TABLE_5["baseline"])
    whole = built.eval().predict(batch_of("all", "all"))
    assert whole.used.all() and not built.explains
    alone = predicted(method(**TABLE_5["baseline"]), batch_of("t1ce", "t1ce"))
    torch.testing.assert_close(alone.probabilities["seg"][:, 2], opinions(built, batch_of("all", "all"))["t1ce"]["ET"])


# ------------------------------------------------------------------------------------------------ Equation (8)
def test_the_task_terms_by_hand() -> None:
    """Soft Dice of the batch and cross-entropy, of the rows that have the primary image, for the regions that are owned."""
    built, batch = method(message_dropout=1.0), batch_of("all", "flair t1", "t1ce t2", "t1")
    found = losses(built, batch)
    assert [name for name in found if not name.endswith("/spare")] == [
        name for primary in SEQUENCES for name in (f"dice/seg/{primary}", f"ce/seg/{primary}", f"kl/{primary}")
    ]
    for primary, regions in OWNERS.items():
        there = batch.is_present(primary)
        logits = built.complements(batch.rows(there.nonzero().flatten()).keep([primary])).logits
        dice, entropy = [], []
        for region in regions:
            truth = batch.targets["seg"][there][:, REGIONS.classes.index(region)].float()
            p = logits[primary, region].sigmoid()
            dice.append(1 - (2 * (p * truth).sum() + 1e-5) / (p.sum() + truth.sum() + 1e-5))
            entropy.append(binary_cross_entropy_with_logits(logits[primary, region], truth))
        torch.testing.assert_close(found[f"dice/seg/{primary}"], torch.stack(dice).mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[f"ce/seg/{primary}"], torch.stack(entropy).mean(), rtol=1e-4, atol=1e-5)


def _divergences(built: CIML, batch: Batch) -> dict[tuple[str, str, int], list[Tensor]]:
    """{(primary, auxiliary, level): the KL (C, *level) of each row that has both}, one row at a time, by torch."""
    found: dict[tuple[str, str, int], list[Tensor]] = {}
    with torch.no_grad():
        for row in range(len(batch)):
            one = batch.rows([row])
            encoded = built.network.generate(one)
            for share in built.owners:
                heard = built.network.listen(share, encoded, one.present, measure=True)
                others = built.network.others(share)
                for level, complement in enumerate(heard.complements, 1):
                    for at, j in enumerate(complement.columns if complement is not None else ()):
                        assert complement is not None
                        mean, variance = complement.means[at][0], complement.log_variances[at][0].exp()
                        standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
                        kl = kl_divergence(Normal(mean, variance.sqrt()), standard)
                        found.setdefault((share.name, others[j].name, level), []).append(kl)
    return found


@pytest.mark.parametrize("kl", ["mean", "voxel", "sum"])
@pytest.mark.parametrize("weights", [None, (1.0, 3.0), (0.0, 2.0)])
def test_the_price_of_messages_by_hand(kl: str, weights: tuple[float, ...] | None) -> None:
    """Mean over messages that came, rows and levels; "mean" over channels and voxels, too, "voxel" sums channels."""
    built, batch = method(kl=kl, kl_levels=weights, beta=0.7), batch_of("all", "flair t1", "t1ce t2 flair", "t1")
    found, each = losses(built, batch), _divergences(built, batch)
    for primary in SEQUENCES:
        summed, count = torch.zeros(()), 0
        for (owner, _, level), divergences in each.items():
            for one in divergences if owner == primary else ():
                reduced = {"mean": one.mean(), "voxel": one.sum(dim=0).mean(), "sum": one.sum()}[kl]
                summed = summed + (weights or (1.0, 1.0))[level - 1] * reduced
                count += level == 1
        expected = 0.7 * summed / count / sum(weights or (1.0, 1.0))
        torch.testing.assert_close(found[f"kl/{primary}"], expected, rtol=1e-4, atol=1e-6)
    named = {f"nats/{primary}/{auxiliary}/{level}": values for (primary, auxiliary, level), values in each.items()}
    assert named.keys() == found.diagnostics.keys()
    for name, values in named.items():
        expected = torch.stack([one.sum() for one in values]).mean()
        torch.testing.assert_close(found.diagnostics[name], expected, rtol=1e-4, atol=1e-5)


def test_nats_are_those_of_the_finest_gate() -> None:
    built, batch = method(), batch_of("all", "flair t1")
    told, each = built.complements(batch), _divergences(built, batch)
    for (primary, auxiliary), nats in told.nats.items():
        rows_with_both = (batch.is_present(primary) & batch.is_present(auxiliary)).tolist()
        expected = iter(each[primary, auxiliary, 1])
        for row, there in enumerate(rows_with_both):
            torch.testing.assert_close(
                nats[row], next(expected).sum(dim=0) if there else torch.zeros(8, 8), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_messages_are_dropped_by_chance(probability: float) -> None:
    built = method(message_dropout=probability)
    torch.manual_seed(0)
    kept = built._kept(4000)
    assert kept is not None and kept.shape == (4000, 3)
    assert float(kept.float().mean()) == pytest.approx(1 - probability, abs=0.02)
    assert method()._kept(3) is None and method(message_dropout=0.5, messages=False)._kept(3) is None


def test_all_messages_dropped_is_as_if_there_were_none() -> None:
    built, batch = method(message_dropout=1.0), batch_of("all", "all", "flair t2")
    found = losses(built, batch)
    assert found.diagnostics == {}
    for primary in SEQUENCES:
        alone = losses(method(), batch.rows(batch.is_present(primary).nonzero().flatten()).keep([primary]))
        assert float(found[f"kl/{primary}"].detach()) == 0.0
        for term in ("dice", "ce"):
            name = f"{term}/seg/{primary}"
            torch.testing.assert_close(found[name], alone[name], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ who teaches whom
@pytest.mark.parametrize(("options", "teaches"), [({}, True), ({"detach_messages": True}, False), ({"messages": False}, False)])
def test_a_segmentor_teaches_the_encoders_of_the_others(options: dict[str, Any], teaches: bool) -> None:
    built = method(spare="none", **options)
    found = gradients(built, batch_of("all", "all"), of=("dice/seg/flair", "ce/seg/flair"))
    for name in SEQUENCES:
        strength = sum(float(g.abs().sum()) for key, g in found.items() if key.startswith(f"network.generators.{name}."))
        assert (strength > 0) == (teaches or name == "flair"), name


def test_the_order_of_modalities_does_not_matter() -> None:
    """With the places of the senders exchanged in attention and heads, which are all that knows an order."""
    first = method().eval()
    turned = ("t2", "flair", "t1ce", "t1")
    second = CIML(problem(names=turned), CIMLConfig.model_validate(TINY)).eval()
    weights = dict(first.state_dict())
    for share in second.shares:
        old = [other.name for other in first.network.others(share_of(first, share.name))]
        at = [old.index(other.name) for other in second.network.others(share)]
        for level, c in enumerate((4, 8)):
            gate = f"network.gates.{share.name}.{level}."
            weights[f"{gate}attention.0.weight"] = weights[f"{gate}attention.0.weight"][:, [0, *[j + 1 for j in at]]]
            for layer in ("3.weight", "3.bias", "4.weight", "4.bias"):
                weights[f"{gate}attention.{layer}"] = weights[f"{gate}attention.{layer}"][at]
            for head in ("mean.weight", "mean.bias", "spreading.weight", "spreading.bias"):
                blocks = weights[gate + head].split(c)
                weights[gate + head] = torch.cat([blocks[j] for j in at])
    second.load_state_dict(weights)
    batch = batch_of("all", "flair t1ce", "t1 t2 t1ce")
    other = replace(batch, modalities=turned, present=batch.present[:, [SEQUENCES.index(name) for name in turned]])
    one, two = (predicted(built, given).probabilities["seg"] for built, given in ((first, batch), (second, other)))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_rows_that_only_send_teach_nobody() -> None:
    """A batch may have no others; its loss has a gradient all the same, of zero."""
    built = method(assignment={"flair": ["WT", "TC", "ET"], "t1": [], "t1ce": [], "t2": []})
    _teaches_nobody(built, losses(built, batch_of("t1", "t1ce t2")))


def test_rows_that_no_segmentor_can_read_teach_nobody() -> None:
    """Each has a part of what a segmentor of two images needs, so that nothing at all is encoded."""
    built = method(assignment={"flair+t1": ["WT", "TC"], "t1ce+t2": ["ET"]})
    _teaches_nobody(built, losses(built, batch_of("flair", "t2")))


def _teaches_nobody(built: CIML, terms: Losses) -> None:
    assert terms and {name: float(value.detach()) for name, value in terms.items()} == dict.fromkeys(terms, 0.0)
    total(terms).backward()
    assert all(p.grad is None or not p.grad.any() for p in built.parameters())


class Together:
    """Two processes as two threads: a sum waits for the other, and is refused where the other sums something else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.barrier, self.place, self.given = threading.Barrier(2, timeout=60), threading.local(), [torch.zeros(0)] * 2
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_reduce", self.all_reduce)

    def all_reduce(self, tensor: Tensor) -> None:
        self.given[self.place.rank] = tensor.clone()
        self.barrier.wait()
        assert self.given[0].shape == self.given[1].shape
        tensor.copy_(self.given[0] + self.given[1])
        self.barrier.wait()

    def run(self, work: Callable[[int], None]) -> None:
        failures: list[BaseException] = []

        def one(rank: int) -> None:
            self.place.rank = rank
            try:
                work(rank)
            except BaseException as error:  # noqa: BLE001
                failures.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


@pytest.mark.parametrize("kl", ["mean", "sum"])
@pytest.mark.parametrize("cut", [1, 2, 3], ids=lambda cut: f"{cut} rows here")
def test_two_processes_have_the_loss_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch, kl: str, cut: int) -> None:
    """Terms and gradients are averaged; a process none of whose rows has an image, or that only sends, keeps nobody waiting."""
    batch = batch_of("flair t1", "t1 t1ce", "flair t2", "all")
    assignment = {"flair": ["WT"], "t1ce": ["TC", "ET"], "t2": ["WT", "TC"], "t1": []}
    monkeypatch.setattr(ciml, "_fresh", lambda _, mean: torch.zeros_like(mean))  # a process draws noise of its own
    single = method(kl=kl, assignment=assignment)
    whole, gradient = losses(single, batch), gradients(single, batch)
    pair = [method(kl=kl, assignment=assignment) for _ in range(2)]
    parts = [batch.rows(list(range(cut))), batch.rows(list(range(cut, 4)))]
    found: list[dict[str, Tensor]] = [{}, {}]

    def work(rank: int) -> None:
        terms = pair[rank].losses(parts[rank], pair[rank].stages()[0])
        total(terms).backward()
        found[rank] = {name: value.detach() for name, value in terms.items()}

    Together(monkeypatch).run(work)
    assert found[0].keys() == found[1].keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close((found[0][name] + found[1][name]) / 2, value.detach(), rtol=1e-4, atol=1e-5)
    for (name, one), (_, other) in zip(pair[0].named_parameters(), pair[1].named_parameters(), strict=True):
        grads = [p.grad for p in (one, other) if p.grad is not None]
        mean = sum(grads, torch.zeros_like(one)) / 2
        assert torch.allclose(mean, gradient[name], rtol=1e-3, atol=1e-4), name


# ------------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(("levels", "patch"), [(3, (16, 12)), (4, (16, 16, 16)), (2, (2, 16))])
def test_a_patch_must_be_halved_often_enough(levels: int, patch: tuple[int, ...]) -> None:
    """A coarsest level of one voxel has no spread to normalise by."""
    step = 2**levels
    with pytest.raises(ConfigError) as caught:
        method(problem(patch), levels=levels)
    assert str(caught.value) == (
        f"data.patch must have sides divisible by {step}, not all of them {step}, for {levels} levels; got {patch}. "
        "Change data.patch or lower method.levels."
    )


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 0.0), (1.0, 1.0, 1.0)])
def test_each_level_has_a_weight(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        method(kl_levels=weights)
    assert str(caught.value) == (
        f"method.kl_levels must have 2 weights of at least 0, one of them more; got {weights}. "
        "Write one for each level, the finest first."
    )


def test_only_regions_can_be_nested() -> None:
    with pytest.raises(ConfigError) as caught:
        method(nested=("ET", "core"))
    assert str(caught.value) == "method.nested must name regions of the targets; got core. Choose among WT, TC, ET."
    with pytest.raises(ConfigError, match=r"method.nested must name regions of the targets; got liver. Leave it empty.$"):
        method(problem((16, 16), ORGANS), nested=("liver",))
