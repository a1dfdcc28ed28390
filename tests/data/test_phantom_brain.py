"""The brain phantom: files, determinism, anatomy, contrasts, missing patterns, messages."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest

from comodal.data import index
from comodal.data.cohort import Cohort
from comodal.data.folders import MARK, Tree, synthetic_note
from comodal.data.phantoms import layout_of
from comodal.data.phantoms.brain import (
    DEFAULT_RATES,
    MODALITIES,
    SIGNAL,
    BrainPhantom,
    brats_affine,
    draw_case,
    make_case,
    mix,
    scan,
    stream,
    write_brain,
)
from comodal.data.phantoms.fields import make_frame, step
from comodal.data.reading import read_volume
from comodal.errors import ConfigError, DataError
from comodal.study.cohorts import write_phantom
from comodal.study.evaluating import cohort_name
from comodal.testing.dataset import check_dataset

CASES = 12
Case = dict[str, np.ndarray[Any, Any]]


def load(path: Path) -> Any:  # nibabel's types do not know what load() returns
    return nib.load(path)


@pytest.fixture(scope="module")
def cohort() -> list[Case]:
    config = BrainPhantom(cases=CASES, size=48, seed=7)
    return [dict(make_case(config, k)) for k in range(CASES)]


def auc(high: np.ndarray[Any, Any], low: np.ndarray[Any, Any]) -> float:
    """Probability that a voxel of `high` is brighter than one of `low`."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(high, low).statistic) / (high.size * low.size)


def mean_auc(cohort: list[Case], modality: str, high: tuple[int, ...], low: tuple[int, ...]) -> float:
    values = []
    for case in cohort:
        brain, image = case["flair"] > 0, case[modality]
        a, b = (image[brain & np.isin(case["seg"], codes)] for codes in (high, low))
        if a.size > 5 and b.size > 5:
            values.append(auc(a, b))
    assert len(values) > CASES // 2
    return float(np.mean(values))


# Files


def test_files_are_those_of_brats(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_brain(tmp_path / "out", BrainPhantom(cases=2), on_progress=lambda done, total: seen.append((done, total)))
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    expected = [f"BraTS20_Training_{k:03d}/BraTS20_Training_{k:03d}_{c}.nii.gz" for k in (1, 2) for c in (*MODALITIES, "seg")]
    assert files == sorted([*expected, "phantom.json", "SYNTHETIC.txt"])
    assert seen == [(1, 2), (2, 2)]
    image = load(tmp_path / "out" / files[0])
    assert image.shape == (48, 48, 31)
    assert image.get_data_dtype() == np.int16
    np.testing.assert_allclose(image.header.get_zooms(), 5.0)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    for codes in (image.header["qform_code"], image.header["sform_code"]):
        assert int(codes) == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)


def test_release_2023_has_its_names_and_codes(tmp_path: Path) -> None:
    write_brain(tmp_path, BrainPhantom(cases=1, release="2023", low_grade=0))
    folder = tmp_path / "BraTS-GLI-00001-000"
    assert sorted(p.name for p in folder.iterdir()) == [
        f"BraTS-GLI-00001-000-{c}.nii.gz" for c in ("seg", "t1c", "t1n", "t2f", "t2w")
    ]
    seg = np.asarray(load(folder / "BraTS-GLI-00001-000-seg.nii.gz").dataobj)
    assert set(np.unique(seg)) == {0, 1, 2, 3}
    old = dict(make_case(BrainPhantom(cases=1, low_grade=0), 0))
    np.testing.assert_array_equal(np.where(seg == 3, 4, seg), old["seg"])
    np.testing.assert_array_equal(np.asarray(load(folder / "BraTS-GLI-00001-000-t2f.nii.gz").dataobj), old["flair"])


def test_release_2015_holds_what_2020_holds(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"cases": 3, "seed": 5, "missing": "site", "low_grade": 0.0}
    for release in ("2015", "2020"):
        write_brain(tmp_path / release, BrainPhantom(release=release, **settings))
    new, old = check_dataset("brats2015", tmp_path / "2015"), index("brats", tmp_path / "2020")
    config = BrainPhantom(release="2015", **settings)
    assert new.ids == ("HGG_brats_2013_pat0001_1", "LGG_brats_2013_pat0001_1", "brats_2013_pat0002_1")
    assert new.ids == tuple(config.case_id(k) for k in range(3))
    assert new.meta.notes[0].startswith("2 cases of high-grade (HGG) and 1 of")
    assert [case.site for case in new.cases] == [case.site for case in old.cases] != ["", "", ""]
    assert new.modalities == old.modalities and [m.name for m in new.modalities] == ["t1", "t1ce", "t2", "flair"]
    for a, b in zip(new.cases, old.cases, strict=True):
        assert set(a.cells) == set(b.cells)
        for column in a.cells:
            mine, other = read_volume(new.file(a, column)), read_volume(old.file(b, column))
            np.testing.assert_array_equal(mine.array, other.array)
            assert mine.array.dtype == other.array.dtype
            np.testing.assert_allclose(mine.header.affine, other.header.affine, atol=1e-4)
    assert layout_of("brain", BrainPhantom(release="2015")) == "brats2015"


def test_release_2015_has_its_names_and_codes() -> None:
    config = BrainPhantom(release="2015", low_grade=1)
    stem = "VSD.Brain_3more.XX.O.OT.54523"
    assert config.file_name(1, "seg") == f"LGG/brats_2013_pat0001_1/{stem}/{stem}.mha"
    assert [config.case_name(k) for k in (0, 1, 2, 3)] == [f"brats_2013_pat{k:04d}_1" for k in (1, 1, 2, 2)]
    names = [Path(config.file_name(k, column)).name for k in range(20) for column in (*MODALITIES, "seg")]
    assert len(set(names)) == 100 and sum(name.startswith("VSD.Brain.XX.O.MR_T1.") for name in names) == 20
    # without enhancement nothing is necrosis: the core is 3, where 2020 has 1
    new, old = (dict(make_case(BrainPhantom(release=release, low_grade=1), 0))["seg"] for release in ("2015", "2020"))
    assert set(np.unique(new)) == {0, 2, 3} and set(np.unique(old)) == {0, 1, 2}
    np.testing.assert_array_equal(np.where(new == 3, 1, new), old)


def test_same_seed_same_bytes_whatever_else_is_asked_for(tmp_path: Path) -> None:
    write_brain(tmp_path / "a", BrainPhantom(cases=2, seed=3))
    write_brain(tmp_path / "b", BrainPhantom(cases=3, seed=3, missing="random", rates={"t1": 0.5, "t2": 0.5}))
    write_brain(tmp_path / "c", BrainPhantom(cases=1, seed=4))
    a, b, c = (
        {p.relative_to(tmp_path / f).as_posix(): p.read_bytes() for p in (tmp_path / f).rglob("*.nii.gz")} for f in "abc"
    )
    shared = set(a) & set(b)
    assert len(shared) >= 6
    assert all(a[name] == b[name] for name in shared)
    assert not any(a[name] == c[name] for name in c)


def test_an_interrupted_call_is_completed_and_another_phantom_refused(tmp_path: Path) -> None:
    config, out = BrainPhantom(cases=2), tmp_path / "out"
    write_brain(out, config)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (out / config.file_name(1, "t1")).unlink()
    write_brain(out, config)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    with pytest.raises(DataError, match=r"phantom\.json must hold the configuration that is asked for; got another phantom"):
        write_brain(out, BrainPhantom(cases=3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(DataError, match=r"out must be a new or empty folder; got one with files \[file .*mine\]. Choose a new"):
        write_brain(tmp_path / "mine", config)
    with pytest.raises(DataError, match="out must be a folder; got a file"):
        write_brain(tmp_path / "mine" / "notes.txt", config)


def test_field_of_view_does_not_depend_on_size() -> None:
    # Outer corners of the first voxel of BraTS: half a voxel beyond the centre (0, 239, 0).
    corner = np.array([0.5, 239.5, -0.5])
    for size in (48, 64, 101, 240):
        affine = brats_affine(size)
        np.testing.assert_allclose((affine @ [-0.5, -0.5, -0.5, 1])[:3], corner, atol=1e-9)
        np.testing.assert_allclose((affine @ [size - 0.5, size - 0.5, -0.5, 1])[:2], [-239.5, -0.5], atol=1e-9)


def test_a_subject_is_the_same_at_another_size() -> None:
    small, large = (dict(make_case(BrainPhantom(size=size, seed=1, low_grade=0), 2)) for size in (48, 96))
    # 96 voxels of 2.5 mm: two to one along X and Y; depths are 31 and 62.
    up = np.kron(small["seg"], np.ones((2, 2, 2), dtype=np.uint8))
    for codes in ((1, 2, 4), (1, 4), (4,)):
        a, b = np.isin(up, codes), np.isin(large["seg"], codes)
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > (0.6 if codes == (4,) else 0.8)


def test_the_largest_size_has_the_voxels_of_brats() -> None:
    frame = make_frame(240)
    assert (frame.fine, frame.spacing) == (1, 1.0)
    assert frame.box[2] == slice(0, 155)
    for size in (48, 64, 119, 120, 240):
        assert all(np.abs(axis).max() < 120 for axis in make_frame(size).axes(fine=True))


@pytest.mark.parametrize("release", ["2015", "2020", "2023"])
def test_files_of_a_phantom_say_that_they_are_synthetic(tmp_path: Path, release: Literal["2015", "2020", "2023"]) -> None:
    config = BrainPhantom(cases=3, release=release)
    root, layout = tmp_path / "out" / "files", layout_of("brain", config)
    made = Cohort.load(write_phantom("brain", tmp_path / "out", config.model_dump()))
    notes = made.meta.notes
    assert [note for note in notes if note.startswith("synthetic")] == [notes[-1]] == [synthetic_note("brain")]
    inside = sorted(path for path in root.iterdir() if path.is_dir())[0]
    for place in (root, inside, tmp_path / "out"):  # from the folder around, inside and above
        found = index(layout, place)
        assert [note for note in found.meta.notes if note.startswith("synthetic")] == [notes[-1]]
        assert cohort_name(found) == f"{layout} (synthetic)"
    assert index(layout, root) == made
    # one that was written before there was the mark: the same cohort, and then it has the mark
    (root / MARK).unlink()
    assert not [note for note in index(layout, root).meta.notes if note.startswith("synthetic")]
    before = (tmp_path / "out" / "cohort.yaml").read_bytes()
    write_phantom("brain", tmp_path / "out", config.model_dump())
    assert (tmp_path / "out" / "cohort.yaml").read_bytes() == before and (root / MARK).is_file()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (b"synthetic: by a diffusion model\nmore", "synthetic: by a diffusion model"),
        (b"", "synthetic: SYNTHETIC.txt lies beside the files"),
        (b"\xff\x00", "synthetic: SYNTHETIC.txt lies beside the files"),
        (b"synthetic \x1b[1m", "synthetic: SYNTHETIC.txt lies beside the files"),
    ],
)
def test_a_mark_of_somebody_else(tmp_path: Path, text: bytes, note: str) -> None:
    (tmp_path / MARK).write_bytes(text)
    assert Tree.scan(tmp_path).synthetic() == [note]


# What is in them


def test_background_is_zero_and_brain_positive_in_every_sequence(cohort: list[Case]) -> None:
    for case in cohort:
        brain = case["flair"] > 0
        assert 0.8e6 < brain.sum() * 125 < 1.8e6  # mm3
        for modality in MODALITIES:
            assert case[modality].dtype == np.int16
            np.testing.assert_array_equal(case[modality] != 0, brain)
            assert case[modality].min() == 0
        assert not case["seg"][~brain].any()
        # Nothing is cut off along X and Y.
        assert not brain[[0, -1]].any()
        assert not brain[:, [0, -1]].any()


def test_labels_and_regions(cohort: list[Case]) -> None:
    enhancing = 0
    for case in cohort:
        volumes = {code: int((case["seg"] == code).sum()) * 0.125 for code in (1, 2, 4)}  # ml
        assert set(np.unique(case["seg"])) <= {0, 1, 2, 4}
        assert volumes[2] > 2
        assert volumes[1] + volumes[4] > 5
        enhancing += volumes[4] > 0
    assert 0.5 * CASES < enhancing <= CASES


def test_regions_are_nested_as_fractions_and_core_lies_within_the_tumour() -> None:
    frame = make_frame(48)
    for k in range(3):
        anatomy, lesion = draw_case(BrainPhantom(seed=5), k, frame.axes(fine=True))
        assert (lesion.enhancing <= lesion.core).all()
        assert (lesion.core <= lesion.whole).all()
        assert lesion.core.max() == 1
        np.testing.assert_allclose(anatomy.csf + anatomy.grey + anatomy.white, 1, atol=1e-5)
        for part in (anatomy.csf, anatomy.grey, anatomy.white):
            assert part.min() >= -1e-6
        tissue = mix(anatomy, lesion, frame)
        assert set(tissue) == set(SIGNAL["t1"])
        np.testing.assert_allclose(sum(tissue.values()), 1, atol=1e-5)
        inside = frame.average(step(anatomy.brain)) == 1
        largest = np.max(list(tissue.values()), axis=0)[inside]
        assert (largest < 0.9).mean() > 0.2  # partial volume


def test_low_grade_sets_how_often_nothing_enhances() -> None:
    for low_grade, enhances in ((0.0, True), (1.0, False)):
        config = BrainPhantom(low_grade=low_grade, missing="site", sites={"A": ("flair", "t1", "t1ce")})
        for k in range(4):
            seg = dict(make_case(config, k))["seg"]
            assert (seg == 4).any() == enhances
            assert ((seg == 1) | (seg == 4)).any()


def test_contrasts_are_those_of_the_annotation_protocol(cohort: list[Case]) -> None:
    whole, rest, core, oedema = (1, 2, 4), (0,), (1, 4), (2,)
    assert mean_auc(cohort, "flair", whole, rest) > 0.95
    assert abs(mean_auc(cohort, "flair", core, oedema) - 0.5) < 0.1
    assert abs(mean_auc(cohort, "flair", (4,), (1,)) - 0.5) < 0.15
    assert mean_auc(cohort, "t2", oedema, rest) > 0.6
    assert mean_auc(cohort, "t2", core, oedema) > 0.85
    assert abs(mean_auc(cohort, "t2", (4,), (1,)) - 0.5) < 0.15
    assert mean_auc(cohort, "t1ce", (4,), (0, 1, 2)) > 0.93
    assert mean_auc(cohort, "t1ce", (4,), (1,)) > 0.97
    assert mean_auc(cohort, "t1ce", (1,), oedema) < 0.25
    assert abs(mean_auc(cohort, "t1ce", oedema, rest) - 0.5) < 0.2
    # T1 shows the core, but weakly: darker than oedema, hardly different from the brain as a whole.
    assert 0.1 < mean_auc(cohort, "t1", core, oedema) < 0.4
    assert abs(mean_auc(cohort, "t1", core, rest) - 0.5) < 0.2
    assert abs(mean_auc(cohort, "t1", (4,), (1,)) - 0.5) < 0.15


def test_four_sequences_beat_each_single_one(cohort: list[Case]) -> None:
    scores = {use: voxelwise_dsc(cohort, use) for use in ((0, 1, 2, 3), (0,), (1,), (2,), (3,))}
    every, singles = scores.pop((0, 1, 2, 3)), np.array(list(scores.values()))
    # WT, TC, ET: best single sequence of each region, with its margin.
    assert (every - singles.max(axis=0) > np.array([0.03, 0.2, 0.1])).all()
    best = singles.argmax(axis=0)
    assert (MODALITIES[best[0]], MODALITIES[best[2]]) == ("flair", "t1ce")
    assert (every < 0.98).all()


def voxelwise_dsc(cohort: list[Case], use: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """DSC of WT, TC, ET on the last third of cases: linear discriminant on z-scores, squares and products of voxels."""
    features, truth = [], []
    for case in cohort:
        brain = case["flair"] > 0
        z = np.stack([(v - v.mean()) / v.std() for v in (case[MODALITIES[i]][brain].astype(float) for i in use)], axis=1)
        products = [z[:, i] * z[:, j] for i in range(len(use)) for j in range(i + 1)]
        features.append(np.column_stack([np.ones(len(z)), z, *products]))
        truth.append(np.stack([np.isin(case["seg"][brain], codes) for codes in ((1, 2, 4), (1, 4), (4,))], axis=1))
    half = 2 * len(cohort) // 3
    x, y = np.concatenate(features[:half]), np.concatenate(truth[:half])
    weights = np.linalg.lstsq(x, y.astype(float), rcond=None)[0]
    scores, answer = np.concatenate(features[half:]) @ weights, np.concatenate(truth[half:])
    best = np.zeros(3)
    for threshold in np.quantile(x @ weights, np.linspace(0.9, 0.999, 25), axis=0):
        output = scores > threshold
        best = np.maximum(best, 2 * (output & answer).sum(axis=0) / (output.sum(axis=0) + answer.sum(axis=0)))
    return best


def test_bright_spots_that_are_not_tumour(cohort: list[Case]) -> None:
    """Voxels of healthy brain as bright as tumour, in most subjects: hyperintensities, fluid, vessels."""
    for modality, codes in (("flair", (2,)), ("t2", (1, 4)), ("t1ce", (4,))):
        confused = 0
        for case in cohort:
            lesion, healthy = np.isin(case["seg"], codes), (case["flair"] > 0) & (case["seg"] == 0)
            if lesion.any():
                confused += (case[modality][healthy] > np.median(case[modality][lesion])).sum() >= 3
        assert confused >= CASES // 2, modality


def test_subjects_differ(cohort: list[Case]) -> None:
    brains = np.array([(case["flair"] > 0).sum() for case in cohort]) * 0.125
    tumours = np.array([(case["seg"] > 0).sum() for case in cohort]) * 0.125
    centres = np.array([np.argwhere(case["seg"] > 0).mean(axis=0) for case in cohort])
    assert brains.std() > 50
    assert tumours.std() > 15
    assert len(np.unique(brains)) == CASES
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1)[np.triu_indices(CASES, 1)]
    assert np.median(gaps) * 5 > 30  # mm
    assert 0 < (centres[:, 0] > 23.5).sum() < CASES  # both hemispheres
    for modality in MODALITIES:
        medians = np.array([np.median(case[modality][case["flair"] > 0]) for case in cohort])
        assert medians.max() / medians.min() > 1.5


def test_scan_adds_noise_and_a_smooth_bias() -> None:
    frame = make_frame(48)
    axes = frame.axes(fine=False)
    shape = tuple(len(axis) for axis in axes)
    tissue = {name: np.full(shape, float(name == "white"), np.float32) for name in SIGNAL["t1"]}
    noises, biases = [], []
    for k in range(10):
        image = scan(tissue, np.zeros(shape, np.float32), "t1", axes=axes, rng=stream(0, k, "t1")).astype(float)
        assert image.min() >= 1
        image /= image.mean()
        noises.append(np.diff(image, axis=0).std() / np.sqrt(2))
        half = shape[0] // 2
        biases.append(np.abs(image[:half].mean() - image[half:].mean()))
    assert 0.02 < np.mean(noises) < 0.07
    assert 0.02 < np.mean(biases) < 0.3


# Missing sequences


def test_nothing_is_missing_by_default() -> None:
    assert all(BrainPhantom().present(k) == MODALITIES for k in range(50))


@pytest.mark.parametrize(
    ("missing", "rates"),
    [("random", {}), ("imbalanced", {}), ("random", {"t1": 0.5}), ("imbalanced", {"flair": 0.05, "t1ce": 0.8})],
)
def test_missing_rates_are_those_stated(missing: Any, rates: dict[str, float]) -> None:
    config, n = BrainPhantom(missing=missing, rates=rates, cases=4000), 4000
    counts: Counter[str] = Counter(name for k in range(n) for name in config.present(k))
    stated = rates or DEFAULT_RATES[missing]
    assert stated
    # A subject that would lose all four keeps one, each with a quarter of the probability.
    everything = math.prod(stated.get(m, 0.0) for m in MODALITIES)
    for modality in MODALITIES:
        expected = stated.get(modality, 0.0) - everything / 4
        tolerance = 4 * math.sqrt(max(expected * (1 - expected), 1e-12) / n)
        assert abs(1 - counts[modality] / n - expected) <= tolerance, modality


def test_each_subject_keeps_a_sequence(tmp_path: Path) -> None:
    config = BrainPhantom(missing="random", rates=dict.fromkeys(MODALITIES, 0.95), cases=3)
    kept: Counter[tuple[str, ...]] = Counter(config.present(k) for k in range(300))
    assert () not in kept
    assert {(m,) for m in MODALITIES} <= set(kept)
    write_brain(tmp_path, config)
    for k in range(3):
        written = {m for m in (*MODALITIES, "seg") if (tmp_path / config.file_name(k, m)).exists()}
        assert written == {*config.present(k), "seg"}


def test_sites_take_turns_and_lack_what_they_lack(tmp_path: Path) -> None:
    config = BrainPhantom(missing="site", cases=4, sites={"Delft": ("t1ce",), "Oslo": ("flair", "t1")})
    write_brain(tmp_path, config)
    lines = (tmp_path / "sites.csv").read_text().splitlines()
    assert lines[0] == "case,site"
    for k, line in enumerate(lines[1:]):
        case, site = line.split(",")
        assert (case, site) == (config.case_name(k), ("Delft", "Oslo")[k % 2])
        written = {m for m in MODALITIES if (tmp_path / config.file_name(k, m)).exists()}
        assert written == set(MODALITIES) - set(config.sites[site])
    assert len(lines) == 5


# Messages


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"size": 32}, "phantom brain: size must lie in 48..240; got 32. Set size within these limits."),
        ({"size": 241}, "phantom brain: size must lie in 48..240; got 241. Set size within these limits."),
        ({"cases": 0}, "phantom brain: cases must lie in 1..99999; got 0. Set cases within these limits."),
        ({"low_grade": 1.5}, "phantom brain: low_grade must lie in [0, 1]; got 1.5. Set a probability, for instance 0.15."),
        (
            {"missing": "random", "rates": {"t1": 1.0}},
            "phantom brain: rates[t1] must lie in [0, 1); got 1.0. Set a probability below 1.",
        ),
        (
            {"missing": "random", "rates": {"flare": 0.1}},
            (
                "phantom brain: rates must name sequences of the phantom; got 'flare'. "
                "Did you mean flair? Known: flair, t1, t1ce, t2."
            ),
        ),
        (
            {"rates": {"t1": 0.1}},
            (
                "phantom brain: rates must be empty where missing is none; got {'t1': 0.1}. "
                "Set missing to random or imbalanced, or leave rates out."
            ),
        ),
        (
            {"missing": "site", "sites": {"A": MODALITIES}},
            (
                "phantom brain: sites[A] must lack some of flair, t1, t1ce, t2, but not all; "
                "got ['flair', 't1', 't1ce', 't2']. Leave each site at least one sequence."
            ),
        ),
        (
            {"missing": "site", "sites": {}},
            "phantom brain: sites must name at least one site; got {}. Leave it out for the default sites.",
        ),
    ],
)
def test_wrong_configurations_say_what_to_do(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        BrainPhantom(**values)
    assert str(error.value) == text
