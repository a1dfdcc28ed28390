"""NRRD: what is read, against SimpleITK and by hand; and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from comodal.data.reading import read_header, read_volume, write_volume
from comodal.errors import DataError

FLIP = np.diag([-1.0, -1, 1, 1])
ROTATED = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)
DIRECTIONS = {
    "lps": np.eye(3),
    "ras": np.diag([-1.0, -1, 1]),
    "permuted": np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]]),
    "rotated": ROTATED,
    "rotated and flipped": ROTATED @ np.diag([1, -1, -1]),
    "negated": -np.eye(3),
}
HEADER = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "2 3 4",
    "space directions": "(1,0,0) (0,1,0) (0,0,1)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(0,0,0)",
}


def numbers(shape: tuple[int, ...] = (2, 3, 4), dtype: Any = np.int16) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, block: bytes | None = None, *, drop: tuple[str, ...] = (), **changes: str) -> Path:
    """A file of numbers(), with other lines in its header; `_` in a name stands for a space."""
    known = {**HEADER, **{key.replace("_", " "): value for key, value in changes.items()}}
    text = "NRRD0004\n# a comment\n" + "".join(f"{key}: {value}\n" for key, value in known.items() if key not in drop)
    path.write_bytes(text.encode() + b"\n" + (numbers().tobytes(order="F") if block is None else block))
    return path


def itk() -> Any:
    return pytest.importorskip("SimpleITK")


def as_ras(image: Any) -> tuple[Any, Any]:
    """Array (X, Y, Z) and affine of an image of SimpleITK in RAS order, by nibabel."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    found = nib.as_closest_canonical(nib.Nifti1Image(itk().GetArrayFromImage(image).T, FLIP @ affine))
    return np.asarray(found.dataobj), found.affine


# --------------------------------------------------------------------------------------------------------------------- read


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS.keys())
@pytest.mark.parametrize("compressed", [False, True])
def test_volume_equals_that_of_simpleitk_in_ras_order(tmp_path: Path, directions: Any, compressed: bool) -> None:
    image = itk().GetImageFromArray(numbers((7, 6, 5)))
    image.SetDirection(directions.ravel().tolist())
    image.SetSpacing((0.5, 1.25, 3))
    image.SetOrigin((-40, 12, 7.5))
    image.SetMetaData("0010|0010", "Muster^Anna")
    path = tmp_path / "a.nrrd"
    itk().WriteImage(image, str(path), compressed)
    assert b"0010|0010:=Muster" in path.read_bytes()
    volume = read_volume(path)
    array, affine = as_ras(itk().ReadImage(str(path)))
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.header.affine, affine, atol=1e-6)
    assert nib.aff2axcodes(volume.header.affine) == ("R", "A", "S")
    assert volume.array.dtype == np.int16 and volume.array.flags.c_contiguous
    assert volume.notes == volume.warnings == ()
    header = read_header(path)
    assert header.shape == volume.array.shape[1:] and header.has_spacing
    np.testing.assert_array_equal(header.affine, volume.header.affine)
    written = write_volume(volume.array[0], volume.geometry, tmp_path / "out")
    again = read_volume(written)
    assert written.name == "out.nii.gz" and b"Muster" not in gzip.decompress(written.read_bytes())
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.header.affine, volume.header.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
        ("Left-Posterior-Superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
    ],
)
def test_a_known_voxel_ends_where_the_space_says(tmp_path: Path, space: str, signs: Any) -> None:
    """Axis i runs along the second axis of the space, j against the third, k along the first; voxel (1, 0, 2)."""
    array = np.zeros((2, 3, 4), np.int16)
    array[1, 0, 2] = 9
    lines: dict[str, Any] = {"space_directions": "(0, 2, 0) (0,0,-1) (0.5,0,0)", "space_origin": "(3,4,7)"}
    path = save(tmp_path / "a.nrrd", array.tobytes(order="F"), space=space, **lines)
    volume = read_volume(path)
    (where,) = np.argwhere(volume.array[0] == 9)
    np.testing.assert_allclose(volume.header.affine @ [*where, 1], [*np.multiply(signs, (4, 6, 7)), 1])
    assert volume.array.shape == (1, 4, 2, 3)
    ours, (_, theirs) = volume.header.affine, as_ras(itk().ReadImage(str(path)))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "gz"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("i1", "signed char"), ("u1", "uchar"), ("u1", "unsigned char"), ("i2", "int16"), ("u2", "unsigned short"),
        ("i4", "int"), ("u4", "uint32_t"), ("i8", "long long int"), ("u8", "uint64"), ("f4", "float"), ("f8", "double"),
    ],
)  # fmt: skip
def test_types_and_byte_orders(tmp_path: Path, name: str, kind: str, encoding: str, big: bool) -> None:
    block = numbers(dtype=np.dtype(name).newbyteorder(">" if big else "<")).tobytes(order="F")
    block = block if encoding == "raw" else gzip.compress(block)
    path = save(tmp_path / "a.nrrd", block, type=kind, encoding=encoding, endian="big" if big else "little", space="RAS")
    volume = read_volume(path)
    assert volume.array.dtype == read_header(path).dtype == np.dtype(name)
    np.testing.assert_array_equal(volume.array[0], numbers())
    np.testing.assert_array_equal(itk().GetArrayFromImage(itk().ReadImage(str(path))).T, numbers())


def test_raw_voxels_that_look_like_gzip_are_raw(tmp_path: Path) -> None:
    block = b"\x1f\x8b\x08\x00" * 12
    volume = read_volume(save(tmp_path / "a.nrrd", block, space="RAS"))
    np.testing.assert_array_equal(volume.array[0], np.frombuffer(block, "<i2").reshape((2, 3, 4), order="F"))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", ["vector", "RGB-color", "list", "3-vector"])
def test_channels_are_the_first_or_the_last_axis(tmp_path: Path, first: bool, kind: str) -> None:
    array = numbers((3, 4, 5, 6)) if first else numbers((4, 5, 6, 3))
    sizes, domains, axes = " ".join(map(str, array.shape)), "domain domain domain", "(1,0,0) (0,1,0) (0,0,1)"
    lines: dict[str, Any] = {"sizes": sizes, "space": "RAS", "dimension": "4"}
    lines["kinds"] = f"{kind} {domains}" if first else f"{domains} {kind}"
    lines["space_directions"] = f"none {axes}" if first else f"{axes} none"
    path = save(tmp_path / "a.nrrd", array.tobytes(order="F"), **lines)
    expected = array if first else np.moveaxis(array, -1, 0)
    assert read_header(path).channels == 3
    np.testing.assert_array_equal(read_volume(path).array, expected)
    np.testing.assert_array_equal(read_volume(path, channel=2).array[0], expected[2])
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match="must have channel 3; got 3 channels"):
            read(path, channel=3)


def test_vectors_of_itk(tmp_path: Path) -> None:
    array = numbers((4, 5, 6, 3))
    itk().WriteImage(itk().GetImageFromArray(array, isVector=True), str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").array, array.transpose(3, 2, 1, 0)[:, ::-1, ::-1])


def test_two_axes_are_a_volume_with_one_voxel_along_z(tmp_path: Path) -> None:
    itk().WriteImage(itk().GetImageFromArray(numbers((6, 5))), str(tmp_path / "a.nrrd"))
    volume = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(volume.array[0, ::-1, ::-1, 0].T, numbers((6, 5)))
    lines: dict[str, Any] = {"dimension": "2", "sizes": "2 12", "kinds": "domain domain", "space_directions": "(0,2,0) (0,0,3)"}
    slab = read_volume(save(tmp_path / "b.nrrd", space="RAS", **lines))
    assert slab.array.shape == (1, 1, 2, 12) and slab.header.spacing == (1.0, 2.0, 3.0)


def test_what_is_guessed_is_a_warning(tmp_path: Path) -> None:
    bare = ("space", "space directions", "space origin", "kinds")
    header = read_header(save(tmp_path / "a.nrrd", drop=bare, spacings="1 2 3"))
    assert header.has_spacing and header.spacing == (1.0, 2.0, 3.0)
    assert [text.split(";")[0] for text in header.warnings] == ["the header has no space directions"]
    _, affine = as_ras(itk().ReadImage(str(tmp_path / "a.nrrd")))
    np.testing.assert_allclose(header.affine, affine)
    header = read_header(save(tmp_path / "a.nrrd", drop=bare))
    assert not header.has_spacing and "the header has no spacings" in header.warnings[0]
    odd = read_header(
        save(tmp_path / "a.nrrd", drop=("space", "space origin"), space_dimension="3", space_units='"um" "um" "um"')
    )
    assert [text.split(";")[0] for text in odd.warnings] == [
        "the header has no space origin",
        "the header does not say LPS, RAS or LAS",
        "the header gives lengths in another unit",
    ]
    assert read_header(save(tmp_path / "a.nrrd", space_units='"mm" "mm" "mm"')).warnings == ()
    sheared = read_header(save(tmp_path / "a.nrrd", space_directions="(1,0,0) (0,1,0.3) (0,0,1)"))
    assert "the axes meet at 73.3 degrees" in sheared.warnings[0]


def test_lines_may_end_as_on_windows_and_unknown_lines_are_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nrrd", content="Muster", measurement_frame="(1,0,0)")
    head, _, block = path.read_bytes().partition(b"\n\n")
    head += b"\nkey one:=Muster: a\nDWMRI_b-value:=1000\nDWMRI_b-value:=1000"
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + block)
    np.testing.assert_array_equal(np.sort(read_volume(path).array.ravel()), np.arange(24))


def test_bytes_behind_the_image_are_a_warning(tmp_path: Path) -> None:
    raw = numbers().tobytes(order="F")
    assert read_volume(save(tmp_path / "a.nrrd", raw + b"tail")).warnings == ("4 bytes after the image were ignored",)
    packed = gzip.compress(raw)
    behind = read_volume(save(tmp_path / "b.nrrd", packed + b"tail", encoding="gzip"))
    assert behind.warnings == ("there are bytes after the end of the gzip stream; they were ignored",)
    inside = read_volume(save(tmp_path / "c.nrrd", gzip.compress(raw + b"tail"), encoding="gzip"))
    assert inside.warnings == ("4 bytes after the image were ignored",)
    members = gzip.compress(raw[:20]) + gzip.compress(raw[20:])
    assert read_volume(save(tmp_path / "d.nrrd", members, encoding="gzip")).warnings == ()


# ------------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path, encoding: str) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (2, 3, 4)).astype(np.int16).tobytes()
    data = save(tmp_path / "a.nrrd", array if encoding == "raw" else gzip.compress(array), encoding=encoding).read_bytes()
    assert read_volume(tmp_path / "a.nrrd").array.size == 24
    for size in range(len(data)):
        (tmp_path / "cut.nrrd").write_bytes(data[:size])
        with pytest.raises(DataError):
            read_volume(tmp_path / "cut.nrrd")
    (tmp_path / "cut.nrrd").write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"\[subject s1, modality t1, file .*cut.nrrd\]. Copy or download the file again"):
        read_volume(tmp_path / "cut.nrrd", subject="s1", modality="t1")


def test_damage_and_wrong_checksums_are_refused(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "a.nrrd", gzip.compress(numbers().tobytes()), encoding="gzip").read_bytes())
    data[-8] ^= 1
    (tmp_path / "a.nrrd").write_bytes(data)
    with pytest.raises(DataError, match="must be an undamaged gzip file; got a wrong checksum"):
        read_volume(tmp_path / "a.nrrd")
    for at in (0, 12):
        data = bytearray(gzip.compress(numbers().tobytes()))
        data[at] ^= 0xFF
        with pytest.raises(DataError, match=r"must (be an undamaged|be a complete) gzip file"):
            read_volume(save(tmp_path / "b.nrrd", bytes(data), encoding="gzip"))


@pytest.mark.parametrize("name", ["data file", "datafile", "Data File"])
def test_a_detached_header_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.raw").write_bytes(numbers().tobytes())
    for end in (b"\n", b""):
        path = save(tmp_path / "a.nhdr", b"")
        path.write_bytes(path.read_bytes().removesuffix(b"\n") + f"{name}: a.raw\n".encode() + end)
        for read in (read_header, read_volume):
            with pytest.raises(DataError, match=r"Convert it to one \.nrrd file, for instance with SimpleITK"):
                read(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoding": "bzip2"}, "have an encoding of raw or gzip; got encoding 'bzip2'"),
        ({"encoding": "ascii"}, "have an encoding of raw or gzip"),
        ({"drop": ("encoding",)}, "have an encoding of raw or gzip; got encoding 'none'"),
        ({"byte_skip": "-1"}, "have its voxels right behind its header; got byte skip: '-1'"),
        ({"line_skip": "2"}, "have its voxels right behind its header"),
        ({"type": "block"}, "have a type of whole or real numbers; got 'block'"),
        ({"drop": ("type",)}, "have a type of whole or real numbers; got 'none'"),
        ({"drop": ("endian",)}, "say endian: little or endian: big; got 'nothing'"),
        ({"dimension": "5"}, "have a dimension of 2 to 4; got 5"),
        ({"dimension": "x"}, "have dimension of 1 whole number; got 'x'"),
        ({"sizes": "2 3"}, "have sizes of 3 whole numbers; got '2 3'"),
        ({"sizes": "2 -3 4"}, "have sizes of 3 whole numbers"),
        ({"sizes": "2 0 4"}, "have at least one voxel along each axis"),
        ({"sizes": "65535 65535 65535"}, "need at most 4 GiB in memory; got 65535 x 65535 x 65535 voxels"),
        ({"sizes": "1000 1000 500"}, "hold the 1000000000 bytes of image of its header; got at most 48 bytes"),
        ({"sizes": "1000 1000 500", "encoding": "gzip"}, "hold the 1000000000 bytes of image of its header; got at most 49536"),
        ({"space_directions": "(1,0,0) (0,1,0)"}, "have space directions of 3 axes"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0)"}, "have space directions of vectors of 3 finite numbers; got "),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,nan)"}, "have space directions of vectors of 3 finite numbers"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,1,0)"}, "have axes and spacings that can be inverted"),
        ({"space_directions": "(1,0,0) none none"}, "at most one of channels; got an axis of kind 'domain'"),
        ({"space_directions": "(1,0,0) none none", "kinds": "domain list list"}, "have two or three axes of space and at most"),
        ({"space_origin": "(1,2)"}, "have space origin of vectors of 3"),
        ({"space_dimension": "4"}, "have a space dimension of 2 or 3; got 4"),
        ({"drop": ("space directions",), "spacings": "1 2"}, "have spacings of 3 numbers"),
        ({"drop": ("space directions",), "spacings": "1 2 nan"}, "have axes and spacings that can be inverted"),
        ({"drop": ("space directions",), "kinds": "domain domain time"}, "an axis of kind 'time'"),
        ({"drop": ("space directions",), "kinds": "domain vector domain"}, "have its channels on the first or the last axis"),
        ({"kinds": "domain domain"}, "have kinds of 3 axes"),
        ({"drop": ("kinds",), "dimension": "4", "sizes": "2 3 2 2", "space_directions": "(1,0,0) (0,1,0) (0,0,1) (0,0,1)"},
         "have two or three axes of space"),
        ({"content": "a\nno field here"}, "have a NRRD header of lines `field: value`; got another line 13"),
        ({"content": "a\nsizes: 2 3 4"}, "say sizes once in its header; got it again in line 13"),
    ],
)  # fmt: skip
def test_impossible_headers_are_refused(tmp_path: Path, changes: Any, text: str) -> None:
    path = save(tmp_path / "a.nrrd", **changes)
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=f"image file must .*{text}"):
            read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    array = numbers(dtype=np.float32)
    array[1, 2, 3] = value
    with pytest.raises(DataError, match="must hold finite numbers; got 1 NaN or infinite values"):
        read_volume(save(tmp_path / "a.nrrd", array.tobytes(order="F"), type="float"))


def test_a_decompression_bomb_stops_at_the_size_of_the_header(tmp_path: Path) -> None:
    block = gzip.compress(numbers().tobytes() + bytes(17 * 1024**2))
    with pytest.raises(DataError, match="must hold at most 16 MiB after the image"):
        read_volume(save(tmp_path / "a.nrrd", block, encoding="gzip"))


def test_a_file_packed_by_gzip_says_how_to_unpack_it(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd.gz").write_bytes(gzip.compress(save(tmp_path / "a.nrrd").read_bytes()))
    with pytest.raises(DataError, match="must be a NRRD that is packed inside, if at all; got one inside a gzip file"):
        read_header(tmp_path / "a.nrrd.gz")


def test_hostile_headers_give_an_error_and_nothing_else(tmp_path: Path) -> None:
    """Random changes of single bytes: read, or a DataError."""
    random, data = np.random.default_rng(0), save(tmp_path / "a.nrrd").read_bytes()
    refused = 0
    for _ in range(400):
        changed = bytearray(data)
        changed[int(random.integers(0, len(data) - 48))] = int(random.integers(0, 256))
        (tmp_path / "b.nrrd").write_bytes(changed)
        try:
            assert read_volume(tmp_path / "b.nrrd").array.size > 0
        except DataError:
            refused += 1
    assert 100 < refused < 400
