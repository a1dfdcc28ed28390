"""The skin phantom: files, determinism, that the signs are in the pixels, and the posterior behind the ceilings."""

from __future__ import annotations

import csv
import json
import math
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comodal.data.contents import vector_of
from comodal.data.derm7pt import score_mismatches
from comodal.data.derm7pt_criteria import load_criteria
from comodal.data.integrity import check_cohort
from comodal.data.phantoms import PHANTOMS, ceilings_of, layout_of
from comodal.data.phantoms.skin import (
    COLUMNS,
    WORDS,
    SkinPhantom,
    draw_case,
    file_name,
    jpeg,
    photograph,
    strengths_of,
    write_skin,
)
from comodal.data.phantoms.skin_ceilings import best_balanced_accuracy, macro_auroc, truth_of
from comodal.data.phantoms.skin_model import (
    CRITERIA,
    DIAGNOSES,
    FACTORS,
    HISTORY,
    MODALITIES,
    PRIOR,
    SIGNS,
    Factor,
    Lesions,
    draw_lesions,
    posteriors,
)
from comodal.data.reading import read_volume
from comodal.errors import ConfigError, DataError
from comodal.evaluation.classification import as_columns, metric_columns
from comodal.modality import subsets
from comodal.testing.dataset import check_dataset

SMALL: dict[str, Any] = {"size": 64, "seed": 5}
PHOTOGRAPHS = ("clinical", "derm")
SEEN = [(sign.name, m) for factor in FACTORS for sign in factor.signs for m in sign.seen_in]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("skin") / "release_v0"
    write_skin(out, SkinPhantom(cases=12, **SMALL))
    return out


def decoded(content: bytes) -> np.ndarray[Any, Any]:
    import io

    return np.asarray(Image.open(io.BytesIO(content))).transpose(1, 0, 2).astype(float)


# Files


def test_it_is_indexed_as_derm7pt_is(written: Path) -> None:
    cohort = check_dataset("derm7pt", written)
    assert PHANTOMS["skin"].layout == layout_of("skin", SkinPhantom()) == "derm7pt"
    assert len(cohort) == 12 and [m.name for m in cohort.modalities] == list(MODALITIES)
    assert check_cohort(cohort).ok
    assert cohort.meta.notes[-1].startswith("synthetic: the skin phantom")
    assert score_mismatches(written) == []
    config = SkinPhantom(cases=12, **SMALL)
    for k, case in enumerate(cohort.cases):
        lesion = draw_case(config, k)
        assert case.cells["diagnosis"] == DIAGNOSES[int(lesion.diagnosis[0])]
        for factor in CRITERIA:  # the words of the table lead back to the classes
            assert case.cells[factor.name] == factor.values[int(lesion.values[factor.name][0])]
        vector, known = vector_of(cohort, case, "metadata"), load_criteria().metadata
        named = [value for values in known.values() for value in values]
        said = {name for name, bit in zip(named, vector, strict=True) if bit}
        assert said == {factor.values[int(lesion.values[factor.name][0])] for factor in HISTORY}
        for modality in PHOTOGRAPHS:
            assert case.cells[modality] == f"images/{file_name(config, k, modality)}"
            volume = read_volume(cohort.file(case, modality))
            assert volume.array.shape == (3, 64, 64, 1) and volume.array.dtype == np.uint8


def test_names_differ_in_capitals_between_table_and_disk(written: Path) -> None:
    with (written / "meta" / "meta.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    files = {p.relative_to(written / "images").as_posix() for p in (written / "images").rglob("*") if p.is_file()}
    named = {row[column] for row in rows for column in ("clinic", "derm")}
    assert len(files) == len(named) == 24 and files != named
    assert {name.casefold() for name in files} == {name.casefold() for name in named}
    assert {Path(name).suffix for name in files} == {".jpg", ".JPG"}


def test_the_words_and_classes_are_those_of_the_checklist() -> None:
    """The phantom imports nothing of the layout: that both mean the same is shown here."""
    checklist = load_criteria()
    assert checklist.diagnosis.grouped == DIAGNOSES
    assert {f.name: f.values for f in CRITERIA} == {name: c.classes for name, c in checklist.criteria.items()}
    assert {f.name: f.values for f in HISTORY} == checklist.metadata
    for name, groups in WORDS.items():
        for group, words in groups.items():
            for word in words:
                found = checklist.diagnosis.values[word][0] if name == "diagnosis" else checklist.criteria[name].values[word]
                assert found == group


def test_hidden_causes_are_written_whole(written: Path) -> None:
    with (written / "hidden_causes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    meanings = json.loads((written / "hidden_causes.json").read_text())
    assert list(rows[0]) == ["case", *meanings] and len(rows) == 12
    assert [row["case"] for row in rows] == [str(k) for k in range(1, 13)]
    assert {name.removeprefix("sign_") for name in meanings if name.startswith("sign_")} == set(SIGNS)
    assert (meanings["sign_sun_damage"]["role"], meanings["sign_sun_damage"]["modality"]) == ("unique", "clinical")
    assert (meanings["sign_streaks_derm"]["role"], meanings["sign_streaks_derm"]["modality"]) == ("unique", "derm")
    assert meanings["sign_asymmetry"]["role"] == meanings["sign_pigmentation_derm"]["role"] == "shared"
    assert meanings["diagnosis"]["role"] == "label"
    lesion = draw_case(SkinPhantom(cases=12, **SMALL), 4)
    assert float(rows[4]["sign_milia"]) == pytest.approx(float(lesion.strengths["milia"][0]), abs=1e-4)


def test_case_k_depends_on_seed_and_k_only(tmp_path: Path) -> None:
    write_skin(tmp_path / "a", SkinPhantom(cases=3, **SMALL))
    write_skin(tmp_path / "b", SkinPhantom(cases=5, missing="random", **SMALL))
    write_skin(tmp_path / "c", SkinPhantom(cases=3, size=64, seed=6))
    a, b, c = (
        {p.relative_to(tmp_path / f).as_posix(): p.read_bytes() for p in (tmp_path / f / "images").rglob("*.*")} for f in "abc"
    )
    assert len(a) == 6 and len(set(a) & set(b)) >= 2
    assert all(a[name] == b[name] for name in set(a) & set(b))
    assert not set(a.values()) & set(c.values())


def test_an_interrupted_call_is_completed_and_another_phantom_refused(tmp_path: Path) -> None:
    config = SkinPhantom(cases=2, **SMALL)
    write_skin(tmp_path, config)
    whole = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    gone = tmp_path / "images" / file_name(config, 1, "derm")
    gone.unlink()
    seen: list[tuple[int, int]] = []
    write_skin(tmp_path, config, on_progress=lambda done, total: seen.append((done, total)))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == whole and seen == [(1, 2), (2, 2)]
    with pytest.raises(DataError, match="another phantom"):
        write_skin(tmp_path, SkinPhantom(cases=3, **SMALL))


def test_absent_modalities_have_no_file_and_no_words(tmp_path: Path) -> None:
    config = SkinPhantom(cases=12, missing="imbalanced", **SMALL)
    write_skin(tmp_path, config)
    cohort = check_dataset("derm7pt", tmp_path)
    assert len(cohort) == 12
    for k, case in enumerate(cohort.cases):
        assert tuple(m for m in MODALITIES if m in case.cells) == config.present(k)
    assert len({config.present(k) for k in range(12)}) > 2
    rates = np.array([[m in config.present(k) for m in MODALITIES] for k in range(1000)]).mean(axis=0)
    np.testing.assert_allclose(rates, (0.9, 0.4, 0.7), atol=0.06)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cases": 0}, r"phantom skin: cases must lie in 1\.\.99999; got 0"),
        ({"size": 63}, r"phantom skin: size must lie in 64\.\.512; got 63"),
        ({"missing": "random", "rates": {"dermo": 0.1}}, r"rates must name modalities .*Did you mean derm"),
        ({"missing": "random", "rates": {"derm": 1.0}}, r"rates\[derm\] must lie in \[0, 1\); got 1.0"),
        ({"rates": {"derm": 0.1}}, r"rates must be empty where missing is none"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SkinPhantom(**wrong)


# That the signs are in the pixels


@pytest.mark.parametrize(("sign", "modality"), SEEN)
def test_each_sign_can_be_read_from_the_file(sign: str, modality: str) -> None:
    """Who knows the rest of the picture finds the strength in it: the least squares fit of the JPEG lies at the truth.

    The painter also knows the pixel noise of the file, which is made up for by as much noise on top.
    """
    config = SkinPhantom(**SMALL)
    k = next(k for k in range(100) if 0.25 < strengths_of(draw_case(config, k))[sign] < 0.75)
    truth = strengths_of(draw_case(config, k))
    rng = np.random.default_rng(1)
    target = decoded(jpeg(photograph(config, k, modality, strengths=truth))) + rng.normal(0, 3.5, (64, 64, 3))

    def misfit(value: float) -> float:
        return float(((photograph(config, k, modality, strengths={**truth, sign: value}).astype(float) - target) ** 2).sum())

    coarse = min(np.linspace(0, 1, 11), key=misfit)
    best = min(np.clip(np.linspace(coarse - 0.08, coarse + 0.08, 9), 0, 1), key=misfit)
    assert best == pytest.approx(truth[sign], abs=0.04)


@pytest.mark.parametrize("modality", PHOTOGRAPHS)
def test_no_photograph_shows_the_signs_of_the_other(modality: str) -> None:
    config = SkinPhantom(**SMALL)
    own = {sign for sign, seen in SEEN if seen == modality}
    assert 0 < len(own) < len(SIGNS)
    for k in range(3):
        truth = strengths_of(draw_case(config, k))
        changed = {name: value if name in own else 1 - value for name, value in truth.items()}
        np.testing.assert_array_equal(
            photograph(config, k, modality, strengths=changed), photograph(config, k, modality, strengths=truth)
        )


def test_a_reader_who_knows_nothing_else_sees_them_too() -> None:
    """Plain measurements over cases: how blue the lesion is, and how large it is on the skin, follow their signs."""
    config = SkinPhantom(**SMALL)
    veil, blue, diameter, area = [], [], [], []
    for k in range(40):
        truth = strengths_of(draw_case(config, k))
        derm, skin = (photograph(config, k, m, strengths=truth).astype(float) for m in ("derm", "clinical"))
        veil.append(truth["blue_whitish_veil_derm"])
        blue.append((derm[..., 2] - derm[..., 0] > 0).mean())
        diameter.append(truth["diameter"])
        dark = np.median(skin[..., 1]) - skin[..., 1]
        area.append((dark[8:-8, 8:-8] > 25).mean())
    assert np.corrcoef(np.array(veil), np.array(blue))[0, 1] > 0.75
    assert np.corrcoef(np.array(diameter), np.array(area))[0, 1] > 0.75


def test_a_case_looks_the_same_at_every_size() -> None:
    small, large = (SkinPhantom(size=size, seed=5) for size in (64, 256))
    for modality in PHOTOGRAPHS:
        a, b = (photograph(c, 2, modality, strengths=strengths_of(draw_case(c, 2))).astype(float) for c in (small, large))
        b = b.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97


# The model and its ceilings


@pytest.fixture(scope="module")
def lesions() -> Lesions:
    return draw_lesions(np.random.default_rng(0), 20_000)


def test_draws_follow_the_tables(lesions: Lesions) -> None:
    np.testing.assert_allclose(np.bincount(lesions.diagnosis, minlength=5) / 20_000, PRIOR, atol=0.015)
    for factor in FACTORS:
        np.testing.assert_allclose(np.array(factor.given).sum(axis=1), 1, atol=1e-9)
        for d in range(5):
            mine = lesions.values[factor.name][lesions.diagnosis == d]
            found = np.bincount(mine, minlength=len(factor.values)) / len(mine)
            np.testing.assert_allclose(found, factor.given[d], atol=0.05)
        for sign in factor.signs:
            s = lesions.strengths[sign.name]
            assert s.min() >= 0 and s.max() <= 1
            for value, mean in enumerate(sign.means):
                mine = s[lesions.values[factor.name] == value]
                assert np.median(mine) == pytest.approx(mean, abs=0.03)  # the median is not moved by clipping


def slow_likelihood(factor: Factor, lesions: Lesions, n: int, value: int, subset: tuple[str, ...]) -> float:
    product_ = 1.0
    for sign in factor.signs:
        if not set(sign.seen_in) & set(subset):
            continue
        normal, s = NormalDist(sign.means[value], sign.sd), float(lesions.strengths[sign.name][n])
        product_ *= normal.cdf(0) if s <= 0 else 1 - normal.cdf(1) if s >= 1 else normal.pdf(s)
    if factor.recorded and "metadata" in subset:
        product_ *= float(lesions.values[factor.name][n] == value)
    return product_


@pytest.mark.parametrize("subset", [("clinical",), ("derm", "metadata"), MODALITIES])
def test_posteriors_equal_a_slow_loop(lesions: Lesions, subset: tuple[str, ...]) -> None:
    """Bayes' rule as it is written, one lesion after the other."""
    few = Lesions(
        lesions.diagnosis[:25],
        {name: v[:25] for name, v in lesions.values.items()},
        {name: s[:25] for name, s in lesions.strengths.items()},
    )
    found = posteriors(few, subset)
    for n in range(25):
        joint = {factor.name: np.zeros((5, len(factor.values))) for factor in FACTORS}
        total = np.zeros(5)
        for d in range(5):
            sums = {
                f.name: [f.given[d][v] * slow_likelihood(f, few, n, v, subset) for v in range(len(f.values))] for f in FACTORS
            }
            total[d] = PRIOR[d] * math.prod(sum(row) for row in sums.values())
            for factor in FACTORS:
                rest = PRIOR[d] * math.prod(sum(row) for name, row in sums.items() if name != factor.name)
                joint[factor.name][d] = rest * np.array(sums[factor.name])
        np.testing.assert_allclose(found["diagnosis"][n], total / total.sum(), atol=1e-9)
        for factor in CRITERIA:
            expected = joint[factor.name].sum(axis=0)
            np.testing.assert_allclose(found[factor.name][n], expected / expected.sum(), atol=1e-9)


def test_posteriors_are_calibrated(lesions: Lesions) -> None:
    """Of the lesions that are given a probability of p, a part p has the class."""
    for subset in (("clinical",), ("derm",), MODALITIES):
        known = posteriors(lesions, subset)
        for target in ("diagnosis", "pigment_network", "blue_whitish_veil"):
            p, truth = known[target], truth_of(lesions, target)
            for k in range(p.shape[1]):
                for low in (0.0, 0.2, 0.4, 0.6, 0.8):
                    mine = (p[:, k] >= low) & (p[:, k] < low + 0.2)
                    if mine.sum() > 200:
                        error = p[mine, k].mean() - (truth[mine] == k).mean()
                        assert abs(error) < 4 * math.sqrt(0.25 / mine.sum())


def test_ceilings_cover_all_subsets_and_never_fall_with_more_modalities() -> None:
    ceilings = ceilings_of("skin", SkinPhantom())
    value = {(c.metric, c.present): c for c in ceilings}
    assert len(ceilings) == len(value) == 7 * 9
    assert {c.present for c in ceilings} == set(subsets(MODALITIES))
    for (metric, present), ceiling in value.items():
        assert metric.endswith(f"/{ceiling.target}") and ceiling.n == 60_000 and ceiling.ci95 is not None
        assert ceiling.ci95[0] < ceiling.value < ceiling.ci95[1] < ceiling.ci95[0] + 0.03
        assert ceiling.kind == ("estimate" if present == ("metadata",) else "upper bound")
        for other in subsets(MODALITIES):
            if set(present) < set(other):
                assert value[metric, other].value > ceiling.value - 0.003
    best = {present: value["balanced_accuracy/diagnosis", present].value for present in subsets(MODALITIES)}
    # Dermoscopy is superior, and yet the clinical photograph has something of its own.
    assert best["metadata",] + 0.15 < best["clinical",] < best["derm",] - 0.08
    assert best["clinical", "derm"] > best["derm",] + 0.05
    assert best[MODALITIES] > best["clinical", "derm"] + 0.01 and best[MODALITIES] < 0.95


def test_the_ceiling_of_metadata_equals_the_sum_over_all_its_cells() -> None:
    """54 cells: for each the classes' exact probabilities."""
    cells = list(product(*(range(len(f.values)) for f in HISTORY)))
    p = np.array([[math.prod(f.given[d][v] for f, v in zip(HISTORY, cell, strict=True)) for cell in cells] for d in range(5)])
    answers = p.argmax(axis=0)  # the rule that maximises the mean recall
    exact = np.mean([p[d, answers == d].sum() for d in range(5)])
    joint = np.array(PRIOR)[:, None] * p
    areas = []
    for d in range(5):
        posterior, rest = joint[d] / joint.sum(axis=0), joint.sum(axis=0) - joint[d]
        wins = (posterior[:, None] > posterior[None]) + 0.5 * np.isclose(
            posterior[:, None], posterior[None], atol=1e-12, rtol=0
        )
        areas.append((joint[d] / joint[d].sum()) @ wins @ (rest / rest.sum()))
    found = {c.metric: c for c in ceilings_of("skin", SkinPhantom()) if c.present == ("metadata",)}
    for metric, value in (("balanced_accuracy/diagnosis", exact), ("AUROC/diagnosis", np.mean(areas))):
        low, high = found[metric].ci95 or (0, 0)
        assert low - (high - low) / 2 < value < high + (high - low) / 2


def test_scores_of_ceilings_are_those_of_results(lesions: Lesions) -> None:
    """The same formulas as in the results, and no other rule does better."""
    p, truth = posteriors(lesions, ("derm",))["diagnosis"], lesions.diagnosis
    columns = as_columns(truth.tolist(), 5)
    assert macro_auroc(p, truth) == pytest.approx(float(metric_columns("AUROC", p, columns, several=False).mean()), abs=1e-9)
    weighed = p / p.mean(axis=0)
    measured = metric_columns("balanced_accuracy", weighed, columns, several=False)
    assert best_balanced_accuracy(p, truth) == pytest.approx(float(measured.mean()), abs=1e-9)
    for power in (0.0, 0.5, 1.5):  # other weights of the classes; 0 is the most probable class
        other = metric_columns("balanced_accuracy", p / p.mean(axis=0) ** power, columns, several=False)
        assert best_balanced_accuracy(p, truth) > float(other.mean())
    noisy = p * np.exp(np.random.default_rng(0).normal(0, 1, p.shape))
    assert macro_auroc(noisy, truth) < macro_auroc(p, truth)
