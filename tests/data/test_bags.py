"""Bags of vectors, pictures and tiles: from cells to batches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch
from PIL import Image

from comodal.batch import Bag, Batch, Sample, collate
from comodal.config import RunConfig, build_problem
from comodal.data import bags
from comodal.data.bags import items_of, look_through
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.integrity import check_cohort
from comodal.data.normalisation import PreprocessingConfig, fit
from comodal.data.preprocessing import Preparer
from comodal.data.sampling import Draws
from comodal.errors import ConfigError, DataError
from comodal.method import Problem
from comodal.modality import Modality, Target
from comodal.testing.batches import TILE, make_batch, poison

Picture = npt.NDArray[np.uint8]


def picture(path: Path, seed: int, size: tuple[int, int] = (12, 10)) -> Picture:
    """Writes a random RGB picture of (columns, rows); returns (C, X, Y)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    pixels = random.integers(20 * seed, 20 * seed + 60, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels.transpose(2, 1, 0)


def cohort_of(root: Path, cells: Mapping[str, str], **spec: Any) -> Cohort:
    """Cases with these cells of one bag; "" where it is absent, and then with a vector."""
    modalities = [
        ModalitySpec(**{"name": "tiles", "kind": "bag", "spatial_dims": 2, "channels": 3, "grid": "tiles"} | spec),
        ModalitySpec(name="age", kind="features", spatial_dims=0, inline=True),
    ]
    target = TargetSpec(name="grade", kind="class", classes=["low", "high"])
    meta = CohortMeta(layout="test", root=str(root), modalities=modalities, targets=[target])
    cases = [
        Case.build(name, cells={"tiles": cell, "age": "1", "grade": ("low", "high")[number % 2]})
        for number, (name, cell) in enumerate(cells.items())
    ]
    return Cohort.build(meta, cases, root)


def items(cohort: Cohort, **how: Any) -> npt.NDArray[np.float32]:
    return items_of(cohort, cohort.cases[0], "tiles", **how)


# ----------------------------------------------------------------------------------------------------------------- vectors


def test_vectors_of_folders_files_and_matrices(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for number in (10, 2, 1):
        np.save(tmp_path / "f" / f"tile_{number}.npy", np.full(4, number))
    np.save(tmp_path / "m.npy", np.arange(8, dtype=np.float64).reshape(2, 4))
    np.save(tmp_path / "v.npy", np.full(4, -1, dtype=np.float32))
    found = items(cohort_of(tmp_path, {"p": "f; m.npy;v.npy"}, spatial_dims=0, channels=4))
    assert found.dtype == np.float32
    assert found.tolist() == [[1] * 4, [2] * 4, [10] * 4, [0, 1, 2, 3], [4, 5, 6, 7], [-1] * 4]
    assert items(cohort_of(tmp_path, {"p": "m.npy"}, spatial_dims=0, channels=4)).shape == (2, 4)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (
            np.zeros((2, 3)),
            r"bag must have 4 numbers in each row; got shape \(2, 3\) \[subject p, modality tiles, file .*m.npy\]",
        ),
        (np.full((1, 4), np.nan), "must hold finite numbers; got NaN or infinity"),
        (np.zeros((2, 2, 4)), "must have one or two axes"),
        (np.array([{"a": 1}], dtype=object), "objects are never unpickled"),
        (np.array(["a"]), "must hold numbers"),
    ],
)
def test_wrong_vectors_are_refused(tmp_path: Path, array: npt.NDArray[Any], text: str) -> None:
    np.save(tmp_path / "m.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=text):
        items(cohort_of(tmp_path, {"p": "m.npy"}, spatial_dims=0, channels=4))


def test_an_empty_folder_and_a_picture_are_no_vectors(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(DataError, match=r"bag must be a folder with .npy files; got none .*blank the cell if tiles is absent"):
        items(cohort_of(tmp_path, {"p": "f"}, spatial_dims=0))
    picture(tmp_path / "a.png", 1)
    with pytest.raises(DataError, match=r"must be made of .npy files; got a.png .*Set spatial_dims: 2"):
        items(cohort_of(tmp_path, {"p": "a.png"}, spatial_dims=0))


# ---------------------------------------------------------------------------------------------------------------- pictures


def test_pictures_in_the_order_in_which_they_are_listed(tmp_path: Path) -> None:
    made = [picture(tmp_path / f"a_{number}.png", number) for number in (3, 1, 2)]
    found = items(cohort_of(tmp_path, {"p": "a_3.png; a_1.png;a_2.png"}))
    assert found.shape == (3, 3, 12, 10) and found.dtype == np.float32
    assert np.array_equal(found, np.stack(made))


def test_a_folder_of_pictures_in_natural_order(tmp_path: Path) -> None:
    made = {number: picture(tmp_path / "f" / f"a_{number}.png", number) for number in (10, 2, 1)}
    (tmp_path / "f" / "Thumbs.db").write_bytes(b"x")
    found = items(cohort_of(tmp_path, {"p": "f"}))
    assert np.array_equal(found, np.stack([made[1], made[2], made[10]]))


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "b.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(DataError, match="must hold files of its own folder; got a link out of it"):
        items(cohort_of(tmp_path, {"p": "f"}))


def test_sizes_must_be_equal_or_made_so(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    picture(tmp_path / "b.png", 2, (8, 10))
    cohort = cohort_of(tmp_path, {"p": "a.png;b.png"})
    text = r"must have items of one size and type, \(12, 10\) uint8; got \(8, 10\) uint8 .*b.png\]. Set data.resize for"
    with pytest.raises(DataError, match=text):
        items(cohort)
    found = items(cohort, size=(6, 5))
    assert found.shape == (2, 3, 6, 5)
    assert np.array_equal(found, found.round())  # in the file's own type: bytes
    Image.fromarray(np.full((10, 8, 3), 77, dtype=np.uint8)).save(tmp_path / "c.png")
    assert (items(cohort_of(tmp_path, {"p": "c.png"}), size=(16, 7)) == 77).all()


def test_other_channels_pages_and_missing_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"bag must have 3 channels; got 1 \[subject p, modality tiles, file .*grey.png"):
        items(cohort_of(tmp_path, {"p": "grey.png"}))
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((2, 4, 4, 3), dtype=np.uint8), photometric="rgb")
    with pytest.raises(DataError, match=r"must be made of pictures; got 2 slices .*Set tile in cohort.yaml if it is a slide"):
        items(cohort_of(tmp_path, {"p": "stack.tif"}))
    picture(tmp_path / "a.png", 1)
    with pytest.raises(DataError, match="must list files that exist"):
        items(cohort_of(tmp_path, {"p": "a.png;b.png"}))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-30])
    with pytest.raises(DataError, match=r"a\.png"):
        items(cohort_of(tmp_path, {"p": "a.png"}))


def test_a_bag_is_normalised_as_one_image(tmp_path: Path) -> None:
    made = np.stack([picture(tmp_path / f"{number}.png", number) for number in (1, 4)]).astype(np.float64)
    cohort = cohort_of(tmp_path, {"p": "1.png;4.png"})
    found = items(cohort, scheme="zscore")
    slow = np.empty_like(made)
    for channel in range(3):
        values = made[:, channel].ravel()
        slow[:, channel] = (made[:, channel] - values.mean()) / values.std()
    assert np.allclose(found, slow, atol=1e-5)
    # the two differ in stain, and still do: item by item both would have the mean 0
    assert found[1].mean() - found[0].mean() > 1
    assert np.allclose(items(cohort, scheme="unit"), made / 255, atol=1e-6)
    with pytest.raises(ConfigError, match=r"data.normalise.tiles must be a scheme for bags of pictures; got 'hemis'"):
        items(cohort, scheme="hemis")


def test_too_many_items_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2, 3):
        picture(tmp_path / f"{number}.png", number)
    cohort = cohort_of(tmp_path, {"p": "1.png;2.png;3.png"})
    monkeypatch.setattr(bags, "BUDGET", 4 * 2 * 360)
    with pytest.raises(DataError, match=r"must have at most 2 items of 360 numbers \(4 GiB\); got at least 3 .*Leave some out"):
        items(cohort)
    monkeypatch.setattr(bags, "MAX_ITEMS", 2)
    with pytest.raises(DataError, match="must have at most 2 items; got 3"):
        items(cohort)


# ------------------------------------------------------------------------------------------------------------------- tiles


def slide(path: Path, size: tuple[int, int] = (96, 64)) -> Picture:
    """A pyramid whose left half is stained; returns (C, X, Y)."""
    random = np.random.default_rng(5)
    pixels = np.full((size[1], size[0], 3), 240, dtype=np.uint8)
    half = pixels[:, : size[0] // 2]
    half[:] = np.array([180, 90, 160]) + random.integers(-20, 20, half.shape)
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, tile=(32, 32), photometric="rgb", compression="deflate", metadata=None)
        file.write(pixels[::2, ::2], tile=(32, 32), photometric="rgb", compression="deflate", subfiletype=1, metadata=None)
    return pixels.transpose(2, 1, 0)


def test_a_slide_becomes_its_tissue_tiles(tmp_path: Path) -> None:
    pixels = slide(tmp_path / "s.tif")
    found = items(cohort_of(tmp_path, {"p": "s.tif"}, tile=16))
    corners = [(x, y) for y in range(0, 64, 16) for x in range(0, 48, 16)]
    assert np.array_equal(found, np.stack([pixels[:, x : x + 16, y : y + 16] for x, y in corners]))


def test_slides_pictures_and_cut_tiles_share_one_column(tmp_path: Path) -> None:
    """One spec serves all cases: slides are cut, pictures of exactly the tile's size are tiles already, tissue or not."""
    slide(tmp_path / "s.tif")
    with Image.open(tmp_path / "s.tif") as opened:
        opened.convert("RGB").save(tmp_path / "s.png")
    cut = picture(tmp_path / "f" / "a.png", 1, (16, 16))
    Image.fromarray(np.full((16, 16, 3), 240, dtype=np.uint8)).save(tmp_path / "f" / "b.png")
    cohort = cohort_of(tmp_path, {"p": "s.tif", "q": "s.png", "r": "f"}, tile=16)
    a, b, c = (items_of(cohort, case, "tiles") for case in cohort.cases)
    assert np.array_equal(a, b) and len(a) == 12
    assert np.array_equal(c[0], cut) and (c[1] == 240).all()


def test_a_slide_without_tissue_or_with_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.full((64, 64, 3), 240, dtype=np.uint8)).save(tmp_path / "glass.png")
    text = r"must hold a tile of 16 x 16 pixels that is tissue by half; got none .*blank the cell if the slide shows nothing"
    with pytest.raises(DataError, match=text):
        items(cohort_of(tmp_path, {"p": "glass.png"}, tile=16))
    picture(tmp_path / "small.png", 1, (12, 12))
    with pytest.raises(DataError, match="must hold a tile of 16 x 16 pixels"):
        items(cohort_of(tmp_path, {"p": "small.png"}, tile=16))
    slide(tmp_path / "s.tif")
    monkeypatch.setattr(bags, "BUDGET", 4 * 5 * 768)
    monkeypatch.setattr(bags, "tissue_tiles", None)  # refused before any tile is decoded
    text = r"must have at most 5 items of 768 numbers .* got at least 12 .*Set microns of tiles in cohort.yaml"
    with pytest.raises(DataError, match=text):
        items(cohort_of(tmp_path, {"p": "s.tif"}, tile=16))


def test_check_reads_every_item_and_tells_what_headers_lack(tmp_path: Path) -> None:
    slide(tmp_path / "s.tif")
    slide(tmp_path / "t.tif")
    cohort = cohort_of(tmp_path, {"p": "s.tif", "q": "t.tif"}, tile=16)
    (warning,) = look_through(cohort, cohort.cases[0], "tiles")
    assert warning.startswith("no magnification")
    defects = check_cohort(cohort).defects
    assert any(d.level == "warning" and "no magnification" in d.rule and "2 of 2 cases" in d.rule for d in defects)
    with tifffile.TiffFile(tmp_path / "t.tif") as file:
        page: Any = file.pages[0]
        at = page.dataoffsets[0] + 40
    data = bytearray((tmp_path / "t.tif").read_bytes())
    data[at : at + 20] = bytes(20)
    (tmp_path / "t.tif").write_bytes(data)
    errors = [d for d in check_cohort(cohort).defects if d.level == "error"]
    assert [(d.subject, d.modality) for d in errors] == [("q", "tiles")] and "undamaged tiles" in errors[0].rule


# ------------------------------------------------------------------------------------------------- preparing and batching


def test_prepared_bags_are_cached_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "files"
    for number in (1, 2):
        picture(root / f"{number}.png", number)
    cohort = cohort_of(root, {"p": "1.png;2.png", "q": ""})
    read: list[str] = []
    original = bags._picture

    def counted(bag: Any, file: Path) -> Any:
        read.append(file.name)
        return original(bag, file)

    monkeypatch.setattr(bags, "_picture", counted)

    def bag(config: PreprocessingConfig | None = None) -> torch.Tensor:
        preparer = Preparer(
            cohort, config or PreprocessingConfig(), modalities=["tiles", "age"], cache=tmp_path / "cache", spatial_dims=2
        )
        value = preparer.case(cohort.cases[0]).values["tiles"]
        assert isinstance(value, Bag) and value.valid.tolist() == [True] * len(value.items)
        return value.items

    first = bag()
    assert torch.equal(first, torch.from_numpy(items(cohort, scheme="zscore"))) and len(read) == 4
    assert torch.equal(bag(), first) and len(read) == 4
    assert bag(PreprocessingConfig(resize={"tiles": (6, 6)})).shape == (2, 3, 6, 6) and len(read) == 6
    assert float(bag(PreprocessingConfig(normalise={"tiles": "unit"})).min()) >= 0 and len(read) == 8
    picture(root / "2.png", 5)
    assert not torch.equal(bag(), first)
    assert torch.equal(bag(), torch.from_numpy(items(cohort, scheme="zscore")))


def test_an_absent_bag_reads_nothing_and_draws_hand_out_bags(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        picture(tmp_path / f"{number}.png", number)
    cohort = cohort_of(tmp_path, {"p": "1.png;2.png", "q": "", "r": "3.png"})
    config = PreprocessingConfig()
    assert not fit(cohort, cohort.ids, config).ct
    preparer = Preparer(cohort, config, modalities=["tiles", "age"], targets=["grade"])
    assert preparer.grid(cohort.cases[0]) is None and "tiles" not in preparer.case(cohort.cases[1]).values
    draws = Draws(preparer, cohort.ids, (), sampler="whole", augment="none", shuffle=False)
    batch = collate([draws[i] for i in range(3)], preparer.modalities)
    found = batch.bag("tiles")
    assert found.items.shape == (3, 2, 3, 12, 10)
    assert found.valid.tolist() == [[True, True], [False, False], [True, False]]
    assert batch.present.tolist() == [[True, True], [False, True], [True, True]]


TILES = Modality("tiles", kind="bag", spatial_dims=2, channels=3, grid="tiles")
AGE = Modality("age", kind="features", spatial_dims=0, channels=1)


def absent(patch: Any) -> Batch:
    return collate([Sample("1", "1", {"age": torch.ones(1)})], [TILES, AGE], patch=patch)


def test_a_bag_that_no_sample_has_keeps_the_rank_of_pictures() -> None:
    for patch, sides in (({"tiles": (8, 6)}, (8, 6)), ((8, 6), (8, 6)), ((4, 4, 4), (1, 1)), ((), (1, 1))):
        bag = absent(patch).bag("tiles")
        assert bag.items.shape == (1, 1, 3, *sides) and not bag.valid.any()


def test_items_of_two_sizes_do_not_become_one_batch() -> None:
    samples = [
        Sample(str(side), str(side), {"tiles": Bag(torch.zeros(2, 3, side, side), torch.ones(2, dtype=torch.bool))})
        for side in (4, 6)
    ]
    with pytest.raises(
        ConfigError, match=r"collate must get inputs of one shape; got \[\(3, 4, 4\), \(3, 6, 6\)\] \[modality tiles\]"
    ):
        collate(samples, [TILES])


def test_made_up_batches_have_bags_of_pictures() -> None:
    problem = Problem((TILES, AGE), (Target("grade", "class", ("low", "high")),), spatial_dims=2)
    present = torch.tensor([[True, True], [False, True], [True, True], [True, True]])
    batch = make_batch(problem, present=present)
    value = batch.inputs["tiles"]
    assert isinstance(value, Bag) and value.items.shape == (4, 4, 3, *TILE)
    worse = poison(batch).inputs["tiles"]
    assert isinstance(worse, Bag) and bool(worse.items[1].isnan().all()) and torch.equal(worse.items[0], value.items[0])
    assert torch.equal(poison(batch).bag("tiles").items, batch.bag("tiles").items)


def test_a_run_may_resize_the_grid_of_a_bag_and_nothing_else_of_it(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    cohort = cohort_of(tmp_path, {"p": "a.png"})
    config = RunConfig.model_validate(
        {"method": {"name": "late-fusion"}, "cohort": "c.csv", "data": {"resize": {"tiles": [8, 8]}, "targets": ["grade"]}}
    )
    assert build_problem(config, cohort).names == ("tiles", "age")
    wrong = config.model_copy(update={"data": config.data.model_copy(update={"patch": {"tiles": (8, 8)}})})
    with pytest.raises(ConfigError, match=r"data.patch must name grids of images of the cohort; got 'tiles'"):
        build_problem(wrong, cohort)
