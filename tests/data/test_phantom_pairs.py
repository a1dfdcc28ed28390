"""The pairs phantom: files, what is missing, and a class that is a product in one vector and nearly linear in the other."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from comodal.data import index
from comodal.data.phantoms import pairs_model as model
from comodal.data.phantoms.pairs import MIXING, TABLE, PairsPhantom, make_case, write_pairs
from comodal.data.phantoms.writing import stream
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset


def test_the_table_reads_back(tmp_path: Path) -> None:
    config = PairsPhantom(cases=16, unlabelled=0.4, unpaired=0.3)
    write_pairs(tmp_path, config)
    cohort = check_dataset("csv", tmp_path / TABLE)
    assert [(m.name, m.kind, m.channels) for m in cohort.modalities] == [
        ("inferior", "features", 64),
        ("superior", "features", 32),
    ]
    assert [(t.name, t.kind, t.classes) for t in cohort.targets] == [("diagnosis", "class", ("A", "B", "C"))]
    assert [case.split for case in cohort.cases] == [config.split(k) for k in range(16)]
    for k, case in enumerate(cohort.cases):
        inferior, superior, number = make_case(config, k)
        assert set(case.cells) == set(config.present(k))
        np.testing.assert_array_equal(np.load(cohort.file(case, "inferior")), inferior)
        if "superior" in case.cells:
            np.testing.assert_array_equal(np.load(cohort.file(case, "superior")), superior)
        assert case.cells.get("diagnosis", model.CLASSES[number]) == model.CLASSES[number]


def test_cases_depend_on_seed_and_number_only(tmp_path: Path) -> None:
    for name, cases in (("few", 16), ("more", 20)):
        write_pairs(tmp_path / name, PairsPhantom(cases=cases, seed=2))
    for path in (tmp_path / "few").rglob("*.npy"):
        assert path.read_bytes() == (tmp_path / "more" / path.relative_to(tmp_path / "few")).read_bytes()
    one, other = (make_case(PairsPhantom(seed=seed), 0)[0] for seed in (2, 3))
    assert not np.allclose(one, other)


def test_what_is_missing_grows_and_only_in_training_cases() -> None:
    kinds = {}
    for unlabelled, unpaired in ((0.0, 0.0), (0.3, 0.2), (0.6, 0.4)):
        config = PairsPhantom(unlabelled=unlabelled, unpaired=unpaired)
        found = {k: config.present(k) for k in range(config.cases)}
        assert all(len(present) == 3 for k, present in found.items() if config.split(k) != "train")
        without = {name: {k for k, present in found.items() if name not in present} for name in ("superior", "diagnosis")}
        assert not without["superior"] & without["diagnosis"]  # a case with the inferior vector alone teaches nothing
        assert len(without["diagnosis"]) / 600 == pytest.approx(unlabelled, abs=0.06)
        assert len(without["superior"]) / 600 == pytest.approx(unpaired, abs=0.06)
        kinds[unlabelled] = without
    assert kinds[0.3]["diagnosis"] < kinds[0.6]["diagnosis"] and kinds[0.3]["superior"] < kinds[0.6]["superior"]


def test_vectors_hold_what_the_model_says() -> None:
    """W' z gives the causes in the inferior vector and the scores in the superior one, with the stated noise; variance 1."""
    config = PairsPhantom()
    weights = model.mixing(stream(config.seed, 0, MIXING))
    for of in weights:
        np.testing.assert_allclose(of.T @ of, np.eye(of.shape[1]), atol=1e-12)
    causes = model.draw_causes(np.random.default_rng(0), 20_000)
    inferior, superior = model.vectors(causes, weights, linear=0.33)
    assert inferior.var() == pytest.approx(1, abs=0.02) and superior.var() == pytest.approx(1, abs=0.03)
    u = (inferior * model.SCALE_I @ weights[0])[:, :6] / model.GAIN_U
    s = (superior * model.SCALE_S @ weights[1])[:, :3] / model.GAIN_S
    scores = model.scores(causes.deciding, 0.33)
    assert (u - causes.deciding).std() == pytest.approx(1 / model.GAIN_U, rel=0.02)
    assert (s - scores).std() == pytest.approx(model.NOISE_S / model.GAIN_S, rel=0.02)
    assert scores.var() == pytest.approx(1, abs=0.05) and abs(scores.mean()) < 0.02
    by_hand = np.sqrt(1 - 0.33**2) * causes.deciding[:, 0] * causes.deciding[:, 1]
    by_hand += 0.33 * (causes.deciding[:, 0] + causes.deciding[:, 1]) / np.sqrt(2)
    np.testing.assert_allclose(scores[:, 0], by_hand)
    assert (model.label(causes, linear=0.33) == scores.argmax(axis=1)).all()
    np.testing.assert_allclose(model.scores(causes.deciding, 0.0)[:, 1], causes.deciding[:, 2] * causes.deciding[:, 3])


def test_hidden_causes_are_those_of_the_vectors(tmp_path: Path) -> None:
    config = PairsPhantom(cases=16, seed=4)
    write_pairs(tmp_path, config)
    rows = list(csv.DictReader((tmp_path / "hidden_causes.csv").read_text().splitlines()))
    weights = model.mixing(stream(config.seed, 0, MIXING))
    for k, row in enumerate(rows):
        u = np.array([[float(row[f"cause{i}"]) for i in range(1, 7)]])
        assert row["class"] == model.CLASSES[model.scores(u, config.linear).argmax()]
        seen = make_case(config, k)[0] * model.SCALE_I @ weights[0][:, :6] / model.GAIN_U
        assert np.abs(seen - u).max() < 5 / model.GAIN_U


def test_a_linear_reader_needs_the_superior_vector_and_products_are_enough() -> None:
    """Linear in the superior vector, near chance in the inferior one, and there again once products of its causes are given."""
    causes, weights = model.draw_causes(np.random.default_rng(1), 4000), model.mixing(np.random.default_rng(2))
    truth = model.label(causes, linear=0.33)
    inferior, superior = model.vectors(causes, weights, linear=0.33)
    u = inferior @ weights[0][:, :6]
    products = np.concatenate([u, u[:, 0::2] * u[:, 1::2]], axis=1)

    def accuracy(x: Any) -> float:
        reader = LogisticRegression(max_iter=200).fit(x[:2000], truth[:2000])
        return float(reader.score(x[2000:], truth[2000:]))

    cheap, dear, helped = accuracy(inferior), accuracy(superior), accuracy(products)
    best = {c.present: c.value for c in model.ceilings(PairsPhantom()) if c.metric == "accuracy/diagnosis"}
    assert cheap < 0.5 < helped - 0.1 and dear > 0.83
    assert helped < best["inferior",] + 0.03 and dear < best["superior",] + 0.03
    assert helped > best["inferior",] - 0.05  # products of the noisy causes are nearly all that there is


def test_posteriors_against_causes_drawn_anew() -> None:
    """All six causes are drawn as the inferior vector leaves them, or freely, and weighed by the scores that were seen."""
    rng, linear, draws = np.random.default_rng(5), 0.33, 200_000
    nodes = np.random.default_rng(6).standard_normal((2048, 2))
    at_u, at_s = np.array([[1.2, 0.8, -0.4, 0.6, 0.2, 1.0]]), np.array([[0.6, 0.3, -0.5]])
    keep = model.GAIN_U**2 / (1 + model.GAIN_U**2)
    free = rng.standard_normal((draws, 6))
    for u_seen, s_seen in ((at_u, None), (None, at_s), (at_u, at_s)):
        u = free if u_seen is None else keep * u_seen + np.sqrt(1 - keep) * free
        scores, weights = model.scores(u, linear), np.ones(draws)
        if s_seen is not None:
            weights = np.exp(-0.5 * (((scores - s_seen) * model.GAIN_S / model.NOISE_S) ** 2).sum(axis=1))
        counted = np.bincount(scores.argmax(axis=1), weights=weights, minlength=3) / weights.sum()
        found = model.posterior(u_seen, s_seen, linear=linear, nodes=nodes)[0]
        np.testing.assert_allclose(found, counted, atol=0.03)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"cases": 15}, r"pairs: cases must lie in 16\.\.99999; got 15"),
        ({"linear": 1.5}, r"pairs: linear must lie in 0\.\.1; got 1\.5"),
        ({"unlabelled": 0.6, "unpaired": 0.5}, r"unpaired must lie in 0\.\.0\.4, beside unlabelled; got 0\.5"),
        ({"unpaired": -0.1}, r"unpaired must lie in 0\.\.1"),
    ],
)
def test_settings_out_of_range(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PairsPhantom(**setting)


def test_a_folder_of_another_phantom_is_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, PairsPhantom(cases=16))
    write_pairs(tmp_path, PairsPhantom(cases=16))  # the same goes on
    with pytest.raises(DataError, match="another phantom"):
        write_pairs(tmp_path, PairsPhantom(cases=17))
    assert len(index("csv", tmp_path / TABLE)) == 16
