"""The best that any method can reach on the chest phantom from each subset of its modalities.

Findings -> contrasts -> pictures is a Markov chain: a picture is drawn from the contrasts, and everything else in it (anatomy,
noise, exposure) is drawn apart. Nobody who sees the picture can therefore do better than an observer who is told the
contrasts, the sizes and the places themselves: an upper bound. A lateral view is drawn from the same contrasts and adds
nothing to it. What the report says of each finding can be read off it, and nothing else in it depends on findings: an estimate
of the best score, not a bound on it.

Given the two factors that make findings occur together, all findings are independent; the observer's posterior is therefore an
integral over two numbers, here by Gauss-Hermite quadrature. Axis letters: N cases, K findings, S sites, Q nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from comodal.data.phantoms.ceilings import Ceiling
from comodal.data.phantoms.chest_model import (
    EDEMA_FROM,
    FINDINGS,
    GRADE_SHARES,
    GRADES,
    KINDS,
    Bools,
    Causes,
    Chances,
    Finding,
    Floats,
    Signs,
    draw_causes,
    named_grades,
    normal_cdf,
    quantile,
    residual,
)

if TYPE_CHECKING:
    from comodal.data.phantoms.chest import ChestPhantom

DRAWS, CHUNK, NODES, BATCHES = 20_000, 2_000, 12, 40
# CheXpert's names for what the phantom has; where it has no name, the release "mimic-cxr" has no label.
CHEXPERT: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("Atelectasis",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Consolidation": ("Consolidation",),
    "Edema": ("Edema",),
    "Lung Lesion": ("Nodule", "Mass"),
    "Lung Opacity": ("Infiltration",),
    "Pleural Effusion": ("Effusion",),
    "Pleural Other": ("Pleural_Thickening",),
    "Pneumonia": ("Pneumonia",),
    "Pneumothorax": ("Pneumothorax",),
}
_HOW = {
    "image": "Bayes-optimal from the contrasts, sizes and places that the pictures are drawn from; anatomy and noise known",
    "report": "Bayes-optimal from what the report says of each finding",
    "both": "Bayes-optimal from contrasts and words together: the report says where to look; anatomy and noise known",
}


@dataclass(frozen=True)
class Posterior:
    """What the best observer believes.

    Attributes:
        findings: (N, K) probability of each finding.
        grades: (N, 4) probability of each grade of edema.
        classes: (N, C) probability of each class asked for.
    """

    findings: Floats
    grades: Floats
    classes: Floats


def contrast_ratio(contrasts: Floats, distance: Floats | float) -> Floats:
    """Likelihood of contrasts with a visible finding, over that without. Below 0 they are cut off, so that 0 has a mass.

    Args:
        contrasts: At least 0.
        distance: Of the finding.
    """
    d = np.asarray(distance)
    return np.where(contrasts > 0, np.exp(d * contrasts - d**2 / 2), 2 * normal_cdf(-d))


def finding_ratios(signs: Signs, finding: Finding, chances: Chances, *, image: bool, report: bool) -> Floats:
    """(N,) likelihood of all evidence with a finding (other than edema) over that without it.

    Args:
        signs: What there is to see and to read.
        finding: Which.
        chances: Of the model.
        image: Whether contrasts are seen.
        report: Whether the report is read.
    """
    ratios = np.ones(signs.contrasts.shape)
    if image:
        shown = contrast_ratio(signs.contrasts, chances.distance(finding))
        ratios = 1 - chances.visible + chances.visible * shown
    total = ratios.mean(axis=1)  # every site is as probable
    if not report:
        return np.asarray(total)
    words = chances.words()
    # A sentence that says where points to one site; without the finding it would have named any.
    there = np.where(signs.named >= 0, ratios[np.arange(len(total)), signs.named], total)
    return np.asarray((words[1] / words[0])[signs.kind] * there)


def grade_likelihoods(signs: Signs, chances: Chances, *, image: bool, report: bool) -> Floats:
    """(N, 4) likelihood of all evidence on edema for each grade, up to a factor. Arguments: as for `finding_ratios`."""
    out = np.ones((len(signs.kind), len(GRADES)))
    if image:
        shown = contrast_ratio(signs.contrasts[:, :1], chances.grade_distances())
        out *= 1 - chances.visible + chances.visible * shown
    if report:
        words = chances.words()[[0, 1, 1, 1]]
        said = words[:, signs.kind].T
        says = signs.kind <= KINDS.index("uncertain")
        grade = np.where(says[:, None], named_grades()[:, np.maximum(signs.named, 0)].T, 1.0)
        out *= said * grade
    return out


def posterior(causes: Causes, chances: Chances, *, image: bool, report: bool, nodes: int = NODES) -> Posterior:
    """The belief of the observer who knows the model.

    Args:
        causes: What there is to see and to read of N cases; the truth in it is not looked at.
        chances: Of the model.
        image: Whether contrasts are seen.
        report: Whether the report is read.
        nodes: Of the quadrature, along each factor.

    Returns:
        Its classes are those of CHEXPERT that the phantom has.
    """
    factors, weights = _nodes(nodes)
    drawn = FINDINGS[: chances.findings]
    edema = grade_likelihoods(causes.signs[0], chances, image=image, report=report)
    grades = _grade_priors(factors)[None] * edema[:, None]  # (N, Q, 4)
    level = np.maximum(grades.sum(axis=2), 1e-300)  # far nodes, where the grade that was named cannot be
    belief = {"Edema": grades[..., EDEMA_FROM:].sum(axis=2) / level}
    weight = weights[None] * level
    for j, finding in enumerate(drawn[1:], start=1):
        pull = (factors * np.array(finding.loadings)).sum(axis=1)
        prior = normal_cdf((pull - quantile(1 - finding.prevalence)) / residual(finding))[None]
        ratio = finding_ratios(causes.signs[j], finding, chances, image=image, report=report)[:, None]
        evidence = prior * ratio + 1 - prior
        belief[finding.name] = prior * ratio / evidence
        weight = weight * evidence
    weight = weight / weight.sum(axis=1, keepdims=True)
    findings = np.stack([(weight * belief[finding.name]).sum(axis=1) for finding in drawn], axis=1)
    joint = [1 - np.prod([1 - belief[name] for name in names], axis=0) for names in chexpert_classes(chances.findings).values()]
    classes = np.stack([(weight * one).sum(axis=1) for one in joint], axis=1)
    return Posterior(findings, ((weight / level)[..., None] * grades).sum(axis=1), classes)


def chexpert_classes(count: int) -> dict[str, tuple[str, ...]]:
    """The part of CHEXPERT that the first findings make up. count: how many.

    >>> list(chexpert_classes(4))
    ['Cardiomegaly', 'Edema', 'Lung Lesion', 'Pleural Effusion']
    """
    there = {finding.name for finding in FINDINGS[:count]}
    found = {name: tuple(part for part in parts if part in there) for name, parts in CHEXPERT.items()}
    return {name: parts for name, parts in found.items() if parts}


def class_truths(causes: Causes, count: int) -> Bools:
    """(N, C) the true answers of `chexpert_classes`: any of its findings. Arguments: causes, and how many findings."""
    names = [finding.name for finding in FINDINGS[:count]]
    columns = (
        causes.present[:, [names.index(part) for part in parts]].any(axis=1) for parts in chexpert_classes(count).values()
    )
    return np.stack(list(columns), axis=1)


def _nodes(count: int) -> tuple[Floats, Floats]:
    """(Q, 2) nodes and (Q,) weights of an integral over two standard normal numbers."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    x, y = np.meshgrid(points, points, indexing="ij")
    both = np.outer(weights, weights).ravel()
    return np.stack([x.ravel(), y.ravel()], axis=1), both / both.sum()


def _grade_priors(factors: Floats) -> Floats:
    """(Q, 4) probability of each grade at each node."""
    edema = FINDINGS[0]
    pull = (factors * np.array(edema.loadings)).sum(axis=1)[:, None]
    below = normal_cdf((quantile(np.cumsum(GRADE_SHARES)[:-1])[None] - pull) / residual(edema))
    return np.diff(below, axis=1, prepend=0, append=1)


def ceilings(config: ChestPhantom) -> list[Ceiling]:
    """The best scores for each subset of the modalities: AUROC and balanced accuracy of findings and, in MIMIC, of edema.

    Args:
        config: Of the phantom.

    Returns:
        For each subset the scores as in results ("AUROC/findings", "balanced_accuracy/findings"), and the AUROC of each
        finding ("AUROC/findings/Effusion"). In Open-I all 14 findings are asked for, and those that the phantom lacks are
        answered "no".
    """
    chances = config.chances()
    found = []
    scores = {name: _scores(config, chances, image=image, report=report) for name, (image, report) in _SEEN.items()}
    for present, seen in _subsets(lateral=config.lateral):
        kind: Literal["estimate", "upper bound"] = "estimate" if seen == "report" else "upper bound"
        for (target, metric), (value, interval) in scores[seen].items():
            made = Ceiling(target, metric, present, value, kind, how=_HOW[seen], ci95=interval, n=DRAWS)
            found.append(made)
    return found


_SEEN = {"image": (True, False), "report": (False, True), "both": (True, True)}


def _subsets(*, lateral: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """The subsets, small first, in the order of the layouts' modalities, and what is seen of the causes."""
    yield ("frontal",), "image"
    if lateral:
        yield ("lateral",), "image"
    yield ("report",), "report"
    if lateral:
        yield ("frontal", "lateral"), "image"
    yield ("frontal", "report"), "both"
    if lateral:
        yield ("lateral", "report"), "both"
        yield ("frontal", "lateral", "report"), "both"


def _stream(chunk: int, use: int) -> np.random.Generator:
    return np.random.default_rng([7919, chunk, use])


Scores = dict[tuple[str, str], tuple[float, tuple[float, float]]]


def _scores(config: ChestPhantom, chances: Chances, *, image: bool, report: bool) -> Scores:
    """{(target, metric): (value, 95 % interval)} from DRAWS cases that are drawn as the phantom draws them."""
    beliefs, truths, grades = [], [], []
    mimic = config.release == "mimic-cxr"
    for chunk in range(DRAWS // CHUNK):
        causes = draw_causes(chances, functools.partial(_stream, chunk), CHUNK)
        beliefs.append(posterior(causes, chances, image=image, report=report))
        truths.append(class_truths(causes, chances.findings) if mimic else causes.present)
        grades.append(causes.grade)
    belief = np.concatenate([one.classes if mimic else one.findings for one in beliefs])
    truth, grade = np.concatenate(truths), np.concatenate(grades)
    names = list(chexpert_classes(chances.findings)) if mimic else [f.name for f in FINDINGS[: chances.findings]]
    # Where all cases have one answer, anybody gets its recall right: No Finding, or a finding that the phantom lacks.
    certain = 1 if mimic else len(FINDINGS) - len(names)
    found = _over_batches("findings", belief, truth, names=names, certain=certain)
    if mimic:
        grade_truth = np.eye(len(GRADES), dtype=bool)[grade]
        found |= _over_batches("edema", np.concatenate([one.grades for one in beliefs]), grade_truth)
    return found


def _over_batches(target: str, belief: Floats, truth: Bools, *, names: list[str] | None = None, certain: int = 0) -> Scores:
    """Each score of all draws, with an interval from its spread over batches of them. names: None where one class is true."""
    whole = _measure(target, belief, truth, names=names, certain=certain)
    parts = np.array_split(np.arange(len(truth)), BATCHES)
    values = [_measure(target, belief[part], truth[part], names=names, certain=certain) for part in parts]
    found = {}
    for key, value in whole.items():
        error = 1.96 * float(np.std([one[key] for one in values], ddof=1)) / np.sqrt(BATCHES)
        found[key] = (value, (float(max(0, value - error)), float(min(1, value + error))))
    return found


def _measure(
    target: str, belief: Floats, truth: Bools, *, names: list[str] | None, certain: int
) -> Mapping[tuple[str, str], float]:
    areas = [auroc(belief[:, c], truth[:, c]) for c in range(truth.shape[1])]
    found = {(target, f"AUROC/{target}"): float(np.mean(areas))}
    shares = truth.mean(axis=0)
    if names is None:
        # The mean recall is largest where each class counts alike, however rare.
        answer = (belief / shares).argmax(axis=1)
        parts = [float((answer[truth[:, c]] == c).mean()) for c in range(truth.shape[1])]
    else:
        found |= {(target, f"AUROC/{target}/{name}"): area for name, area in zip(names, areas, strict=True)}
        yes = belief >= shares
        parts = [float(yes[truth[:, c], c].mean()) for c in range(truth.shape[1])]
        parts += [float((~yes[~truth[:, c], c]).mean()) for c in range(truth.shape[1])] + [1.0] * certain
    found[target, f"balanced_accuracy/{target}"] = float(np.mean(parts))
    return found


def auroc(scores: Floats, truth: Bools) -> float:
    """Area under the ROC curve; ties count half.

    Args:
        scores: (N,).
        truth: (N,); both answers occur.

    >>> auroc(np.array([0.2, 0.4, 0.3, 0.9]), np.array([False, False, True, True]))
    0.75
    """
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positives = int(truth.sum())
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))
