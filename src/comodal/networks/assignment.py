"""Task decomposition: which segmentor has which image and which regions, and how their opinions become one.

Shen et al. (2024), CIML, Section 3.1: sub-task omega is a primary modality and a set of target regions. A region is what its
owners say on average, Section 4.1.1. Here a segmentor whose image is absent has no say, and a region none of whose owners is
there is what the others say of it, where they have learned it (`spare`).

Axis letters: see `comodal.batch`; b rows that a segmentor sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from comodal.batch import Batch
from comodal.errors import ConfigError, message, nearest
from comodal.method import Problem
from comodal.modality import Target
from comodal.networks.unet import fusable_images

# Table 6 of Shen et al. (2024), last row, with T1 for TC alone; see docs/methods/ciml.md.
BRATS: dict[str, tuple[str, ...]] = {"flair": ("WT",), "t1": ("TC",), "t2": ("WT", "TC"), "t1ce": ("TC", "ET")}
JOIN = "+"
Task: TypeAlias = tuple[str, str | None]  # target, class; the class is None for all labels of a target together


@dataclass(frozen=True)
class Share:
    """The part of one segmentor.

    Attributes:
        name: Its primary image, or several joined by "+".
        images: The primary images; it runs where all of them are there.
        owned: The targets with the classes that it is to predict; none: it only sends messages.
        spare: The targets with the other classes.
    """

    name: str
    images: tuple[str, ...]
    owned: tuple[Target, ...]
    spare: tuple[Target, ...]


def share_out(problem: Problem, assignment: Mapping[str, Sequence[str]] | None) -> tuple[Share, ...]:
    """The segmentors of a problem, in the canonical order of their images.

    Args:
        problem: Has images and segmentation targets.
        assignment: {image, or images joined by "+": regions}. Of a target of kind "labels", all labels belong together under
            the target's name. An empty list makes a segmentor that only sends messages. None takes the assignment of the paper
            where the images are t1, t1ce, t2, flair and the regions WT, TC, ET, and gives everything to each image elsewhere.

    Raises:
        ConfigError: An unknown name, an image that no segmentor sees, or a region that nobody predicts.
    """
    images = fusable_images(problem)
    tasks = _tasks(problem)
    if assignment is None:
        fits = set(images) == set(BRATS) and set(tasks) == {"WT", "TC", "ET"}
        assignment = BRATS if fits else {name: tuple(tasks) for name in images}
    shares = []
    for key, regions in assignment.items():
        names = [name.strip() for name in key.split(JOIN)]
        for name in names:
            _known(name, images, "name images")
        for region in regions:
            _known(region, tasks, f"give known regions to {key}")
        ordered = tuple(name for name in images if name in names)
        shares.append(
            Share(JOIN.join(ordered), ordered, _cut(problem, tasks, regions), _cut(problem, tasks, set(tasks) - {*regions}))
        )
    shares.sort(key=lambda share: [images.index(name) for name in share.images])
    _complete(images, tasks, shares)
    return tuple(shares)


def _known(name: str, known: Sequence[str] | Mapping[str, object], rule: str) -> None:
    if name not in known:
        raise ConfigError(message("method.assignment", rule, repr(name), do=nearest(name, tuple(known))))


def _complete(images: Sequence[str], tasks: Mapping[str, Task], shares: Sequence[Share]) -> None:
    """Nothing is left out by mistake."""
    unseen = [name for name in images if all(name not in share.images for share in shares)]
    if unseen:
        do = f"Write {unseen[0]}: [] for an image that only sends messages, or leave it out of data.modalities"
        raise ConfigError(message("method.assignment", "have every image", f"none for {', '.join(unseen)}", do=do))
    twice = [share.name for at, share in enumerate(shares) if any(share.name == other.name for other in shares[:at])]
    if twice:
        raise ConfigError(message("method.assignment", "have each primary once", twice[0], do="Join its regions in one list"))
    owned = {name for share in shares for name in _names(share.owned, tasks)}
    lost = [name for name in tasks if name not in owned]
    if lost:
        do = "Add it to the regions of an image"
        do += f", or leave it out by data.regions: [{', '.join(name for name in tasks if name in owned)}]" if owned else ""
        raise ConfigError(message("method.assignment", "give every region to an image", f"none for {', '.join(lost)}", do=do))


def _tasks(problem: Problem) -> dict[str, Task]:
    """{name: (target, class)} of what can be given away."""
    found: dict[str, Task] = {}
    wanted = [target for target in problem.targets if target.is_segmentation]
    plain = [name for target in wanted if target.kind == "regions" for name in target.classes]
    for target in wanted:
        if target.kind == "regions":
            for name in target.classes:
                found[name if plain.count(name) == 1 else f"{target.name}.{name}"] = (target.name, name)
        else:
            found[target.name] = (target.name, None)
    return found


def _names(targets: Sequence[Target], tasks: Mapping[str, Task]) -> list[str]:
    have = {(target.name, name) for target in targets for name in (*target.classes, None)}
    return [name for name, task in tasks.items() if task in have]


def _cut(problem: Problem, tasks: Mapping[str, Task], names: Sequence[str] | set[str]) -> tuple[Target, ...]:
    """The targets of a problem with these tasks only."""
    wanted = {tasks[name] for name in names}
    found = []
    for target in problem.targets:
        if (target.name, None) in wanted:
            found.append(target)
        classes = tuple(name for name in target.classes if (target.name, name) in wanted)
        if classes:
            at = [target.classes.index(name) for name in classes]
            codes = tuple(target.codes[k] for k in at) if target.codes else ()
            paint = tuple(target.paint[k] for k in at) if target.paint else ()
            found.append(replace(target, classes=classes, codes=codes, paint=paint))
    return tuple(found)


def narrowed(batch: Batch, whole: Sequence[Target], wanted: Sequence[Target]) -> Batch:
    """A batch whose targets are those of one share.

    Args:
        batch: With the targets of the problem.
        whole: These targets.
        wanted: The same with some of their classes.
    """
    targets, labelled = dict[str, Tensor](), dict[str, Tensor]()
    for target in wanted:
        classes = next(one.classes for one in whole if one.name == target.name)
        at = [classes.index(name) for name in target.classes]
        every = target.kind == "labels" or len(at) == len(classes)
        if target.name in batch.targets:
            value = batch.targets[target.name]
            targets[target.name] = value if every else value[:, at]
        if target.name in batch.labelled:
            flag = batch.labelled[target.name]
            labelled[target.name] = flag if every or flag.ndim == 1 else flag[:, at]
    return replace(batch, targets=targets, labelled=labelled)


@dataclass(frozen=True)
class Opinion:
    """What one segmentor says.

    Attributes:
        rows: (b,) int64: of the batch.
        targets: With the classes that it speaks of.
        probabilities: {target: (b, K of it, *spatial)}.
    """

    rows: Tensor
    targets: tuple[Target, ...]
    probabilities: Mapping[str, Tensor]


def ensemble(
    opinions: Sequence[Opinion], targets: Sequence[Target], rows: int, *, spare: Sequence[Opinion] = ()
) -> dict[str, Tensor]:
    """The mean of what the owners of each region say; of a row without an owner, of what the others say.

    Args:
        opinions: Of owners.
        targets: Of the problem.
        rows: B.
        spare: Of those who do not own the regions that they speak of; heard only where no owner is.

    Returns:
        {target: (B, K, *spatial)}.
    """
    found: dict[str, Tensor] = {}
    for target in (t for t in targets if t.is_segmentation):
        if target.kind == "labels":
            found[target.name] = _mean(_said(opinions, target.name, None), _said(spare, target.name, None), rows)
        else:
            each = [_mean(_said(opinions, target.name, c), _said(spare, target.name, c), rows) for c in target.classes]
            found[target.name] = torch.stack(each, dim=1)
    return found


Said = list[tuple[Tensor, Tensor]]


def _said(opinions: Sequence[Opinion], target: str, name: str | None) -> Said:
    """[(rows, what is said there)] about one class, or about all labels of a target."""
    found: Said = []
    for opinion in opinions:
        for own in opinion.targets:
            if own.name == target and (name is None or name in own.classes):
                value = opinion.probabilities[target]
                found.append((opinion.rows, value if name is None else value[:, own.classes.index(name)]))
    return found


def _mean(owners: Said, others: Said, rows: int) -> Tensor:
    """(B, ...): the mean over owners; in rows without one, over the others."""
    if owners and all(len(at) == rows for at, _ in owners):  # rows are in order, so that these are all of them
        return sum((value for _, value in owners[1:]), owners[0][1]) / len(owners)
    like = (owners or others)[0][1]
    total, count = like.new_zeros((rows, *like.shape[1:])), like.new_zeros(rows)
    for at, value in owners:
        total = total.index_add(0, at, value)
        count = count.index_add(0, at, torch.ones_like(at, dtype=count.dtype))
    orphans = count == 0
    for at, value in others:
        own = orphans[at]
        total = total.index_add(0, at[own], value[own])
        count = count.index_add(0, at[own], torch.ones_like(at[own], dtype=count.dtype))
    return total / count.clamp(min=1).reshape(-1, *[1] * (total.ndim - 1))


def nested_regions(
    probabilities: Mapping[str, Tensor], targets: Sequence[Target], inside_out: Sequence[str]
) -> dict[str, Tensor]:
    """Makes each region contain those inside it: its probability is at least theirs.

    At any threshold it is then the union of what it was and of those inside it.

    Args:
        probabilities: {target: (B, K, *spatial)}.
        targets: Of the problem.
        inside_out: Regions of one target, the innermost first.
    """
    found = dict(probabilities)
    for target in targets:
        order = [target.classes.index(name) for name in inside_out if name in target.classes]
        if target.kind == "regions" and len(order) > 1:
            layers = list(found[target.name].unbind(dim=1))
            for inner, outer in pairwise(order):
                layers[outer] = torch.maximum(layers[outer], layers[inner])
            found[target.name] = torch.stack(layers, dim=1)
    return found
