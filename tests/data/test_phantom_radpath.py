"""The radpath phantom: signs are in the pixels, the posterior is exact, and radiology and pathology add to each other."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from comodal.data import index
from comodal.data.phantoms import radpath_model as model
from comodal.data.phantoms.radpath import RadpathPhantom, causes, make_scan, write_radpath
from comodal.data.phantoms.radpath_tiles import paint_tile
from comodal.errors import ConfigError

NONE = dict.fromkeys(model.SIGNS, 0.0)


@pytest.mark.parametrize(
    ("sequence", "sign", "gain"),
    [("t1ce", "enhancement", 0.9), ("t1", "calcification", -0.5), ("flair", "mismatch", -0.7), ("t2", "oedema", 0.9)],
)
def test_a_sign_is_read_from_its_sequence(sequence: str, sign: str, gain: float) -> None:
    """The picture with the sign over the same picture without it: 1 + gain * strength where the tissue is whole."""
    config = RadpathPhantom()
    plain = make_scan(config, 0, sequence, signs=NONE).astype(float)
    full = make_scan(config, 0, sequence, signs={**NONE, sign: 1.0}).astype(float)
    half = make_scan(config, 0, sequence, signs={**NONE, sign: 0.5}).astype(float)
    ratio = np.divide(full, plain, out=np.ones_like(full), where=plain > 50)
    whole = np.abs(ratio - 1) > 0.95 * abs(gain) - 0.05
    assert whole.sum() > 5
    assert np.median(ratio[whole]) == pytest.approx(1 + gain, abs=0.12)
    assert np.median(half[whole] / plain[whole]) == pytest.approx(1 + gain / 2, abs=0.08)
    others = {name: 1.0 for name, one in model.SIGNS.items() if sequence not in one.seen_in}
    assert np.array_equal(
        make_scan(config, 0, sequence, signs={**NONE, **others}), plain
    )  # what it does not show changes nothing


@pytest.mark.parametrize("sign", ["density", "vessels", "halos", "pleomorphism"])
def test_a_sign_is_read_from_tiles(sign: str) -> None:
    """Grows with the strength: nuclei, red, pale rings, and how far the pieces of nuclei differ in size."""
    from scipy.ndimage import label

    def measure(strength: float) -> float:
        found = []
        for seed in range(4):
            signs = {**NONE, "density": 0.15, sign: strength}
            tile = paint_tile(signs, np.random.default_rng(seed)).astype(float)
            dark = tile[..., 1] < 110
            if sign == "density":
                found.append(dark.mean())
            elif sign == "vessels":
                found.append(((tile[..., 0] - tile[..., 2] > 50) & (tile[..., 1] < 120)).mean())
            elif sign == "halos":
                found.append((tile[..., 1] > 205).mean())
            else:
                sizes = np.bincount(label(dark)[0].ravel())[1:]
                found.append(float(np.std(np.log(sizes[sizes > 8]))))
        return float(np.mean(found))

    values = [measure(strength) for strength in (0.0, 0.5, 1.0)]
    assert values[0] < values[1] < values[2]


def test_the_posterior_is_the_sum_over_everything_hidden() -> None:
    _, _, signs = model.draw(np.random.default_rng(0), 40)
    for subset in (("t1ce",), ("flair", "pathology"), model.MODALITIES):
        slow = np.zeros((len(signs), 3))
        for n, d, p in product(range(len(signs)), range(3), range(2)):
            chance = model.PRIOR[d] * (model.PROLIFERATES[d] if p else 1 - model.PROLIFERATES[d])
            for j, sign in enumerate(model.SIGNS.values()):
                if set(sign.seen_in) & set(subset):
                    mean, s = sign.means[p if sign.of_process else d], signs[n, j]
                    inside = norm.pdf(s, mean, sign.sd)
                    chance *= norm.cdf(0, mean, sign.sd) if s == 0 else norm.sf(1, mean, sign.sd) if s == 1 else inside
            slow[n, d] += chance
        assert np.allclose(model.posterior(signs, subset), slow / slow.sum(axis=1, keepdims=True), atol=1e-9)


def test_the_posterior_is_calibrated() -> None:
    diagnosis, _, signs = model.draw(np.random.default_rng(1), 20_000)
    p = model.posterior(signs, ("t1ce", "pathology"))[:, 0]
    for low in (0.1, 0.4, 0.7):
        chosen = (p >= low) & (p < low + 0.2)
        assert (diagnosis[chosen] == 0).mean() == pytest.approx(p[chosen].mean(), abs=0.03)


def test_each_speciality_adds_to_the_other() -> None:
    best = {c.present: c.value for c in model.ceilings() if c.metric == "balanced_accuracy/diagnosis"}
    mri, pathology, both = best[model.MODALITIES[:4]], best["pathology",], best[model.MODALITIES]
    assert mri < both - 0.05 and pathology < both - 0.05 and min(best.values()) > 1 / 3 and both < 0.97


def test_the_layout_gives_back_labels_and_presence(tmp_path: Path) -> None:
    config = RadpathPhantom(cases=5, missing="random", seed=2)
    write_radpath(tmp_path, config)
    cohort = index("radpath", tmp_path)
    for k, case in enumerate(sorted(cohort.cases, key=lambda case: case.id)):
        hidden = causes(config, k)
        assert case.id == hidden["case"] and case.cells["diagnosis"] == hidden["diagnosis"]
        assert tuple(m for m in model.MODALITIES if m in case.cells) == config.present(k)
    assert {causes(config, k)["diagnosis"] for k in range(40)} == set(model.DIAGNOSES)
    assert causes(config, 3) == causes(RadpathPhantom(cases=99, seed=2), 3)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"size": 20}, r"phantom radpath: size must lie in 48\.\.240; got 20"),
        ({"rates": {"t1": 0.3}}, "with missing random; got 0.3"),
        ({"missing": "random", "rates": {"t3": 0.3}}, "name modalities of the phantom; got 't3'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        RadpathPhantom.model_validate(settings)
