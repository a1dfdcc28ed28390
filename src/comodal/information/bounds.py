"""Bounds and estimates of mutual information: pure functions of the scores that a critic gave to pairs.

P is the joint distribution p(x, y), Q the product of the marginals p(x) p(y), f the critic, r* the log density ratio
log p(x, y) - log p(x) - log p(y), LME the log of the mean of exponentials, sp(z) = log(1 + e^z). Values are in nats and to be
maximised: a training minimises their negative.

Every function takes
    joint: (..., R) scores of pairs that belong together, one per row (anchor),
    marginal: (..., R, N) scores of pairs that do not, N for each row,
    negative: bool, broadcastable to `marginal`, True where the pair counts. None: all count. See `comodal.information.pairs`.
Leading axes hold further pairs (locations). Scores of float16 or bfloat16 are widened first. Without a single negative a value
is 0 and so is its gradient: such a batch says nothing.

What each value is (a bound or not, its ceiling, its bias) stands in `comodal.information.estimators`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from comodal.errors import ConfigError, message


def _prepared(joint: Tensor, marginal: Tensor, negative: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores in at least float32, and which marginal ones count, in their shape."""
    if marginal.shape[:-1] != joint.shape:
        rule, do = "have the axes of joint and one more, (..., R, N)", "Give each row its own negatives"
        raise ConfigError(message("marginal", rule, f"{tuple(marginal.shape)} for joint {tuple(joint.shape)}", do=do))
    kind = torch.promote_types(joint.dtype, torch.float32)
    counts = marginal.new_ones((), dtype=torch.bool) if negative is None else negative
    if any(ours not in (1, theirs) for ours, theirs in zip(counts.shape[::-1], marginal.shape[::-1], strict=False)):
        rule, do = f"be broadcastable to marginal {tuple(marginal.shape)}", "Say for each pair whether it counts"
        raise ConfigError(message("negative", rule, tuple(counts.shape), do=do))
    # What does not count is not read, not even where it is no number.
    return joint.to(kind), torch.where(counts, marginal.to(kind), 0.0), counts.expand(marginal.shape)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean over those that count; 0 where none does."""
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)


def _log_mean_exp(values: Tensor, counts: Tensor) -> Tensor:
    """LME over those that count; 0, with gradient 0, where none does."""
    any_ = counts.any()
    kept = torch.where(counts, values, torch.where(any_, -torch.inf, 0.0).to(values.dtype))
    log_mean = kept.flatten().logsumexp(0) - counts.sum().clamp(min=1).to(values.dtype).log()
    return torch.where(any_, log_mean, 0.0)


def _joint_mean(joint: Tensor, counts: Tensor) -> Tensor:
    """E_P[f]; 0, with gradient 0, where there is no negative (or no row) to hold it against."""
    return _mean(joint, counts.any().expand(joint.shape))


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """A scalar that reads as `value` and whose gradient is that of `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())


def donsker_varadhan(joint: Tensor, marginal: Tensor, negative: Tensor | None = None) -> Tensor:
    """Donsker-Varadhan bound, Equation (3) of Liao et al. (2021), as in MINE of Belghazi et al. (2018).

    .. math:: E_P[f] - log E_Q[e^f]

    Optimal critic: r* plus any constant. The value of a mini-batch is biased up (the log of a sample mean) and may exceed the
    information; its gradient is biased, too: see `mine`.

    Args:
        joint: (..., R).
        marginal: (..., R, N). One mean over all of them, also over locations.
        negative: bool, broadcastable to `marginal`.

    Returns:
        Scalar, in nats.

    >>> donsker_varadhan(torch.tensor([1.0, 1.0]), torch.tensor([[0.0], [0.0]]))
    tensor(1.)
    """
    joint, marginal, counts = _prepared(joint, marginal, negative)
    return _joint_mean(joint, counts) - _log_mean_exp(marginal, counts)


def mine(
    joint: Tensor, marginal: Tensor, negative: Tensor | None = None, *, log_average: Tensor | None = None, rate: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Donsker-Varadhan's value with the gradient of MINE, Belghazi et al. (2018), Section 3.2.

    The gradient of a mini-batch divides by its own mean of e^f, and a ratio of two sample means is biased. MINE divides by an
    exponential moving average of that mean instead. Worked in logarithms: e^f is never taken of a raw score.

    Args:
        joint: (..., R).
        marginal: (..., R, N).
        negative: bool, broadcastable to `marginal`.
        log_average: Scalar, log of the moving average so far; None (or NaN) begins with this batch.
        rate: Weight of this batch in the average, in (0, 1]; the average is updated before it is used.

    Returns:
        Scalar, in nats, to maximise; and the new log of the average, without gradient (NaN as long as no batch had a negative).
    """
    joint, marginal, counts = _prepared(joint, marginal, negative)
    log_mean = _log_mean_exp(marginal, counts)
    known, now = counts.any(), log_mean.detach()
    before = torch.full_like(now, torch.nan) if log_average is None else log_average.to(now)
    faded = torch.where(before.isnan(), now, before) + (math.log1p(-rate) if rate < 1 else -math.inf)
    average = torch.where(known, torch.logaddexp(faded, now + math.log(rate)), before)
    mean = _joint_mean(joint, counts)
    partition = (log_mean - torch.where(known, average, 0.0)).exp()
    return with_gradient_of(mean - log_mean, mean - partition), average


def nwj(joint: Tensor, marginal: Tensor, negative: Tensor | None = None) -> Tensor:
    """Bound of Nguyen, Wainwright and Jordan (2010), in the convention whose optimal critic is r* itself.

    .. math:: 1 + E_P[f] - E_Q[e^f]

    The other convention, E_P[g] - E_Q[e^(g - 1)] (f-GAN's KL, MINE-f), is this one with g = f + 1. Unbiased for a fixed critic,
    but of a variance that grows like e^I.

    Args:
        joint: (..., R).
        marginal: (..., R, N).
        negative: bool, broadcastable to `marginal`.

    Returns:
        Scalar, in nats.

    >>> nwj(torch.zeros(3), torch.zeros(3, 2))
    tensor(0.)
    """
    joint, marginal, counts = _prepared(joint, marginal, negative)
    return 1.0 + _joint_mean(joint, counts) - _log_mean_exp(marginal, counts).exp()  # without a negative: 1 + 0 - e^0 = 0


def info_nce(joint: Tensor, marginal: Tensor, negative: Tensor | None = None) -> Tensor:
    """InfoNCE / CPC, van den Oord et al. (2018): each row picks its own partner among K candidates.

    .. math:: mean_i [ f_ii - log sum_j e^(f_ij) ] + log K

    Equation (4) of Liao et al. (2021) leaves out log K and takes the outer expectation over the product of the marginals;
    this is the estimator that it cites: per row, the positive among the candidates. K counts the positive and the negatives
    that the row really has, so that the value never exceeds the mean of log K. Rows without a negative are left out.

    Args:
        joint: (..., R).
        marginal: (..., R, N).
        negative: bool, broadcastable to `marginal`.

    Returns:
        Scalar, in nats, at most log(1 + N).
    """
    joint, marginal, counts = _prepared(joint, marginal, negative)
    candidates = torch.cat([joint[..., None], torch.where(counts, marginal, -torch.inf)], dim=-1)
    log_count = (1 + counts.sum(-1)).to(joint.dtype).log()
    return _mean(joint - candidates.logsumexp(-1) + log_count, counts.any(-1))


def jensen_shannon(joint: Tensor, marginal: Tensor, negative: Tensor | None = None) -> Tensor:
    """Jensen-Shannon estimator of Hjelm et al. (2019), Section 3.1 of Sylvain et al. (2021), CMIM. Not in nats of information.

    .. math:: E_P[-sp(-f)] - E_Q[sp(f)]

    Its optimum, at f = r*, is 2 JSD(P || Q) - 2 log 2, in [-2 log 2, 0]; f = 0 gives -2 log 2. CMIM prints -sp(f) in the first
    expectation, which is degenerate (f to minus infinity everywhere is best); the sign here is that of the paper it cites.
    It is -2 times the binary cross-entropy of f as the logit of "belongs together", both classes weighted alike.

    Args:
        joint: (..., R).
        marginal: (..., R, N).
        negative: bool, broadcastable to `marginal`.

    Returns:
        Scalar in [-2 log 2, 0] at the best critic.
    """
    joint, marginal, counts = _prepared(joint, marginal, negative)
    return _joint_mean(-softplus(-joint), counts) - _mean(softplus(marginal), counts)


def smile(joint: Tensor, marginal: Tensor, negative: Tensor | None = None, *, clip: float = 5.0) -> Tensor:
    """SMILE, Song and Ermon (2020): Donsker-Varadhan's value with clipped negatives, the gradient of Jensen-Shannon.

    .. math:: E_P[f] - log E_Q[e^(clip(f, -c, c))]

    An estimate, not a bound: even the exact critic reads too high where r* exceeds the clip. `clip=inf` is the plain value.

    Args:
        joint: (..., R).
        marginal: (..., R, N).
        negative: bool, broadcastable to `marginal`.
        clip: c, in nats.

    Returns:
        Scalar, in nats.
    """
    joint, marginal, counts = _prepared(joint, marginal, negative)
    value = _joint_mean(joint, counts) - _log_mean_exp(marginal.clamp(-clip, clip), counts)
    return with_gradient_of(value, jensen_shannon(joint, marginal, counts))


def demi(joint: Tensor, marginal: Tensor, negative: Tensor | None = None, *, prior: float = 0.5) -> Tensor:
    """DEMI, Liao et al. (2020): a classifier tells pairs that belong together from others; read its mean logit on the former.

    .. math:: E_P[f] - logit(prior)

    The gradient is that of the classifier's log-likelihood, 2 prior E_P[log s(f)] + 2 (1 - prior) E_Q[log s(-f)] with s the
    logistic function; at prior 1/2 this is `jensen_shannon`. All K (K - 1) negatives of a batch counted alike are prior 1/K.

    Args:
        joint: (..., R) logits.
        marginal: (..., R, N) logits.
        negative: bool, broadcastable to `marginal`.
        prior: The share of joint pairs that the classifier was trained with, in (0, 1).

    Returns:
        Scalar, in nats. On the pairs of the training it reads too high; use held-out ones.

    Raises:
        ConfigError: The prior is not between 0 and 1.
    """
    if not 0 < prior < 1:
        raise ConfigError(message("demi.prior", "lie in (0, 1)", prior, do="Use the share of joint pairs in the training"))
    joint, marginal, counts = _prepared(joint, marginal, negative)
    gain = 2 * prior * _joint_mean(-softplus(-joint), counts) - 2 * (1 - prior) * _mean(softplus(marginal), counts)
    value = _joint_mean(joint, counts) - counts.any().to(joint.dtype) * (math.log(prior) - math.log1p(-prior))
    return with_gradient_of(value, gain)


def club(joint: Tensor, marginal: Tensor, negative: Tensor | None = None) -> Tensor:
    """CLUB, Cheng et al. (2020): contrastive log-ratio upper bound; the scores are log q(y | x).

    .. math:: E_P[log q(y | x)] - E_Q[log q(y | x)]

    An upper bound where q is the true conditional, or fits the joint better than the product; to be minimised by the encoders,
    while q is fitted by likelihood. The paper's form for a batch of K takes the second mean over all pairs, the K own ones
    included, which multiplies this value by 1 - 1/K.

    Args:
        joint: (..., R) log densities.
        marginal: (..., R, N) log densities.
        negative: bool, broadcastable to `marginal`.

    Returns:
        Scalar, in nats.
    """
    joint, marginal, counts = _prepared(joint, marginal, negative)
    return _joint_mean(joint, counts) - _mean(marginal, counts)


def leave_one_out(joint: Tensor, marginal: Tensor, negative: Tensor | None = None) -> Tensor:
    """Leave-one-out upper bound, Poole et al. (2019); the scores are log q(y | x), a row is one y and its N are other x.

    .. math:: mean_i [ log q(y_i | x_i) - log mean_(j != i) q(y_i | x_j) ]

    Tightens with N. For the matrix L[i, j] = log q(y_j | x_i) give the transpose: `Scores.columns()` does.

    Args:
        joint: (..., R) log densities.
        marginal: (..., R, N) log densities.
        negative: bool, broadcastable to `marginal`.

    Returns:
        Scalar, in nats: an upper bound in expectation where q is the true conditional.
    """
    joint, marginal, counts = _prepared(joint, marginal, negative)
    known = counts.any(-1)
    kept = torch.where(counts, marginal, torch.where(known[..., None], -torch.inf, 0.0).to(marginal.dtype))
    log_mean = kept.logsumexp(-1) - counts.sum(-1).clamp(min=1).to(joint.dtype).log()
    return _mean(joint - log_mean, known)
