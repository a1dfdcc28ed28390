"""Draws: reproducible whoever asks, in the right place, from the right voxels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.utils.data import DataLoader

from comodal.batch import Sample, collate
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.preprocessing import Preparer, PreprocessingConfig
from comodal.data.sampling import Draws, foreground_voxels, window_start
from comodal.errors import ConfigError
from comodal.training.feeding import Feed

SHAPE = (12, 10, 9)
AFFINE = np.array([[2.0, 0, 0, -20], [0, 1, 0, 5], [0, 0, 3, 7], [0, 0, 0, 1]])
REGIONS = TargetSpec(name="seg", kind="regions", classes=["WT", "ET"], codes=[[1, 4], [4]], paint=[1, 4])


def save(path: Path, array: np.ndarray[Any, np.dtype[Any]]) -> None:
    nib.save(nib.Nifti1Image(array, AFFINE), path)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Four cases whose voxels hold their own number x + 100 y + 10000 z; the third lacks t1, the fourth has no tumour."""
    x, y, z = np.indices(SHAPE)
    cases = []
    for number in range(4):
        folder = tmp_path / f"p{number}"
        folder.mkdir()
        save(folder / "flair.nii.gz", (x + 100 * y + 10000 * z).astype(np.float32))
        save(folder / "t1.nii.gz", (x + 100 * y + 10000 * z).astype(np.float32))
        seg = np.zeros(SHAPE, dtype=np.uint8)
        if number < 3:
            seg[7:10, 6:9, 5:7], seg[8, 7, 6] = 1, 4
        save(folder / "seg.nii.gz", seg)
        cells = {"flair": f"p{number}/flair.nii.gz", "t1": f"p{number}/t1.nii.gz", "seg": f"p{number}/seg.nii.gz"}
        cases.append(Case.build(f"p{number}", group=f"g{number}", cells=cells | ({"t1": ""} if number == 2 else {})))
    specs = [ModalitySpec(name="flair"), ModalitySpec(name="t1")]
    meta = CohortMeta(layout="csv", root=str(tmp_path), modalities=specs, targets=[REGIONS])
    return Cohort.build(meta, cases, tmp_path)


def preparer_of(cohort: Cohort, *, cache: bool = True, dims: int = 3) -> Preparer:
    config = PreprocessingConfig(normalise={"flair": "none", "t1": "none"})
    return Preparer(
        cohort,
        config,
        modalities=["flair", "t1"],
        targets=["seg"],
        cache=cohort.root / "cache" if cache else None,
        spatial_dims=dims,
    )


def draws_of(cohort: Cohort, patch: Sequence[int] = (6, 5, 4), **settings: Any) -> Draws:
    dims = len(patch)
    cache = settings.pop("cache", True)
    settings = {"augment": "none", "cases": cohort.ids} | settings
    cases = settings.pop("cases")
    return Draws(preparer_of(cohort, cache=cache, dims=dims), cases, patch, spatial_dims=dims, **settings)


def image(sample: Sample, name: str = "flair") -> Tensor:
    value = sample.inputs[name]
    assert isinstance(value, Tensor)
    return value


def equal(a: Sample, b: Sample) -> bool:
    assert (a.id, list(a.inputs), list(a.targets)) == (b.id, list(b.inputs), list(b.targets))
    images = all(torch.equal(image(a, n), image(b, n)) for n in a.inputs)
    targets = all(torch.equal(a.targets[n], b.targets[n]) for n in a.targets)
    return images and targets and all(np.array_equal(a.affines[g], b.affines[g]) for g in a.affines)


@pytest.mark.parametrize("patch", [(6, 5, 4), (6, 5)])
def test_an_item_depends_on_seed_epoch_and_index_alone(cohort: Cohort, patch: tuple[int, ...]) -> None:
    settings: dict[str, Any] = {"sampler": "foreground", "draws_per_case": 3, "augment": "nnunet", "seed": 5}
    draws = draws_of(cohort, patch, **settings)
    draws.set_epoch(2)
    forwards = [draws[i] for i in range(len(draws))]
    other = draws_of(cohort, patch, cache=False, **settings)
    for epoch in (0, 2):
        other.set_epoch(epoch)
        backwards = [other[i] for i in reversed(range(len(other)))][::-1]
        same = [a.id == b.id and equal(a, b) for a, b in zip(forwards, backwards, strict=True)]
        assert all(same) if epoch == 2 else not any(same)
    sent = copy.deepcopy(draws)  # takes the same way as pickling
    assert not sent._open and equal(sent[4], forwards[4])


def test_workers_change_nothing_and_hear_of_the_epoch(cohort: Cohort) -> None:
    settings: dict[str, Any] = {"sampler": "foreground", "draws_per_case": 2, "augment": "nnunet"}
    plain = draws_of(cohort, **settings)
    loader = DataLoader(
        draws_of(cohort, **settings), batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    for epoch in (0, 1):
        plain.set_epoch(epoch)
        assert isinstance(loader.dataset, Draws)
        loader.dataset.set_epoch(epoch)
        loaded = list(loader)
        assert len(loaded) == 8
        assert all(equal(a, plain[i]) for i, a in enumerate(loaded))


def test_every_case_comes_equally_often_in_a_new_order(cohort: Cohort) -> None:
    draws = draws_of(cohort, draws_per_case=3)
    orders = []
    for epoch in range(2):
        draws.set_epoch(epoch)
        ids = [draws[i].id for i in range(len(draws))]
        assert sorted(ids) == sorted(cohort.ids * 3)
        orders.append(ids)
    assert orders[0] != orders[1]
    still = draws_of(cohort, draws_per_case=2, shuffle=False)
    assert [still[i].id for i in range(8)] == [i for i in cohort.ids for _ in range(2)]
    with pytest.raises(IndexError):
        draws[12]


@pytest.mark.parametrize("patch", [(6, 5, 4), (16, 5, 4), (6, 5), (16, 16)])
@pytest.mark.parametrize("sampler", ["uniform", "foreground", "whole"])
def test_voxels_lie_where_the_affine_says(cohort: Cohort, patch: tuple[int, ...], sampler: str) -> None:
    """Each voxel holds the number of its place, so the patch's affine can be checked voxel by voxel; padding is 0."""
    draws = draws_of(cohort, patch, sampler=sampler, draws_per_case=2)
    for index in range(len(draws)):
        sample = draws[index]
        got = image(sample)
        assert tuple(got.shape) == (1, *patch) and got.dtype == torch.float32 and got.is_contiguous()
        at = np.indices(patch).reshape(len(patch), -1)
        at = np.concatenate([at, np.zeros((3 - len(patch), at.shape[1])), np.ones((1, at.shape[1]))])
        x, y, z, _ = (np.linalg.inv(AFFINE) @ sample.affines["grid"] @ at).round(6)
        inside = (x >= 0) & (x < 12) & (y >= 0) & (y < 10) & (z >= 0) & (z < 9)
        expected = np.where(inside, x + 100 * y + 10000 * z, 0).reshape(1, *patch)
        assert np.array_equal(got.numpy(), expected)
        assert inside.sum() == np.prod([min(a, b) for a, b in zip(patch, SHAPE, strict=False)])
        assert sample.targets["seg"].shape == (2, *patch) and sample.targets["seg"].dtype == torch.uint8
        region = (x >= 7) & (x < 10) & (y >= 6) & (y < 9) & (z >= 5) & (z < 7) & (sample.id != "p3")
        assert np.array_equal(sample.targets["seg"][0].numpy(), region.reshape(patch))


def test_what_is_absent_stays_absent(cohort: Cohort) -> None:
    draws = draws_of(cohort, shuffle=False)
    samples = [draws[i] for i in range(4)]
    assert [list(s.inputs) for s in samples] == [["flair", "t1"]] * 2 + [["flair"], ["flair", "t1"]]
    assert samples[1].group == "g1" and bool(samples[1].labelled["seg"])
    batch = collate(samples, draws.preparer.modalities)
    assert batch.present.tolist() == [[True, True], [True, True], [True, False], [True, True]]


@pytest.mark.parametrize("patch", [(3, 3, 2), (3, 3)])
def test_a_third_of_the_draws_lies_on_foreground(cohort: Cohort, patch: tuple[int, ...]) -> None:
    rates = {}
    for sampler in ("uniform", "foreground"):
        draws = draws_of(cohort, patch, sampler=sampler, draws_per_case=300, cases=["p0"])
        hits = [bool(draws[i].targets["seg"][0].any()) for i in range(300)]
        rates[sampler] = float(np.mean(hits))
    chance = rates["uniform"]
    assert 0.02 < chance < 0.35
    assert abs(rates["foreground"] - (1 / 3 + 2 / 3 * chance)) < 0.09  # three standard deviations of 300 draws


def test_half_of_the_foreground_draws_are_for_the_rarest_region(cohort: Cohort) -> None:
    """ET is 1 voxel in 18 of WT, but regions are drawn equally often."""
    draws = draws_of(cohort, (1, 1, 1), sampler="foreground", draws_per_case=600, cases=["p0"])
    hits = sum(bool(draws[i].targets["seg"][1].any()) for i in range(600))
    assert 70 <= hits <= 145  # 600 / 3 * (1/2 + 1/2/18) = 105.6


def test_case_without_foreground_is_drawn_anywhere(cohort: Cohort) -> None:
    draws = draws_of(cohort, sampler="foreground", cases=["p3"], draws_per_case=5)
    assert foreground_voxels(draws.preparer, draws.preparer.case(cohort.case("p3"))) == []
    assert len({image(draws[i]).sum().item() for i in range(5)}) > 1


def test_foreground_voxels_are_those_of_the_regions(cohort: Cohort) -> None:
    for cache in (False, True, True):
        preparer = preparer_of(cohort, cache=cache)
        whole, enhancing = foreground_voxels(preparer, preparer.case(cohort.case("p0")))
        assert len(whole) == 18 and whole.min(axis=0).tolist() == [7, 6, 5] and whole.max(axis=0).tolist() == [9, 8, 6]
        assert enhancing.tolist() == [[8, 7, 6]]


def test_windows_stay_inside_and_reach_every_place() -> None:
    random = np.random.default_rng(0)
    starts = np.array([window_start((6, 4, 5), (4, 4, 8), random) for _ in range(200)])
    assert set(starts[:, 0]) == {0, 1, 2} and set(starts[:, 1]) == {0} and set(starts[:, 2]) == {-2}
    assert window_start((10, 10, 10), (4, 4, 4), random, centre=(0, 5, 9)) == [0, 3, 6]


def test_whole_takes_the_centre_and_spaces_slices_evenly(cohort: Cohort) -> None:
    draws = draws_of(cohort, (12, 10), sampler="whole", draws_per_case=3, shuffle=False)
    assert [int(image(draws[i]).min()) // 10000 for i in range(3)] == [1, 4, 7]  # of 9 slices
    once = [image(draws[i]) for i in range(3)]
    draws.set_epoch(1)
    assert all(torch.equal(image(draws[i]), once[i]) for i in range(3))
    volume = draws_of(cohort, (4, 4, 3), sampler="whole", shuffle=False)[0]
    assert volume.affines["grid"][:3, 3].tolist() == [-20 + 2 * 4, 5 + 3, 7 + 3 * 3]


def test_other_grids_are_seen_whole_beside_any_patch(cohort: Cohort, tmp_path: Path) -> None:
    """A volume drawn anywhere, and a picture that is always the same: the middle 8 x 8 of 12 x 6 pixels."""
    save(tmp_path / "photo.nii.gz", np.arange(72, dtype=np.float32).reshape(12, 6, 1))
    cases = [replace(case, cells={**case.cells, "photo": "photo.nii.gz"}) for case in cohort.cases]
    specs = [*cohort.meta.modalities, ModalitySpec(name="photo", spatial_dims=2, grid="photo")]
    there = Cohort.build(cohort.meta.model_copy(update={"modalities": specs}), cases, tmp_path)
    names = ["flair", "t1", "photo"]
    config = PreprocessingConfig(normalise=dict.fromkeys(names, "none"))
    preparer = Preparer(there, config, modalities=names, targets=["seg"])
    patches = {"grid": (6, 5, 4), "photo": (8, 8)}
    draws = Draws(preparer, there.ids, patches, sampler="foreground", draws_per_case=4, augment="none")
    alone = draws_of(cohort, sampler="foreground", draws_per_case=4)
    middle = torch.nn.functional.pad(torch.arange(72.0).reshape(12, 6)[2:10], (1, 1))
    for index in range(len(draws)):
        sample = draws[index]
        assert torch.equal(image(sample, "photo"), middle[None])
        assert torch.equal(image(sample), image(alone[index]))  # the picture changes nothing of what is drawn
        assert sample.affines["photo"][:3, 3].tolist() == [-20 + 2 * 2, 5 - 1, 7]
    changed = Draws(preparer, there.ids, patches, augment="nnunet")[0]
    assert image(changed, "photo").shape == (1, 8, 8) and image(changed).shape == (1, 6, 5, 4)
    with pytest.raises(ConfigError, match=r"data.patch must have 2 positive numbers for the grid photo; got \(\)\."):
        Draws(preparer, there.ids, {"grid": (6, 5, 4)})


def test_the_background_of_labels_is_not_sought(cohort: Cohort) -> None:
    """Wherever it stands among the classes."""
    spec = TargetSpec(name="seg", kind="labels", classes=["rim", "background", "core"], codes=[[1], [0], [4]], paint=[1, 0, 4])
    labels = Cohort.build(cohort.meta.model_copy(update={"targets": [spec]}), cohort.cases, cohort.root)
    preparer = preparer_of(labels)
    assert [len(voxels) for voxels in foreground_voxels(preparer, preparer.case(labels.case("p0")))] == [17, 1]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sampler": "forground"}, r"sampler must be a known one; got 'forground'. Did you mean foreground\?"),
        ({"augment": "nnnet"}, r"data.augment must be a known one; got 'nnnet'. Did you mean nnunet or none\?"),
        ({"patch": (4, 0, 4)}, r"data.patch must have 3 positive numbers; got \(4, 0, 4\)\. Give one positive"),
    ],
)
def test_impossible_settings(cohort: Cohort, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        draws_of(cohort, **settings)


# ------------------------------------------------------------------------------------------------ draws by class
def test_weighted_cases_are_drawn_with_replacement_as_often_as_they_weigh(cohort: Cohort) -> None:
    weights = [0.1, 0.2, 0.7, 0.0]
    draws = draws_of(cohort, sampler="whole", draws_per_case=2500, weights=weights)
    cases = draws.order() // draws.draws_per_case
    assert len(cases) == len(draws) == 10_000
    counts = np.bincount(cases, minlength=4)
    assert counts[3] == 0 and chisquare(counts[:3], np.array(weights[:3]) * 10_000).pvalue > 0.01
    assert len(np.unique(draws.order())) < 10_000  # some draw more than once, others never
    assert [draws[i].id for i in range(5)] == [cohort.ids[k] for k in cases[:5]]


def test_weighted_draws_depend_on_seed_and_epoch_alone(cohort: Cohort) -> None:
    def orders(seed: int, epochs: Sequence[int]) -> dict[int, list[int]]:
        draws = draws_of(cohort, draws_per_case=6, weights=[0.4, 0.3, 0.2, 0.1], seed=seed)
        found = {}
        for epoch in epochs:
            draws.set_epoch(epoch)
            found[epoch] = [int(k) for k in draws.order()]
        return found

    first = orders(3, [0, 1, 2])
    assert orders(3, [2, 0, 1]) == first and len({tuple(order) for order in first.values()}) == 3
    assert orders(4, [0])[0] != first[0]


def test_a_resumed_epoch_of_weighted_draws_goes_on_where_it_was(cohort: Cohort) -> None:
    def feed() -> Feed:
        draws = draws_of(cohort, draws_per_case=3, weights=[0.7, 0.1, 0.1, 0.1], augment="nnunet", seed=1)
        return Feed(draws, partial(collate, modalities=draws.preparer.modalities, patch=(6, 5, 4)), 2)

    whole, resumed = [list(feed().batches(epoch=1)), list(feed().batches(epoch=1, start=4))]
    assert len(whole) == 6 and [batch.ids for batch in resumed] == [batch.ids for batch in whole[4:]]
    for a, b in zip(resumed, whole[4:], strict=True):
        assert all(torch.equal(a.image(name), b.image(name)) for name in ("flair", "t1"))
