"""The ceilings of the chest phantom: against enumerations, against matched filters on rendered pictures, and their order."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from comodal.data.phantoms import ceilings_of
from comodal.data.phantoms.ceilings import Ceiling
from comodal.data.phantoms.chest import ChestPhantom, draw_body, draw_case, make_picture
from comodal.data.phantoms.chest_anatomy import make_frame
from comodal.data.phantoms.chest_ceilings import auroc, finding_ratios, grade_likelihoods, posterior
from comodal.data.phantoms.chest_image import NOISE, SHOULDER, density
from comodal.data.phantoms.chest_model import (
    FINDINGS,
    GRADE_SHARES,
    KINDS,
    NAMES,
    SITE_NAMED,
    Causes,
    Chances,
    Floats,
    Signs,
    draw_causes,
    named_grades,
)
from comodal.data.phantoms.chest_signs import AMPLITUDES, template

CHANCES = ChestPhantom().chances()
Array = np.ndarray[Any, Any]


def stream(seed: int, use: int) -> np.random.Generator:
    return np.random.default_rng([seed, use])


def drawn(chances: Chances, n: int, seed: int = 0) -> Causes:
    return draw_causes(chances, functools.partial(stream, seed), n)


@pytest.fixture(scope="module")
def ceilings() -> list[Ceiling]:
    return ceilings_of("chest", ChestPhantom())


# The posterior against slow forms


def prior_of(count: int) -> dict[tuple[int, ...], float]:
    """P(grade, findings) of the first findings, from the distribution function of the multivariate normal: no quadrature."""
    loadings = np.array([finding.loadings for finding in FINDINGS[:count]])
    covariance = loadings @ loadings.T
    np.fill_diagonal(covariance, 1)
    cuts = [[-9.0, *norm.ppf(np.cumsum(GRADE_SHARES)[:-1]), 9.0]]
    cuts += [[-9.0, norm.ppf(1 - finding.prevalence), 9.0] for finding in FINDINGS[1:count]]
    found = {}
    for cell in itertools.product(*(range(len(cut) - 1) for cut in cuts)):
        total = 0.0
        for ends in itertools.product((0, 1), repeat=count):
            corner = [cut[i + end] for cut, i, end in zip(cuts, cell, ends, strict=True)]
            total += (-1) ** (count - sum(ends)) * float(multivariate_normal.cdf(corner, cov=covariance))
        found[cell] = total
    return found


def test_prior_is_that_of_the_draws() -> None:
    causes, n = drawn(replace(CHANCES, findings=3), 40_000), 40_000
    prior = prior_of(3)
    assert sum(prior.values()) == pytest.approx(1, abs=1e-4)
    for cell, expected in prior.items():
        seen = (causes.grade == cell[0]) & (causes.signs[1].present == cell[1]) & (causes.signs[2].present == cell[2])
        assert abs(seen.mean() - expected) < 4.5 * np.sqrt(expected / n) + 1e-4


def test_belief_from_the_report_is_bayes_rule_over_an_enumeration() -> None:
    chances = replace(CHANCES, findings=3)
    causes = drawn(chances, 200)
    belief = posterior(causes, chances, image=False, report=True)
    prior, words, grades = prior_of(3), chances.words(), named_grades()
    for i in range(200):
        kinds = [int(signs.kind[i]) for signs in causes.signs]
        total, present, level = 0.0, np.zeros(3), np.zeros(4)
        for (grade, *findings), weight in prior.items():
            said = words[min(grade, 1), kinds[0]]
            said *= grades[grade, causes.signs[0].named[i]] if kinds[0] < 2 else 1
            for j, there in enumerate(findings, start=1):
                said *= words[there, kinds[j]]
            total += weight * said
            present += weight * said * np.array([grade >= 2, *findings])
            level[grade] += weight * said
        np.testing.assert_allclose(belief.findings[i], present / total, atol=2e-4)
        np.testing.assert_allclose(belief.grades[i], level / total, atol=2e-4)


def evidence_of(signs: Signs, i: int, j: int, *, present: bool) -> float:
    """Density of contrasts, kind and named site of one case, summed over what is hidden: site and visibility."""
    finding, total = FINDINGS[j], 0.0
    count = len(finding.sites)
    for site, visible in itertools.product(range(count), (False, True)):
        value = 1 / count * (CHANCES.visible if visible else 1 - CHANCES.visible)
        for s in range(count):
            mean = CHANCES.distance(finding) if present and visible and s == site else 0.0
            c = signs.contrasts[i, s]
            value *= norm.pdf(c, mean) if c > 0 else norm.cdf(0, mean)
        value *= CHANCES.words()[int(present), signs.kind[i]]
        if signs.kind[i] < KINDS.index("negated"):
            where = signs.named[i]
            if where < 0:
                value *= 1 - SITE_NAMED
            else:
                value *= SITE_NAMED * (float(where == site) if present else 1 / count)
        total += value
    return total


@pytest.mark.parametrize("name", ["Effusion", "Cardiomegaly", "Nodule"])
def test_likelihood_ratio_is_that_of_the_sum_over_what_is_hidden(name: str) -> None:
    j, causes = NAMES.index(name), drawn(CHANCES, 120, seed=3)
    fast = finding_ratios(causes.signs[j], FINDINGS[j], CHANCES, image=True, report=True)
    for i in range(120):
        slow = evidence_of(causes.signs[j], i, j, present=True) / evidence_of(causes.signs[j], i, j, present=False)
        assert fast[i] == pytest.approx(slow, rel=1e-9)


def test_grade_likelihoods_are_those_of_truncated_normals() -> None:
    signs = drawn(CHANCES, 50).signs[0]
    fast = grade_likelihoods(signs, CHANCES, image=True, report=False)
    for i, c in enumerate(signs.contrasts[:, 0]):
        slow = []
        for mean in CHANCES.grade_distances():
            density_of = (norm.pdf(c, m) if c > 0 else norm.cdf(0, m) for m in (mean, 0.0))
            shown, hidden = density_of
            slow.append(CHANCES.visible * shown + (1 - CHANCES.visible) * hidden)
        np.testing.assert_allclose(fast[i] / fast[i, 0], np.array(slow) / slow[0], rtol=1e-9)


def test_quadrature_has_converged_and_beliefs_are_calibrated() -> None:
    chances = replace(CHANCES, findings=14)
    causes = drawn(chances, 2500, seed=11)
    coarse = posterior(causes, chances, image=True, report=True)
    fine = posterior(causes, chances, image=True, report=True, nodes=24)
    assert np.abs(coarse.findings - fine.findings).mean() < 1e-3
    np.testing.assert_allclose(coarse.grades.sum(axis=1), 1, rtol=1e-9)
    for seen in ({"image": True, "report": False}, {"image": False, "report": True}, {"image": True, "report": True}):
        belief = posterior(causes, chances, **seen).findings
        for j in range(14):
            for part in (belief[:, j] < 0.3, belief[:, j] >= 0.3):
                errors = causes.present[part, j] - belief[part, j]
                allowed = np.sqrt((belief[part, j] * (1 - belief[part, j])).sum())
                assert abs(errors.sum()) < 4.5 * allowed + 1, (NAMES[j], seen)


# The pictures reach the ceiling


def test_a_matched_filter_on_rendered_pictures_reaches_the_ceiling(ceilings: list[Ceiling]) -> None:
    """The observer knows body, exposure and the other findings; from the pixels it estimates the contrasts of nodules.

    It has a ratio for the nodule alone, so that it is compared with AUROC from the contrasts by the same ratio; nodules hardly
    depend on the other findings, and so the ceiling is the same within its error.
    """
    config, j, n = ChestPhantom(size=96, findings=4), NAMES.index("Nodule"), 80
    estimates, true, truth = [], [], []
    for k in range(n):
        causes, body = draw_case(config, k), draw_body(config, k)
        signs, frame = causes.signs[j], make_frame(body, config.size)
        pixels = np.rint(make_picture(config, k, "frontal", causes=causes, anatomy=body) * 255) / 255
        dark = replace(signs, contrasts=np.zeros_like(signs.contrasts))
        rest = density(replace(causes, signs=(*causes.signs[:j], dark)), config.chances(), frame, seed=(0, k))
        light = body.offset + body.gain * rest
        estimates.append(contrasts_in(unfilm(pixels) - light, frame_templates(frame, signs, j, k), body.gain, config, j))
        true.append(signs.contrasts[0])
        truth.append(signs.present[0])
    found, contrasts, present = np.array(estimates), np.array(true), np.array(truth)
    assert np.sqrt(np.square(found - contrasts).mean()) < 0.2  # of a standard deviation of what looks like nodules
    scores = [ratio_of(values, j) for values in (np.maximum(found, 0), contrasts)]
    reached, best = (auroc(score, present) for score in scores)
    assert abs(reached - best) < 0.02
    (ceiling,) = (one for one in ceilings if one.metric == "AUROC/findings/Nodule" and one.present == ("frontal",))
    positives = int(present.sum())
    error = np.sqrt(ceiling.value * (1 - ceiling.value) / min(positives, n - positives))
    assert abs(reached - ceiling.value) < 2 * error
    # With many draws the ratio of the contrasts alone agrees closely.
    signs = drawn(CHANCES, 20_000, seed=21).signs[j]
    score = finding_ratios(signs, FINDINGS[j], CHANCES, image=True, report=False)
    assert auroc(score, signs.present) == pytest.approx(ceiling.value, abs=0.015)


def unfilm(pixels: Array) -> Array:
    room = 1 - SHOULDER
    bright = SHOULDER - room * np.log(np.maximum(1 - pixels, 1e-3) / room)
    return np.where(pixels < SHOULDER, pixels, bright)


def frame_templates(frame: Any, signs: Signs, j: int, k: int) -> Array:
    return np.stack([template(frame, signs, j, site=s, seed=(0, k)) for s in range(signs.contrasts.shape[1])])


def contrasts_in(extra: Array, templates: Array, gain: float, config: ChestPhantom, j: int) -> Floats:
    """Least squares over all six templates, in standard deviations; bright pixels are noisier once the film is undone."""
    unit = gain * AMPLITUDES[NAMES[j]] / config.chances().distance(FINDINGS[j])
    used = (templates.max(axis=0) > 0.01) & (np.abs(extra) < 0.6)
    solution: Floats = np.linalg.lstsq(unit * templates[:, used].T, extra[used], rcond=None)[0]
    assert unit > 2 * NOISE  # one contrast stands out from one pixel's noise
    return solution


def ratio_of(contrasts: Floats, j: int) -> Floats:
    n, sites = contrasts.shape
    zeros = np.zeros(n, dtype=np.int64)
    signs = Signs(zeros > 0, zeros, zeros > 0, np.zeros((n, sites), int), np.zeros((n, sites, 2)), contrasts, zeros, zeros - 1)
    return finding_ratios(signs, FINDINGS[j], CHANCES, image=True, report=False)


# What stands beside the cohort


def test_ceilings_are_sane_and_grow_with_the_subset(ceilings: list[Ceiling]) -> None:
    by_metric: dict[str, dict[tuple[str, ...], Ceiling]] = {}
    for one in ceilings:
        by_metric.setdefault(one.metric, {})[one.present] = one
        assert one.ci95 is not None and 0.5 <= one.ci95[0] <= one.value <= one.ci95[1] <= 1
        assert one.kind == ("estimate" if one.present == ("report",) else "upper bound") and one.target == "findings"
    assert set(by_metric) == {
        "AUROC/findings",
        "balanced_accuracy/findings",
        *(f"AUROC/findings/{name}" for name in NAMES[:6]),
    }
    for scores in by_metric.values():
        image, report, both = (scores[present].value for present in (("frontal",), ("report",), ("frontal", "report")))
        assert both > max(image, report) + 0.01
    macro = by_metric["AUROC/findings"]
    assert 0.85 < macro["frontal",].value < 0.92 and 0.88 < macro["report",].value < 0.94
    assert macro["frontal", "report"].value > 0.95
    parts = [by_metric[f"AUROC/findings/{name}"]["report",].value for name in NAMES[:6]]
    assert macro["report",].value == pytest.approx(np.mean(parts))


def test_where_nothing_is_shown_or_said_there_is_nothing_to_learn() -> None:
    blind = ChestPhantom(contrast=0, findings=3, release="mimic-cxr", lateral=True)
    scores = {(one.metric, one.present): one.value for one in ceilings_of("chest", blind)}
    assert scores["AUROC/findings", ("frontal",)] == scores["AUROC/findings", ("lateral",)] == pytest.approx(0.5, abs=0.01)
    assert scores["balanced_accuracy/edema", ("frontal",)] == pytest.approx(0.25, abs=0.01)
    both = scores["AUROC/findings", ("frontal", "lateral", "report")]
    assert both == pytest.approx(scores["AUROC/findings", ("report",)], abs=1e-6)
    assert len({present for _, present in scores}) == 7


def test_edema_of_mimic_has_ceilings_in_order() -> None:
    found = ceilings_of("chest", ChestPhantom(findings=4, release="mimic-cxr"))
    scores = {(one.metric, one.present): one.value for one in found if one.target == "edema"}
    for metric, chance in (("AUROC/edema", 0.5), ("balanced_accuracy/edema", 0.25)):
        image, report, both = (scores[metric, present] for present in (("frontal",), ("report",), ("frontal", "report")))
        assert both > max(image, report) + 0.02 and min(image, report) > chance + 0.2
    lesion = [one.value for one in found if one.metric == "AUROC/findings/Lung Lesion"]
    assert len(lesion) == 3 and lesion == sorted(lesion)


def test_scores_of_results_are_those_of_the_ceilings() -> None:
    """The ceiling's AUROC and balanced accuracy are what evaluation computes from the same beliefs."""
    from comodal.evaluation.classification import metric_columns

    causes = drawn(CHANCES, 3000, seed=4)
    belief = posterior(causes, CHANCES, image=True, report=True)
    truth = causes.present.astype(float)
    areas = metric_columns("AUROC", belief.findings, truth, several=True)[0]
    np.testing.assert_allclose(areas, [auroc(belief.findings[:, j], causes.present[:, j]) for j in range(6)], rtol=1e-9)
    # As results have it where yes is answered from 0.5 on: beliefs are moved so that 0.5 is where the share of the class was.
    share = truth.mean(axis=0)
    moved = belief.findings * (1 - share) / (belief.findings * (1 - share) + (1 - belief.findings) * share)
    parts = metric_columns("balanced_accuracy", moved, truth, several=True)[0]
    ceiling = {(o.metric, o.present): o for o in ceilings_of("chest", ChestPhantom())}[
        "balanced_accuracy/findings", ("frontal", "report")
    ]
    whole = (parts.sum() + 8) / (len(parts) + 8)  # eight findings of Open-I that no case has: their recall of "no"
    assert whole == pytest.approx(ceiling.value, abs=0.01)
