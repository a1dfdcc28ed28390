"""N4: a bias field that was put in goes away; what cannot be corrected stays; without SimpleITK there is a command to type."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from comodal.data.bias_field import check_n4_installed, correct_bias
from comodal.data.normalisation import PreprocessingConfig, normalise
from comodal.errors import ConfigError

NEEDS_ITK = pytest.mark.skipif(importlib.util.find_spec("SimpleITK") is None, reason="SimpleITK is not installed")


def ball(shape: tuple[int, ...] = (40, 40, 24)) -> tuple[Any, Any]:
    """Two tissues in a ball, 0 around it; and a smooth field."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape], indexing="ij", sparse=True)
    radius = sum(np.asarray(axis) ** 2 for axis in axes)
    clean = np.where(radius < 0.3, 100.0, 60.0) * (1 + 0.03 * np.random.default_rng(0).standard_normal(shape))
    field = np.exp(0.3 * axes[0] + 0.2 * axes[1] * axes[0])
    return np.where(radius < 0.8, clean, 0), np.broadcast_to(field, shape)


def variation(image: Any, where: Any) -> float:
    return float(image[where].std() / image[where].mean())


@NEEDS_ITK
@pytest.mark.parametrize("shape", [(40, 40, 24), (48, 48, 1)], ids=["volume", "slice"])
def test_a_bias_field_goes_away(shape: tuple[int, ...]) -> None:
    clean, field = ball(shape)
    tissue = (clean > 50) & (clean < 70)
    biased = clean * field
    corrected = correct_bias(biased)
    assert corrected.shape == shape and corrected.dtype == np.float64
    assert variation(clean, tissue) < 0.04 < 0.12 < variation(biased, tissue)
    assert variation(corrected, tissue) < 0.05
    found = (biased[clean > 0] / corrected[clean > 0]).ravel()
    assert np.corrcoef(np.log(found), np.log(field[clean > 0]))[0, 1] > 0.97
    assert not corrected[clean == 0].any()
    np.testing.assert_array_equal(correct_bias(biased), corrected)


@NEEDS_ITK
def test_the_scheme_corrects_first_and_then_does_as_hemis() -> None:
    clean, field = ball()
    biased = np.rint(clean * field).astype(np.int16)
    got = normalise(np.stack([biased, biased[::-1]]), "hemis-n4")
    np.testing.assert_array_equal(got[0], normalise(correct_bias(biased)[None], "hemis")[0])
    plain = normalise(biased[None], "hemis")[0]
    tissue = (clean > 50) & (clean < 70)
    assert got[0][tissue].std() < 0.5 * plain[tissue].std()
    assert not got[0][biased == 0].any()


@NEEDS_ITK
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 8)),
        np.full((8, 8, 8), 5.0),
        np.pad(np.ones((1, 1, 1)), 4) * 7,
        np.arange(16.0).reshape(16, 1, 1),
        np.arange(4.0).reshape(2, 2, 1),
        np.arange(-32.0, 32).reshape(4, 4, 4),
        np.pad(np.arange(1.0, 3).reshape(2, 1, 1), ((1, 33), (1, 34), (1, 34))),
    ],
    ids=["zeros", "constant", "one voxel", "a line", "four voxels", "negative values", "two voxels that shrinking steps over"],
)
def test_odd_images_stay_finite(image: Any) -> None:
    corrected = correct_bias(image)
    assert corrected.shape == image.shape and np.isfinite(corrected).all()
    assert not corrected[image == 0].any()
    assert np.isfinite(normalise(image[None], "hemis-n4")).all()


def test_without_simpleitk_there_is_a_command_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = r"must have SimpleITK for N4 bias-field correction; got none installed. Type: pip install 'comodal\[itk\]'"
    with pytest.raises(ConfigError, match=f"x {text}"):
        check_n4_installed("x")
    with pytest.raises(ConfigError, match=text):
        correct_bias(ball()[0])
    # known before any file is opened
    with pytest.raises(ConfigError, match=f"data.normalise.t1 {text}"):
        PreprocessingConfig(normalise={"t1": "hemis-n4"}).check_names(["t1"])
    PreprocessingConfig(normalise={"t1": "hemis"}).check_names(["t1"])
