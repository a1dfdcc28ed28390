"""From logits to probabilities and losses for segmentation targets: what every segmentation method shares.

Axis letters: see `comodal.batch`. Regions are independent (sigmoid); labels exclude each other (softmax).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from comodal.batch import Batch
from comodal.modality import Target
from comodal.processes import mean_over_processes, sum_over_processes


def split_logits(logits: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
    """Cuts (B, K of all, *spatial) into {target: (B, K, *spatial)}, segmentation targets in order."""
    wanted = [t for t in targets if t.is_segmentation]
    return dict(zip([t.name for t in wanted], logits.split([len(t.classes) for t in wanted], dim=1), strict=True))


def _probabilities(logits: Tensor, target: Target) -> Tensor:
    return logits.float().sigmoid() if target.kind == "regions" else logits.float().softmax(dim=1)


def segmentation_probabilities(logits: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
    """From (B, K of all, *spatial) to {target: (B, K, *spatial) float32 in [0, 1]}: sigmoid for regions, softmax for labels."""
    wanted = {t.name: t for t in targets}
    return {name: _probabilities(value, wanted[name]) for name, value in split_logits(logits, targets).items()}


def region_logits(logits: Tensor, targets: Sequence[Target], *, named: bool = False) -> dict[str, Tensor]:
    """The log odds of each region or label, for explainers: their sigmoid is its probability. A background is left out.

    Of regions these are the logits. Labels exclude each other, so that the odds are against all others of the target:
    z_k - log sum_{j != k} exp z_j.

    Args:
        logits: (B, K of all, *spatial).
        targets: Segmentation targets, in order.
        named: Whether a region is called "target.region".

    Returns:
        {region: (B, *spatial)}.
    """
    wanted, found = {t.name: t for t in targets}, dict[str, Tensor]()
    for name, value in split_logits(logits, targets).items():
        target = wanted[name]
        for k, region in enumerate(target.classes):
            if k != target.background:
                odds = value[:, k]
                if target.kind == "labels":
                    odds = odds - torch.cat([value[:, :k], value[:, k + 1 :]], dim=1).logsumexp(dim=1)
                found[f"{name}.{region}" if named else region] = odds
    return found


def soft_dice(probabilities: Tensor, truth: Tensor, *, batch: bool, smooth: float = 1e-5) -> Tensor:
    """Soft Dice coefficient, Equation (11) of Shen et al. (2024), CIML, on probabilities, averaged over classes (and rows).

    .. math:: D_k = (2 sum p_k t_k + s) / (sum p_k + sum t_k + s)

    With `batch` the sums run over all rows and, under several processes, over all processes (with gradient), so that the
    loss is that of the global batch; MONAI's DiceLoss cannot sum over processes, hence this function.

    Args:
        probabilities: (B, K, *spatial) in [0, 1].
        truth: (B, K, *spatial) in {0, 1}.
        batch: Sum over rows before dividing; right where most patches hold no target, as in 2-D slices.
        smooth: s, keeps 0/0 at 1.

    Returns:
        Scalar in [0, 1].
    """
    axes = tuple(range(2, probabilities.ndim))
    overlap = (probabilities * truth).sum(axes)  # (B, K)
    volume = probabilities.sum(axes) + truth.sum(axes)
    if batch:
        sums = sum_over_processes(torch.stack([overlap.sum(0), volume.sum(0)]), shared=True)
        overlap, volume = sums[0], sums[1]
    return ((2 * overlap + smooth) / (volume + smooth)).mean() if overlap.numel() else overlap.sum() + 1.0


def segmentation_losses(logits: Tensor, batch: Batch, targets: Sequence[Target]) -> dict[str, Tensor]:
    """Soft Dice loss plus (binary) cross-entropy per target, nnU-Net's default; rows without the target do not count.

    Dice sums over the batch and leaves out the background of "labels" (`Target.background`).

    Args:
        logits: (B, K of all targets, *spatial).
        batch: Holds `targets` and `labelled`.
        targets: Those to learn.

    Returns:
        {"dice/<target>": 1 - soft Dice, "ce/<target>": mean cross-entropy}, both of the global batch when averaged over
        processes; exactly zero where no row is labelled. A target that no row here has is zero, too, but never left out:
        the rows of another process may have it, and every process must enter the same sums.
    """
    terms: dict[str, Tensor] = {}
    by_target = split_logits(logits, targets)
    for target in (t for t in targets if t.name in by_target):
        own = by_target[target.name].float()
        learn = _region_terms if target.kind == "regions" else _label_terms
        unknown = own.new_zeros(len(own), dtype=torch.bool)
        known = batch.labelled.get(target.name, unknown)
        nothing = torch.zeros_like(own[:, 0] if target.kind == "labels" else own)
        truth = batch.targets.get(target.name, nothing)
        terms[f"dice/{target.name}"], terms[f"ce/{target.name}"] = learn(own, truth, known, target)
    return terms


def labelled_where(batch: Batch, rows: Tensor) -> Batch:
    """A new batch in which only these rows are labelled: what a network cannot see it does not learn from.

    Args:
        batch: Any.
        rows: (B,) bool.
    """
    known = {name: flag & rows.reshape(-1, *[1] * (flag.ndim - 1)) for name, flag in batch.labelled.items()}
    return replace(batch, labelled=known)


def _region_terms(logits: Tensor, truth: Tensor, known: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Dice loss and binary cross-entropy; `known` is (B,), or (B, K) where only some regions of a case were drawn."""
    each = known.reshape(len(known), -1).expand(-1, len(target.classes))  # (B, K)
    wide = each.reshape(*each.shape, *[1] * (logits.ndim - 2))
    onehot = torch.where(wide, truth.float(), 0.0)
    dice = 1.0 - soft_dice(torch.where(wide, _probabilities(logits, target), 0.0), onehot, batch=True)
    picked = logits[each]
    entropy = binary_cross_entropy_with_logits(picked, truth.float()[each]) if len(picked) else picked.sum()
    return dice, mean_over_processes(entropy, len(picked))


def _label_terms(logits: Tensor, truth: Tensor, known: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Dice loss without the background, and cross-entropy."""
    score, labels = logits[known], truth[known].long()
    onehot = one_hot(labels, len(target.classes)).movedim(-1, 1).float()
    scored = [k for k in range(len(target.classes)) if k != target.background]
    dice = 1.0 - soft_dice(_probabilities(score, target)[:, scored], onehot[:, scored], batch=True)
    return dice, mean_over_processes(cross_entropy(score, labels) if len(score) else score.sum(), len(score))
