"""Normalisation and what is fitted for it, against numbers derived by hand."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec
from comodal.data.geometry import Array
from comodal.data.normalisation import CtNumbers, Fitted, PreprocessingConfig, fit, normalise
from comodal.errors import ConfigError, DataError
from comodal.modality import Modality


def test_zscore_inside_the_non_zero_voxels() -> None:
    got = normalise(np.array([0, 0, 2, 4, 6], dtype=np.int16).reshape(1, 5, 1, 1), "zscore-nonzero").ravel()
    assert got.dtype == np.float32
    assert np.allclose(got, [0, 0, -np.sqrt(1.5), 0, np.sqrt(1.5)])
    # 1 zero among 21 voxels is less than 5 %: a value like any other
    few = normalise(np.arange(21).reshape(1, 21, 1, 1), "zscore-nonzero").ravel()
    assert np.allclose(few, (np.arange(21) - 10) / np.arange(21).std())


@pytest.mark.parametrize("scheme", ["zscore", "zscore-nonzero", "hemis", "unit"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_image_becomes_zero(scheme: str, value: float) -> None:
    image = np.full((2, 3, 3, 3), value, dtype=np.float64)
    assert not normalise(image, scheme).any()  # type: ignore[arg-type]


def test_ct_pictures_and_no_scheme() -> None:
    numbers = CtNumbers(low=-100, high=200, mean=50, deviation=25)
    hu = np.array([-1000, 50, 3000], dtype=np.int16).reshape(1, 3, 1, 1)
    assert normalise(hu, "ct", numbers).ravel().tolist() == [-6, 0, 6]
    assert normalise(np.array([[[[0, 51, 255]]]], dtype=np.uint8), "unit").ravel().tolist() == pytest.approx([0, 0.2, 1])
    assert normalise(np.array([[[[100, 300, 200]]]], dtype=np.uint16), "unit").ravel().tolist() == [0, 1, 0.5]
    assert normalise(hu, "none").ravel().tolist() == [-1000, 50, 3000]
    with pytest.raises(ConfigError, match="must have fitted numbers for ct"):
        normalise(hu, "ct")


def test_scheme_goes_by_kind_unless_named() -> None:
    auto, named = PreprocessingConfig(), PreprocessingConfig(normalise={"t1": "zscore"})
    assert auto.scheme(Modality("t1")) == "zscore-nonzero" and named.scheme(Modality("t1")) == "zscore"
    assert named.scheme(Modality("ct", unit="HU")) == "ct"
    assert auto.scheme(Modality("xray", spatial_dims=2)) == "zscore"
    assert PreprocessingConfig(normalise={"xray": "unit"}).scheme(Modality("xray", spatial_dims=2)) == "unit"
    assert auto.scheme(Modality("slice", spatial_dims=2, unit="HU")) == "ct"
    with pytest.raises(ConfigError, match=r"data.normalise must name modalities of the cohort; got 'flar'. Did you mean flair"):
        PreprocessingConfig(normalise={"flar": "ct"}).check_names(["t1", "flair"])
    for wrong in ({"spacing": (1, 0, 1)}, {"resize": (-4, 4)}, {"spacng": "native"}):
        with pytest.raises(ValueError, match=r"must be positive|Extra inputs"):
            PreprocessingConfig.model_validate(wrong)


def test_the_mean_of_each_channel_of_a_picture_is_what_an_absent_picture_is() -> None:
    """Methods see 0 where a picture is absent: that must be its mean, and not black."""
    picture = np.stack([np.full((4, 4, 1), 9), np.arange(16).reshape(4, 4, 1), 255 - np.arange(16).reshape(4, 4, 1)])
    got = normalise(picture.astype(np.uint8), PreprocessingConfig().scheme(Modality("photo", spatial_dims=2, channels=3)))
    assert np.allclose(got.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    assert np.allclose(got.std(axis=(1, 2, 3)), [0, 1, 1], atol=1e-6)


def test_ct_numbers_are_fitted_on_training_bodies_only(tmp_path: Path) -> None:
    spec = [ModalitySpec(name="ct", unit="HU"), ModalitySpec(name="t1")]
    values = {"a": [-1000, 0, 10], "b": [-1000, -1000, 20], "c": [9000, 9000, 9000]}
    for name, line in values.items():
        image = nib.Nifti1Image(np.array(line, dtype=np.int16).reshape(3, 1, 1), np.eye(4))
        nib.save(image, tmp_path / f"{name}.nii")
    meta = CohortMeta(layout="csv", root=str(tmp_path), modalities=spec)
    # t1 is listed but missing: only what needs fitting is opened
    cohort = Cohort.build(meta, [Case.build(n, cells={"ct": f"{n}.nii", "t1": "none.nii"}) for n in values], tmp_path)
    fitted = fit(cohort, ["a", "b"], PreprocessingConfig())
    assert fitted.ct["ct"].mean == pytest.approx(10, abs=0.1)
    assert (fitted.ct["ct"].low, fitted.ct["ct"].high) == pytest.approx((0.1, 19.9))
    assert Fitted.model_validate_json(fitted.model_dump_json()) == fitted
    assert fit(cohort, ["a"], PreprocessingConfig(), modalities=["t1"]) == Fitted()
    with pytest.raises(DataError, match=r"modality must be present .* \[modality ct\]"):
        fit(cohort, [], PreprocessingConfig())


def test_a_background_that_was_shifted_by_an_earlier_z_score_is_still_background() -> None:
    random = np.random.default_rng(0)
    raw = np.zeros((1, 8, 8, 8), dtype=np.float32)
    raw[:, 2:6, 2:6, 2:6] = random.normal(100, 20, (1, 4, 4, 4))
    shifted = (raw - 30) / 40  # background is now -0.75 everywhere
    again = normalise(shifted, "zscore-nonzero")
    np.testing.assert_allclose(again, normalise(raw, "zscore-nonzero"), atol=1e-5)
    assert again[0, 0, 0, 0] == 0


def slow_hemis(image: Array) -> Array:
    """Voxel by voxel: sorted values, percentiles between neighbours, clip, mean, deviation."""
    inside = sorted(float(value) for value in image.ravel() if value != 0)

    def percentile(percent: float) -> float:
        at = percent / 100 * (len(inside) - 1)
        low = int(at)
        high = min(low + 1, len(inside) - 1)
        return inside[low] + (at - low) * (inside[high] - inside[low])

    low, high = percentile(1), percentile(99)
    clipped = [min(max(value, low), high) for value in inside]
    mean = sum(clipped) / len(clipped)
    deviation = (sum((value - mean) ** 2 for value in clipped) / len(clipped)) ** 0.5
    out = np.zeros(image.shape)
    for where in np.ndindex(image.shape):
        if image[where] != 0:
            out[where] = (min(max(float(image[where]), low), high) - mean) / deviation
    return out


@pytest.mark.parametrize("zeros", [0.0, 0.02, 0.7])
def test_hemis_equals_a_slow_reference(zeros: float) -> None:
    """Few zeros are background too: the papers say non-zero voxels, whatever their number."""
    random = np.random.default_rng(3)
    image = random.normal(300, 80, (2, 7, 8, 9)) * (random.uniform(size=(2, 7, 8, 9)) >= zeros)
    image = np.rint(image).astype(np.int16)
    image[0, 3, 3, 3], image[1, 2, 2, 2] = 9000, 8000  # outliers, each in its own channel
    got = normalise(image, "hemis")
    assert got.dtype == np.float32
    for channel in range(2):
        np.testing.assert_allclose(got[channel], slow_hemis(image[channel]), atol=1e-5)
        assert not got[channel][image[channel] == 0].any()
        assert abs(float(got[channel][image[channel] != 0].mean())) < 1e-5
    assert got.max() < 4 < normalise(image, "zscore-nonzero").max()


def test_hemis_by_hand() -> None:
    """Of 101 values the percentiles 1 and 99 are the second and the last but one."""
    image = np.concatenate([[-1000], np.arange(1, 100), [1000], np.zeros(9)]).reshape(1, -1, 1, 1)
    clipped = np.concatenate([[1], np.arange(1, 100), [99]])
    expected = np.concatenate([(clipped - clipped.mean()) / clipped.std(), np.zeros(9)])
    np.testing.assert_allclose(normalise(image, "hemis").ravel(), expected, atol=1e-6)


def test_equal_corners_that_fill_little_are_no_background() -> None:
    image = np.random.default_rng(0).normal(5, 1, (1, 8, 8, 8)).astype(np.float32)
    image[np.ix_([0], [0, -1], [0, -1], [0, -1])] = 7.0
    np.testing.assert_array_equal(normalise(image, "zscore-nonzero"), normalise(image, "zscore"))


def test_pictures_as_pretrained_networks_want_them() -> None:
    image = np.array([[0, 255], [128, 64], [32, 16]], dtype=np.uint8).reshape(3, 2, 1, 1)
    np.testing.assert_allclose(normalise(image, "signed"), 2 * (image / 255) - 1, atol=1e-6)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # as torchvision states them
    wanted = (image / 255 - mean.reshape(3, 1, 1, 1)) / deviation.reshape(3, 1, 1, 1)
    np.testing.assert_allclose(normalise(image, "imagenet"), wanted, atol=1e-5)
    grey = normalise(image[:1], "imagenet")
    np.testing.assert_allclose(grey, (image[:1] / 255 - mean.mean()) / deviation.mean(), atol=1e-5)
    wide = normalise(np.array([0, 1000], dtype=np.uint16).reshape(1, 2, 1, 1), "signed")
    assert wide.ravel().tolist() == [-1.0, 1.0] and wide.dtype == grey.dtype == np.float32
