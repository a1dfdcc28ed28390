"""From latents to probabilities and losses for targets of classes: what every classification method shares.

Each target has an output of its own, a loss of its own, weights of its classes, and cases in which it is not labelled. Whatever
the kind, a head gives (B, K) logits:

| kind | head | probabilities | loss |
| --- | --- | --- | --- |
| class | K numbers | softmax | cross-entropy, weighted by the class of the truth |
| multilabel | K numbers | sigmoid of each | binary cross-entropy of each answer that is known, yes weighted |
| ordinal | one number s and K - 1 increasing thresholds | P(y > k) = sigmoid(s - b_k) | as class, of log P(y = k) |

The ordinal head is the proportional odds model of McCullagh (1980), Regression Models for Ordinal Data, J. R. Stat. Soc. B
42(2), 109-142; its logits are log probabilities, so that everything after it treats it as a class.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, softplus

from comodal.batch import Batch
from comodal.errors import ConfigError, message, nearest
from comodal.method import Problem
from comodal.modality import Target
from comodal.processes import mean_over_processes

ClassWeights: TypeAlias = Literal["none", "balanced"] | dict[str, dict[str, float]]
Logits: TypeAlias = dict[str, Tensor]


def class_targets(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Those that are not segmentations."""
    return tuple(target for target in targets if not target.is_segmentation)


class ProportionalOdds(nn.Module):
    """log P(y = k) of K ordered classes: P(y > k | z) = sigmoid(w z - b_k) with b_0 < b_1 < ... (McCullagh 1980).

    Thresholds are kept as the first one and the softplus of gaps, so that they cannot cross.

    Args:
        features: F.
        classes: K, at least 2.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.slope = nn.Linear(features, 1, bias=False)
        # softplus(0.54) is about 1: at the start all classes but the outer ones are one unit of the log odds wide
        self.first = nn.Parameter(torch.tensor(-(classes - 2) / 2.0))
        self.gaps = nn.Parameter(torch.full((classes - 2,), 0.54))

    def thresholds(self) -> Tensor:
        """(K - 1,) increasing."""
        return self.first + torch.cat([self.first.new_zeros(1), softplus(self.gaps).cumsum(0)])

    def forward(self, z: Tensor) -> Tensor:
        """(B, F) to (B, K) log probabilities."""
        thresholds = self.thresholds().float()
        over = self.slope(z).float() - thresholds  # (B, K - 1): log odds of being above each threshold
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)) for a > b, without a difference of near equals;
        # a - b is the gap itself: thresholds that are rounded to one number would make a class whose log is minus infinity
        above, below = logsigmoid(over), logsigmoid(-over)
        between = above[:, :-1] + below[:, 1:] + torch.log(-torch.expm1(-softplus(self.gaps.float())))
        return torch.cat([below[:, :1], between, above[:, -1:]], dim=1)


class ClassHeads(nn.Module):
    """One head for each target on a common latent: D of Mallya and Hamarneh (2022), Equation (2).

    Args:
        targets: Those that are not segmentations get a head.
        features: F of the latent.
        hidden: Units of a hidden layer that each head has for itself; 0: linear heads.
        dropout: On the latent, and on the hidden layer; never on the logits.
    """

    def __init__(self, targets: Sequence[Target], features: int, *, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.targets = class_targets(targets)
        self.features = features
        self.heads = nn.ModuleDict()
        for target in self.targets:
            size, layers = features, list[nn.Module]([nn.Dropout(dropout)])
            if hidden:
                layers += [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout)]
                size = hidden
            k = len(target.classes)
            layers.append(ProportionalOdds(size, k) if target.kind == "ordinal" and k > 1 else nn.Linear(size, k))
            self.heads[f"target_{target.name}"] = nn.Sequential(*layers)  # a target may be called like a part of a ModuleDict

    def forward(self, z: Tensor) -> Logits:
        """(B, F) to {target: (B, K) logits}."""
        return {target.name: self.heads[f"target_{target.name}"](z) for target in self.targets}


def class_probabilities(logits: Mapping[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
    """{target: (B, K) float32 in [0, 1]}: sigmoid for multilabel, else softmax (which leaves log probabilities as they are)."""
    found = {}
    for target in class_targets(targets):
        value = logits[target.name].float()
        found[target.name] = value.sigmoid() if target.kind == "multilabel" else value.softmax(dim=1)
    return found


def decisions(probabilities: Mapping[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
    """What is answered: {target: (B,) class numbers, or (B, K) bool for multilabel, yes at 0.5}."""
    return {
        t.name: probabilities[t.name] >= 0.5 if t.kind == "multilabel" else probabilities[t.name].argmax(dim=1)
        for t in class_targets(targets)
    }


def class_weights(asked: ClassWeights, problem: Problem) -> dict[str, Tensor]:
    """Weights of the classes of each target.

    "balanced" is n / (K n_c) for a class c with n_c of n training cases, as scikit-learn's, and for an answer of a multilabel
    target n_no / n_yes, by which its yes counts. A class that no training case has gets 0, and so does where nothing is known.

    Args:
        asked: "none", "balanced", or {target: {class: weight}} as a paper states them; classes that are not named count 1.
        problem: Has the counts of the training cases; without any, "balanced" is 1 everywhere.

    Returns:
        {target: (K,) float32}.

    Raises:
        ConfigError: A target, a class or a weight that cannot be.
    """
    targets = class_targets(problem.targets)
    found = {target.name: torch.ones(len(target.classes)) for target in targets}
    if isinstance(asked, dict):
        for name, weights in asked.items():
            if name not in found:
                do = nearest(name, found)
                raise ConfigError(message("method.class_weights", "name targets of classes", repr(name), do=do))
            classes = problem.target(name).classes
            for label, weight in weights.items():
                owner = f"method.class_weights.{name}"
                if label not in classes:
                    raise ConfigError(message(owner, "name classes", repr(label), do=nearest(label, classes)))
                if not weight >= 0:
                    raise ConfigError(message(owner, "be 0 or more", weight, do=f"Correct the weight of {label}"))
                found[name][classes.index(label)] = weight
    elif asked == "balanced":
        for target in targets:
            counts = problem.counts.get(target.name)
            if counts:
                found[target.name] = torch.tensor([_balanced(target, have, known) for have, known in counts])
    return found


def _balanced(target: Target, have: int, known: int) -> float:
    if have == 0:
        return 0.0
    if target.kind == "multilabel":  # where nobody is without it, there is nothing to balance
        return (known - have) / have if known > have else 1.0
    return known / (len(target.classes) * have)


def check_target_weights(asked: Mapping[str, float], problem: Problem) -> None:
    """Refuses factors of losses that are of no target of classes, or not positive.

    Args:
        asked: {target: factor}.
        problem: Has the targets.

    Raises:
        ConfigError: An unknown target, or a factor that is not above 0.
    """
    names = [target.name for target in class_targets(problem.targets)]
    for name, weight in asked.items():
        if name not in names:
            raise ConfigError(message("method.target_weights", "name targets of classes", repr(name), do=nearest(name, names)))
        if not weight > 0:
            do = "To leave a target out, name the others in data.targets"
            raise ConfigError(message(f"method.target_weights.{name}", "be above 0", weight, do=do))


def classification_losses(
    logits: Mapping[str, Tensor],
    batch: Batch,
    targets: Sequence[Target],
    *,
    class_weights: Mapping[str, Tensor] | None = None,
    target_weights: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Weighted cross-entropy per target; what is not labelled does not count.

    Args:
        logits: {target: (B, K)}.
        batch: Holds `targets` and `labelled`.
        targets: Those to learn.
        class_weights: {target: (K,)}, see `class_weights`; 1 where it has none. The mean of a class target is over weights,
            sum of w l / sum of w, as torch's.
        target_weights: {target: factor of its term}; 1 where it has none.

    Returns:
        {"ce/<target>": scalar}, of the global batch when averaged over processes. A target that no row here has is zero and
        never left out: the rows of another process may have it, and every process must enter the same sums.
    """
    terms = {}
    for target in class_targets(targets):
        own = logits[target.name].float()
        weights = (class_weights or {}).get(target.name, own.new_ones(own.shape[1])).to(own.device)
        wide = own.shape if target.kind == "multilabel" else own.shape[:1]
        known = batch.labelled.get(target.name, own.new_zeros(wide, dtype=torch.bool))
        truth = batch.targets.get(target.name, own.new_zeros(wide))
        learn = _answers_term if target.kind == "multilabel" else _class_term
        terms[f"ce/{target.name}"] = (target_weights or {}).get(target.name, 1.0) * learn(own, truth, known, weights)
    return terms


def _class_term(logits: Tensor, truth: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """The sum of w_y l over that of w_y, of labelled rows; zero where these weigh nothing."""
    labels = truth[known].long()
    count = float(weights[labels].sum())
    each = cross_entropy(logits[known], labels, weight=weights, reduction="sum") if len(labels) else logits[known].sum()
    return mean_over_processes(each / count if count else each * 0.0, count)


def _answers_term(logits: Tensor, truth: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Mean over the answers that are known; `known` is (B,) or (B, K)."""
    each = known if known.ndim == 2 else known[:, None].expand(-1, logits.shape[1])
    picked, answers = logits[each], truth[each].float()
    positive = weights.expand_as(logits)[each]
    loss = binary_cross_entropy_with_logits(picked, answers, pos_weight=positive) if len(picked) else picked.sum()
    return mean_over_processes(loss, len(picked))
