"""CIML where images are absent: nothing is read of them, who speaks in their place, and how sure it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.methods.ciml_fakes import (
    ORGANS,
    REGIONS,
    SEQUENCES,
    batch_of,
    gradients,
    losses,
    method,
    opinions,
    predicted,
    problem,
    rows,
    share_of,
)
from torch import Tensor

from comodal.batch import Batch
from comodal.errors import UnsupportedSubset
from comodal.methods.ciml import CIML
from comodal.modality import subsets
from comodal.testing import make_batch, poison


# ------------------------------------------------------------------------------------------------ what is absent
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("spare", ["none", "detached", "learned"])
def test_nothing_is_read_of_what_is_absent(norm: str, spare: str) -> None:
    """Loss, gradients, running statistics and predictions, to the bit."""
    batch = batch_of("all", "flair t1ce", "t1ce t2", "t1 t1ce t2")
    found = []
    for given in (batch, poison(batch)):
        built = method(norm=norm, spare=spare, message_dropout=0.3)
        values = {**losses(built, given), **gradients(built, given), **dict(built.named_buffers())}
        found.append({**values, "prediction": predicted(built, given).probabilities["seg"]})
        assert (norm == "batch") == any("running_mean" in name for name in values)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert bool(value.isfinite().all()) and torch.equal(value, found[1][name]), name


def test_a_region_is_the_mean_of_the_owners_that_are_there() -> None:
    """Alone its probability, of three the arithmetic mean; without its primary image a segmentor has no say."""
    built = method()
    for names in ("all", "flair t1ce", "t1 t1ce t2", "t1ce t2"):
        batch = batch_of(names, names)
        said = opinions(built, batch)
        assert set(said) == set(SEQUENCES if names == "all" else names.split())
        found = predicted(built, batch)
        assert torch.equal(found.used, batch.present)
        for k, region in enumerate(REGIONS.classes):
            each = [opinion[region] for opinion in said.values() if region in opinion]
            assert 1 <= len(each) <= 3
            torch.testing.assert_close(found.probabilities["seg"][:, k], torch.stack(each).mean(0))


def test_what_an_absent_image_would_have_said_is_zero() -> None:
    built, batch = method(), batch_of("all", "flair t1", "t1ce t2")
    told = built.complements(poison(batch))
    assert set(told.maps) == set(told.nats) == {(a, b) for a in SEQUENCES for b in SEQUENCES if a != b}
    for (primary, auxiliary), kappa in told.maps.items():
        both = batch.is_present(primary) & batch.is_present(auxiliary)
        assert kappa.flatten(1).any(dim=1).tolist() == both.tolist()
        assert told.nats[primary, auxiliary].flatten(1).any(dim=1).tolist() == both.tolist()
    for (primary, _), logits in told.logits.items():
        assert logits.flatten(1).any(dim=1).tolist() == batch.is_present(primary).tolist()
    two = built.complements(batch_of("flair t1", "flair"))
    assert set(two.maps) == {("flair", "t1"), ("t1", "flair")} and set(two.logits) == {("flair", "WT"), ("t1", "TC")}


def test_decoding_encodings_is_predicting() -> None:
    built = method(nested=("ET", "TC", "WT")).eval()
    batch = batch_of("all", "t1", "flair t2", "t1ce t2")
    with torch.no_grad():
        whole = built.predict(batch)
        apart: dict[str, Any] = {}
        for name in SEQUENCES:  # one at a time, as the predictor does
            has = batch.is_present(name)
            alone = built.encode(batch.rows(has.nonzero().flatten()).keep([name]))[name]
            apart[name] = tuple(
                part.new_full((4, *part.shape[1:]), torch.nan).index_copy(0, has.nonzero()[:, 0], part) for part in alone
            )
        found = built.decode(apart, batch.present)
    assert built.encodes and torch.equal(found.used, whole.used)
    torch.testing.assert_close(found.probabilities["seg"], whole.probabilities["seg"], rtol=1e-5, atol=1e-6)


BY_HAND = {"flair+t1ce", "t1ce+t2", "flair+t1+t1ce", "flair+t1ce+t2", "t1+t1ce+t2", "flair+t1+t1ce+t2"}


@pytest.mark.parametrize("spare", ["none", "detached", "learned"])
def test_which_subsets_it_predicts_from(spare: str) -> None:
    """Without spare heads ET needs t1ce, its only owner, and WT needs flair or t2; with them anything will do."""
    built = method(spare=spare)
    can = {"+".join(names) for names in subsets(SEQUENCES) if built.supports(names)}
    every = {"+".join(names) for names in subsets(SEQUENCES)}
    assert len(every) == 15 and can == (BY_HAND if spare == "none" else every)
    assert not built.supports(()) and not built.supports(("t1ce", "flair", "dwi"))
    if spare == "none":
        with pytest.raises(UnsupportedSubset, match=r"got t1\. Give one of these subsets"):
            built.predict(batch_of("all", "t1"))


def test_a_sender_alone_predicts_nothing() -> None:
    built = method(assignment={"flair": ["WT", "TC", "ET"], "t1": [], "t1ce": [], "t2": []})
    assert [names for names in subsets(SEQUENCES) if built.supports(names)] == [n for n in subsets(SEQUENCES) if "flair" in n]
    assert not built.spares and [name.split("/")[-1] for name in losses(built, batch_of("all", "flair"))] == ["flair"] * 3
    found = predicted(built, batch_of("flair t1", "flair"))
    assert found.used.tolist() == rows("flair t1", "flair").tolist()


def test_a_joined_primary_needs_all_its_images() -> None:
    built = method(assignment={"flair+t1": ["WT"], "t1ce": ["TC", "ET"], "t2": ["WT"]}, spare="none")
    assert built.names == ("flair+t1", "t1ce", "t2") and not built.encodes
    assert not built.supports(("flair", "t1ce")) and built.supports(("flair", "t1", "t1ce")) and built.supports(("t1ce", "t2"))
    found = predicted(built, batch_of("all", "flair t1ce t2", "flair t1 t1ce"))
    assert found.used.tolist() == rows("all", "t1ce t2", "flair t1 t1ce").tolist()  # flair alone serves nobody
    assert {name.split("/")[-1] for name in losses(built, batch_of("all", "flair t1"))} == {"flair+t1", "t1ce", "t2"}


# ------------------------------------------------------------------------------------------------ spare heads
def _spoken(built: CIML, batch: Batch, name: str) -> dict[str, Tensor]:
    """{region: what the spare head of one segmentor says of it}."""
    with torch.no_grad():
        share = share_of(built, name)
        heard = built.network.listen(share, built.network.generate(batch), batch.present)
        said = built.spares[name](heard.features).sigmoid().unbind(dim=1)
    return dict(zip([c for target in share.spare for c in target.classes], said, strict=True))


def test_spare_heads_speak_where_no_owner_is() -> None:
    built, batch = method(), batch_of("flair t1", "flair t1")
    own = opinions(built, batch)
    flair, t1 = (_spoken(built, batch, name) for name in ("flair", "t1"))
    found = predicted(built, batch).probabilities["seg"]
    torch.testing.assert_close(found[:, 0], own["flair"]["WT"])  # t1 has a spare head for it, but flair owns it
    torch.testing.assert_close(found[:, 1], own["t1"]["TC"])
    torch.testing.assert_close(found[:, 2], (flair["ET"] + t1["ET"]) / 2)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Whether these have owners or not, and which way the mean then goes."""
    built = method(samples=2)
    names = [" ".join(chosen) for chosen in subsets(SEQUENCES)]
    whole = predicted(built, batch_of(*names))
    for order in (list(range(14, -1, -1)), *[[at] for at in range(15)]):
        some = predicted(built, batch_of(*names).rows(order))
        assert torch.equal(some.used, whole.used[order])
        torch.testing.assert_close(some.probabilities["seg"], whole.probabilities["seg"][order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(some.extras["uncertainty"], whole.extras["uncertainty"][order], rtol=1e-4, atol=1e-5)


def test_detached_spare_heads_change_nothing_else() -> None:
    batch, found = batch_of("all", "flair t1", "t1ce"), {}
    for spare in ("none", "detached", "learned"):
        built = method(spare=spare)
        found[spare] = {**gradients(built, batch), "p": predicted(built, batch_of("all", "all")).probabilities["seg"]}
    more = found["detached"].keys() - found["none"].keys()
    assert more == {f"spares.{name}.{part}" for name in SEQUENCES for part in ("weight", "bias")}
    assert all(bool(found["detached"][name].any()) for name in more)
    for name, value in found["none"].items():
        assert torch.equal(found["detached"][name], value), name
    taught = [name for name, value in found["none"].items() if not torch.equal(found["learned"][name], value)]
    assert "p" not in taught and any(name.startswith("network.generators.flair") for name in taught)


# ------------------------------------------------------------------------------------------------ draws at test
def test_draws_have_a_mean_and_a_spread() -> None:
    built, batch = method(samples=3), batch_of("all", "flair t1", "flair")
    one, two = predicted(built, batch), predicted(built, batch)
    spread = one.extras["uncertainty"]
    assert spread.shape == (3, 3, 16, 16) and torch.equal(spread, two.extras["uncertainty"])
    assert torch.equal(one.probabilities["seg"], two.probabilities["seg"])
    assert bool(spread[:2].any()) and not spread[2].any()  # who hears nobody is certain
    quiet = predicted(method(), batch).probabilities["seg"]
    assert not torch.equal(quiet[:2], one.probabilities["seg"][:2])
    torch.testing.assert_close(quiet[2], one.probabilities["seg"][2])
    assert predicted(method(samples=1), batch).extras == {}


def test_draws_are_those_of_independent_noise() -> None:
    """The noise of each segmentor, sender, level and draw is another one."""
    built = method(samples=2)
    levels = (torch.zeros(5, 4, 16, 16), torch.zeros(5, 8, 8, 8))
    drawn = {
        (share.name, sample, sender, level): built._noise(share, sample)(sender, mean).flatten()[:256]
        for share in built.shares
        for sample in range(2)
        for sender in range(3)
        for level, mean in enumerate(levels)
    }
    assert len(drawn) == 48 and built._noise(built.shares[0], 0)(0, levels[0]).shape == (4, 16, 16)
    correlation = torch.corrcoef(torch.stack(list(drawn.values()))) - torch.eye(48)
    assert float(correlation.abs().max()) < 5 / 256**0.5


def test_several_targets_have_an_uncertainty_each() -> None:
    two = problem((16, 16), ORGANS, REGIONS, names=("a", "b"))
    found = predicted(method(two, samples=2), make_batch(two, 2))
    assert {name: tuple(value.shape) for name, value in found.extras.items()} == {
        "uncertainty_organs": (2, 3, 16, 16),
        "uncertainty_seg": (2, 3, 16, 16),
    }
    torch.testing.assert_close(found.probabilities["organs"].sum(1), torch.ones(2, 16, 16))
    assert predicted(method(two, samples=2, filter=False), make_batch(two, 2)).extras == {}  # there is nothing to draw


def test_regions_may_be_nested() -> None:
    batch = batch_of("all", "t1", "t1ce t2")
    plain, nested = (predicted(method(nested=n), batch).probabilities["seg"] for n in ((), ("ET", "TC", "WT")))
    assert bool((plain[:, 2] > plain[:, 0]).any())
    wt, tc, et = (plain > 0.5).unbind(dim=1)
    assert torch.equal(nested > 0.5, torch.stack([wt | tc | et, tc | et, et], dim=1))
