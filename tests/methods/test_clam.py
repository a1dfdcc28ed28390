"""CLAM: its size as published, its loss put together by hand, what it attends to, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.bedside import config_for, write_cohort
from torch import Tensor

from comodal.batch import Bag, Batch
from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.methods.clam import CLAM, SHOWN, CLAMConfig, most_attended
from comodal.modality import Modality, Target
from comodal.networks.classification import classification_losses
from comodal.testing import make_batch
from comodal.training.train import train_run

CELLS = Modality("cells", "bag", 0, 5)
GRADE = Target("grade", "class", ("low", "high"))
SIGNS = Target("signs", "multilabel", ("veil", "streaks"))


def clam_of(*targets: Target, **settings: Any) -> CLAM:
    torch.manual_seed(0)
    problem = Problem((CELLS,), targets or (GRADE,))
    return CLAM(problem, CLAMConfig.model_validate({"bag": 8, "attention": 4, "bag_dropout": 0.0, **settings}))


def test_it_has_the_parameters_of_the_published_network() -> None:
    """1024 features, 512 units, 256 of the attention, a linear head, a layer of two logits for each class."""
    for classes in (2, 3):
        target = Target("subtype", "class", tuple("abc"[:classes]))
        clam = CLAM(Problem((Modality("slide", "bag", 0, 1024),), (target,)), CLAMConfig())
        attention = 2 * (512 * 256 + 256) + (256 + 1)
        layers = (512 * classes + classes) + classes * (512 * 2 + 2)
        assert sum(p.numel() for p in clam.parameters()) == (1024 * 512 + 512) + attention + layers


def test_the_stage_is_as_published() -> None:
    (stage,) = clam_of(GRADE, SIGNS).stages()
    assert stage.balance == ("grade", "signs") and stage.batch_size == 1 and stage.modalities == ("cells",)
    how = stage.optimisers[""]
    assert (how.name, how.rate, how.weight_decay, how.schedule) == ("adam", 2e-4, 1e-5, "constant")
    assert clam_of(balance=[]).stages()[0].balance == () and clam_of(bags=None).stages()[0].batch_size is None


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_the_loss_is_that_of_the_bag_and_that_of_its_items(share: float) -> None:
    clam = clam_of(GRADE, SIGNS, bag_weight=share, k=1, target_weights={"signs": 2.0})
    batch = make_batch(clam.problem, 4)
    terms = clam.losses(batch, clam.stages()[0])
    encoder, bag = clam._encoder, batch.bag("cells")
    latent, weights, embedded = encoder(bag.items, bag.valid)
    of_bag = classification_losses(clam.heads(latent), batch, clam.problem.targets)
    assert clam.items is not None
    of_items = clam.items(embedded, weights, bag.valid, batch=batch)
    assert terms.keys() == {"ce/grade", "ce/signs", "items/grade", "items/signs"}
    for name, factor in (("grade", 1.0), ("signs", 2.0)):
        torch.testing.assert_close(terms[f"ce/{name}"], factor * share * of_bag[f"ce/{name}"])
        torch.testing.assert_close(terms[f"items/{name}"], factor * (1 - share) * of_items[name])


def test_without_the_loss_of_items_it_is_attention_alone() -> None:
    clam = clam_of(bag_weight=1.0)
    assert clam.items is None and list(clam.losses(make_batch(clam.problem, 4), clam.stages()[0])) == ["ce/grade"]


# ------------------------------------------------------------------------------------------------------- attention
def test_the_most_attended_items_come_first_whatever_the_padding() -> None:
    weights = torch.tensor([[0.2, 0.0, 0.5, 0.3], [0.0, 1.0, 0.0, 0.0], [0.0] * 4])
    valid = torch.tensor([[True, False, True, True], [False, True, False, False], [False] * 4])
    found, items = most_attended(weights, valid, 5)
    assert items.tolist() == [[2, 3, 0, -1, -1], [1, -1, -1, -1, -1], [-1] * 5]
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.3, 0.2, 0, 0], [1.0, 0, 0, 0, 0], [0.0] * 5]))
    wide = [torch.nn.functional.pad(part, (0, 3)) for part in (weights, valid)]
    for a, b in zip(most_attended(wide[0], wide[1], 5), (found, items), strict=True):
        assert torch.equal(a, b)
    assert most_attended(weights, valid, 2)[1].tolist() == [[2, 3], [1, -1], [-1, -1]]


def test_extras_tell_of_the_attention_of_a_bag_of_any_length() -> None:
    clam = clam_of().eval()
    items = torch.randn(2, 40, 5)
    valid = torch.ones(2, 40, dtype=torch.bool)
    valid[1, 3:] = False
    batch = make_batch(clam.problem, 2).with_inputs({"cells": Bag(items, valid)})
    with torch.no_grad():
        said, weights = clam.predict(batch).extras, clam._encoder(items, valid)[1]
    assert said["attention"].shape == said["items"].shape == (2, SHOWN)
    assert bool((said["attention"].diff(dim=1) <= 0).all())
    for place, item in enumerate(said["items"][0].long().tolist()):
        assert float(said["attention"][0, place]) == float(weights[0, item])
    assert said["items"][1, 3:].tolist() == [-1.0] * (SHOWN - 3)
    assert float(said["attention"][1].sum()) == pytest.approx(1.0)


def planted(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bags of 20 items; an ill one has two items that are shifted. (B, N, F), labels (B,), which items (B, N)."""
    generator = torch.Generator().manual_seed(seed)
    items, labels = torch.randn(size, 20, 5, generator=generator), torch.arange(size) % 2
    tells = torch.zeros(size, 20, dtype=torch.bool)
    for row in range(size):
        tells[row, torch.randperm(20, generator=generator)[:2]] = bool(labels[row])
    items[..., 0] += 4.0 * tells
    return items, labels, tells


def bag_batch(problem: Problem, items: Tensor, labels: Tensor) -> Batch:
    plain = make_batch(problem, len(labels))
    valid = torch.ones(items.shape[:2], dtype=torch.bool)
    ids = plain.ids
    return Batch(
        ("cells",), {"cells": Bag(items, valid)}, plain.present, {"grade": labels}, dict(plain.labelled), ids, plain.groups
    )


def test_it_learns_which_items_tell() -> None:
    clam = clam_of(k=2)
    stage = clam.stages()[0]
    optimiser = torch.optim.Adam(clam.parameters(), lr=1e-2)
    clam.enter(stage)
    for step in range(120):
        items, labels, _ = planted(16, step)
        terms = clam.losses(bag_batch(clam.problem, items, labels), stage)
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    items, labels, tells = planted(100, 10_000)
    with torch.no_grad():
        said = clam.eval().predict(bag_batch(clam.problem, items, labels))
    right = (said.probabilities["grade"].argmax(dim=1) == labels).float().mean()
    top = said.extras["items"][:, 0].long()
    hit = tells[torch.arange(100), top][labels == 1].float().mean()
    assert float(right) > 0.95 and float(hit) > 0.95


# ------------------------------------------------------------------------------------------------------- refusals and a run
@pytest.mark.parametrize(
    ("modalities", "got"),
    [
        ((Modality("photo", "image", 2, 3),), r"photo \(image\)"),
        ((CELLS, Modality("blood", "features", 0, 2)), r"cells \(bag\), blood \(features\)"),
        ((CELLS, Modality("tiles", "bag", 2, 3)), r"cells \(bag\), tiles \(bag\)"),
    ],
    ids=["no bag", "a bag and more", "two bags"],
)
def test_anything_but_one_bag_is_refused(modalities: tuple[Modality, ...], got: str) -> None:
    with pytest.raises(ConfigError, match=rf"method clam must get one modality, a bag; got {got}\. Choose the bag in data"):
        CLAM(Problem(modalities, (GRADE,), 2, (33, 33)), CLAMConfig())


def test_a_run_draws_classes_and_tells_its_attention(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    run = train_run(config_for(cohort, "clam", "bag", steps=6), tmp_path / "run")
    clam = run.method("cpu")
    assert isinstance(clam, CLAM) and clam.problem.counts["diagnosis"]
    logged = [line for line in (run.path / "metrics.jsonl").read_text().splitlines() if '"event": "step"' in line]
    assert len(logged) == 6 and all("items/signs" in line for line in logged)
    assert all(bool(torch.isfinite(p).all()) for p in clam.parameters())
