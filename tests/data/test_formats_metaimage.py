"""MetaImage: what is read, against SimpleITK; and what is refused."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from comodal.data.geometry import BUDGET
from comodal.data.phantoms.metaimage import mha
from comodal.data.reading import read_header, read_volume, write_volume
from comodal.errors import DataError

FLIP = np.diag([-1.0, -1, 1, 1])  # LPS mm to RAS mm
ROTATED = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)
DIRECTIONS = {
    "lps": np.eye(3),
    "ras": np.diag([-1.0, -1, 1]),
    "permuted": np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]]),
    "rotated": ROTATED,
    "rotated and flipped": ROTATED @ np.diag([1, -1, -1]),
}
HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "0 0 0",
    "ElementSpacing": "1 1 1",
    "DimSize": "2 3 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


def numbers(shape: tuple[int, ...] = (2, 3, 4), dtype: Any = np.int16) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, block: bytes | None = None, *, drop: tuple[str, ...] = (), **changes: str) -> Path:
    """A file of numbers(), with other lines in its header."""
    fields = {key: value for key, value in {**HEADER, **changes}.items() if key not in drop}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # it ends the header
    text = "".join(f"{key} = {value}\n" for key, value in fields.items())
    path.write_bytes(text.encode() + (numbers().tobytes(order="F") if block is None else block))
    return path


def packed(array: Any = None, level: int = 6) -> bytes:
    return zlib.compress((numbers() if array is None else array).tobytes(order="F"), level)


def itk() -> Any:
    """SimpleITK: the reference, where it is installed."""
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
    path = tmp_path / "a.mha"
    itk().WriteImage(image, str(path), compressed)
    volume = read_volume(path)
    array, affine = as_ras(itk().ReadImage(str(path)))
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.header.affine, affine, atol=1e-6)
    assert nib.aff2axcodes(volume.header.affine) == ("R", "A", "S")
    assert volume.array.dtype == np.int16 and volume.array.flags.c_contiguous and volume.notes == volume.warnings == ()
    header = read_header(path)
    assert header.shape == volume.array.shape[1:] and header.has_spacing
    np.testing.assert_array_equal(header.affine, volume.header.affine)


def test_a_known_voxel_ends_where_the_header_says(tmp_path: Path) -> None:
    """Axis i runs down, j to the front, k to the left; voxel (1, 0, 2) lies 4 mm left, at the back's 0, 2 mm below 7."""
    array = np.zeros((2, 3, 4), dtype=np.int16)
    array[1, 0, 2] = 9
    lines: dict[str, Any] = {"TransformMatrix": "0 0 -1 0 -1 0 1 0 0", "ElementSpacing": "2 1 2", "Offset": "0 0 7"}
    volume = read_volume(save(tmp_path / "a.mha", array.tobytes(order="F"), **lines))
    (where,) = np.argwhere(volume.array[0] == 9)
    np.testing.assert_allclose(volume.header.affine @ [*where, 1], [-4, 0, 5, 1])
    assert volume.array.shape == (1, 4, 3, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"drop": ("Offset",), "Position": "1 2 3"},
        {"drop": ("Offset",), "Origin": "1 2 3"},
        {"drop": ("TransformMatrix",), "Rotation": "0 1 0 0 0 1 1 0 0"},
        {"drop": ("TransformMatrix",), "Orientation": "0 1 0 0 0 1 1 0 0"},
        {"drop": ("ElementSpacing",), "ElementSize": "1 2 3"},
        {"ElementSize": "7 7 7"},
        {"ElementSpacing": "1 -2 3"},
        {"AnatomicalOrientation": "LPI"},
        {"drop": ("BinaryData", "BinaryDataByteOrderMSB", "ObjectType", "Offset")},
        {"drop": ("BinaryDataByteOrderMSB",), "ElementByteOrderMSB": "True"},
        {"drop": ("TransformMatrix", "ElementSpacing")},
        {"Comment": "a = b : c"},
    ],
)
def test_synonyms_and_defaults_are_those_of_itk(tmp_path: Path, changes: Any) -> None:
    path = save(tmp_path / "a.mha", **changes)
    array, affine = as_ras(itk().ReadImage(str(path)))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.header.affine, affine, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_types_and_byte_orders(tmp_path: Path, name: str, big: bool, compressed: bool) -> None:
    kinds = {"int8": "CHAR", "int16": "SHORT", "int32": "INT", "int64": "LONG_LONG", "float32": "FLOAT", "float64": "DOUBLE"}
    kind = kinds[name] if name in kinds else "U" + kinds[name[1:]]
    stored = numbers(dtype=np.dtype(name).newbyteorder(">" if big else "<"))
    block = packed(stored) if compressed else stored.tobytes(order="F")
    lines: dict[str, Any] = {
        "ElementType": f"MET_{kind}",
        "BinaryDataByteOrderMSB": str(big),
        "CompressedData": str(compressed),
    }
    lines |= {"CompressedDataSize": str(len(block))} if compressed else {}  # ITK wants it; here it may be absent
    path = save(tmp_path / "a.mha", block, TransformMatrix="-1 0 0 0 -1 0 0 0 1", **lines)
    volume = read_volume(path)
    assert volume.array.dtype == read_header(path).dtype == np.dtype(name)
    np.testing.assert_array_equal(volume.array[0], numbers())
    np.testing.assert_array_equal(itk().GetArrayFromImage(itk().ReadImage(str(path))).T, numbers())


def test_a_long_has_four_bytes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mha", numbers(dtype="<i4").tobytes(order="F"), ElementType="MET_LONG")
    assert read_volume(path).array.dtype == np.int32


def test_a_slice_is_a_volume_with_one_voxel_along_z(tmp_path: Path) -> None:
    image = itk().GetImageFromArray(numbers((6, 5)))
    image.SetDirection((0, -1, 1, 0))
    image.SetSpacing((2, 3))
    image.SetOrigin((10, 20))
    itk().WriteImage(image, str(tmp_path / "a.mha"))
    volume = read_volume(tmp_path / "a.mha")
    assert volume.array.shape == (1, 6, 5, 1)
    for i, j in ((0, 0), (4, 1)):
        x, y = image.TransformIndexToPhysicalPoint((i, j))
        (where,) = np.argwhere(volume.array[0] == image.GetPixel((i, j)))
        np.testing.assert_allclose(volume.header.affine @ [*where, 1], [-x, -y, 0, 1])


def test_channels_stand_side_by_side_and_each_can_be_read(tmp_path: Path) -> None:
    array = numbers((4, 5, 6, 3))
    itk().WriteImage(itk().GetImageFromArray(array, isVector=True), str(tmp_path / "a.mha"))
    expected = array.transpose(3, 2, 1, 0)[:, ::-1, ::-1]
    volume = read_volume(tmp_path / "a.mha")
    assert read_header(tmp_path / "a.mha").channels == volume.header.channels == 3
    np.testing.assert_array_equal(volume.array, expected)
    for channel in range(3):
        assert read_header(tmp_path / "a.mha", channel=channel).channels == 1
        np.testing.assert_array_equal(read_volume(tmp_path / "a.mha", channel=channel).array[0], expected[channel])
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match="must have channel 3; got 3 channels"):
            read(tmp_path / "a.mha", channel=3)


def test_the_first_bytes_decide_not_the_name(tmp_path: Path) -> None:
    save(tmp_path / "a.mha").rename(tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz").array.shape == (1, 2, 3, 4)
    nib.save(nib.Nifti1Image(numbers(), np.eye(4)), tmp_path / "b.nii")
    (tmp_path / "b.nii").rename(tmp_path / "b.mha")
    assert read_volume(tmp_path / "b.mha").array.shape == (1, 2, 3, 4)


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mha")
    text, _, block = path.read_bytes().partition(b"LOCAL\n")
    path.write_bytes(text.replace(b"\n", b"\r\n") + b"LOCAL\r\n" + block)
    np.testing.assert_array_equal(np.sort(read_volume(path).array.ravel()), np.arange(24))


def test_what_is_guessed_is_a_warning(tmp_path: Path) -> None:
    lines: dict[str, Any] = {"ElementToIntensityFunctionSlope": "2", "ElementToIntensityFunctionOffset": "0"}
    header = read_header(save(tmp_path / "a.mha", drop=("ElementSpacing", "TransformMatrix"), **lines))
    assert [note.split(";")[0] for note in header.warnings] == [
        "the header has no ElementSpacing",
        "the header has no TransformMatrix",
        "the header rescales its values (ElementToIntensityFunction)",
    ]
    np.testing.assert_array_equal(np.sort(read_volume(tmp_path / "a.mha").array.ravel()), np.arange(24))


def test_what_itk_writes_of_its_dictionary_is_no_hindrance(tmp_path: Path) -> None:
    image = itk().GetImageFromArray(numbers((4, 3, 2)))
    for key, value in {
        "0010|0010": "M\u00fcller^Hans",
        "Series Description": "t1 = axial",
        "0008|103e": "ends \x85 lines \u2028 of \x0c other \x1c kinds",
        "Comment": "a",
        "0028|0010:x": "b",
    }.items():
        image.SetMetaData(key, value)
    for name in ("plain.mha", "packed.mha"):
        itk().WriteImage(image, str(tmp_path / name), name == "packed.mha")
        assert b"0010|0010 = M" in (tmp_path / name).read_bytes()
        np.testing.assert_array_equal(np.sort(read_volume(tmp_path / name).array.ravel()), np.arange(24))
        assert read_header(tmp_path / name).shape == (2, 3, 4)


def test_lines_that_are_not_read_may_repeat(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mha", Comment="a\nComment = b\n\n = c\nA key = d\nA key = e")
    assert read_volume(path).array.shape == (1, 2, 3, 4)


def test_a_header_may_be_long(tmp_path: Path) -> None:
    lines: dict[str, Any] = {"0009|1001": "x" * 500_000}
    assert read_volume(save(tmp_path / "a.mha", **lines)).array.shape == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "comment", ["Anna Example\nAnna Example", "a\n0010|0010 Anna Example", "x\nDimSize = 2 3 4\nAnna Example"]
)
def test_no_message_quotes_a_line_that_is_not_known(tmp_path: Path, comment: str) -> None:
    with pytest.raises(DataError) as error:
        read_header(save(tmp_path / "a.mha", Comment=comment))
    assert "line " in str(error.value) and "Anna" not in str(error.value)


@pytest.mark.parametrize("spacing", ["1e-5 1e-5 1e-5", "1e-6 1 1e6"])
def test_voxels_may_be_tiny_and_long(tmp_path: Path, spacing: str) -> None:
    volume = read_volume(save(tmp_path / "a.mha", ElementSpacing=spacing))
    np.testing.assert_allclose(volume.header.spacing, [float(word) for word in spacing.split()])
    again = read_volume(write_volume(volume.array[0], volume.geometry, tmp_path / "out"))
    np.testing.assert_array_equal(again.array, volume.array)


def test_any_geometry_is_read_and_written_or_refused(tmp_path: Path) -> None:
    random, read = np.random.default_rng(0), 0
    for _ in range(300):
        wide = float(random.choice([0, 1, 8, 30, 300]))
        words = [" ".join(map(str, random.normal(size=n) * 10 ** random.uniform(-wide, wide, n))) for n in (9, 3, 3)]
        lines: dict[str, Any] = dict(zip(("TransformMatrix", "Offset", "ElementSpacing"), words, strict=True))
        path = save(tmp_path / "a.mha", **lines)
        try:
            volume = read_volume(path)
        except DataError:
            continue
        read += 1
        header = volume.geometry.header
        assert np.isfinite(header.get_sform()).all() and np.isfinite(header.get_qform()).all()
        write_volume(volume.array[0], volume.geometry, tmp_path / "out")
    assert 50 < read < 250


@pytest.mark.parametrize("affine", [np.diag([-1.0, -1, 1, 1]), np.diag([2.0, -1, 3, 1])], ids=["lps", "mixed"])
@pytest.mark.parametrize("zipped", [False, True])
def test_the_writer_of_phantoms_is_read_by_both(tmp_path: Path, affine: Any, zipped: bool) -> None:
    affine[:3, 3] = (0.1, -7.25, 1 / 3)
    (tmp_path / "a.mha").write_bytes(mha(numbers(), affine, packed=zipped))
    volume = read_volume(tmp_path / "a.mha")
    reference = nib.as_closest_canonical(nib.Nifti1Image(numbers(), affine))
    np.testing.assert_array_equal(volume.array[0], np.asarray(reference.dataobj))
    np.testing.assert_allclose(volume.header.affine, reference.affine, atol=1e-12)
    np.testing.assert_array_equal(as_ras(itk().ReadImage(str(tmp_path / "a.mha")))[0], volume.array[0])


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_a_prediction_is_nifti_in_the_frame_of_the_input(tmp_path: Path, directions: Any) -> None:
    words = " ".join(map(str, directions.T.ravel()))
    path = save(tmp_path / "a.mha", TransformMatrix=words, ElementSpacing="1 2 3", Offset="5 6 7")
    volume = read_volume(path)
    written = write_volume(volume.array[0], volume.geometry, tmp_path / "out")
    image: Any = nib.load(written)
    assert written.name == "out.nii.gz"
    np.testing.assert_array_equal(np.asarray(image.dataobj), numbers())
    lps = itk().ReadImage(str(path))
    for index in ((0, 0, 0), (1, 2, 3)):
        there = FLIP @ [*lps.TransformIndexToPhysicalPoint(index), 1]
        np.testing.assert_allclose(image.affine @ [*index, 1], there, atol=1e-5)
    np.testing.assert_array_equal(read_volume(written).array, volume.array)


# ------------------------------------------------------------------------------------------------------------------ refused


PLACES = [
    "/etc/hostname",
    "../b.raw",
    "inner/b.raw",
    "inner\\b.raw",
    "C:b.raw",
    "LIST",
    "LIST 2",
    "slice%03d.raw 1 4 1",
    "..",
    "",
]


@pytest.mark.parametrize("place", PLACES)
def test_voxels_elsewhere_are_never_looked_for(tmp_path: Path, place: str) -> None:
    for name in ("b.raw", "inner/b.raw", "case/inner/b.raw", "case/inner\\b.raw", "case/LIST"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(numbers().tobytes())
    path = save(tmp_path / "case" / "a.mhd", b"", ElementDataFile=place)
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=r"must hold its voxels itself \(ElementDataFile = LOCAL\).* Convert it to \.mha"):
            read(path)


def test_only_a_header_that_is_called_mhd_names_another_file(tmp_path: Path) -> None:
    (tmp_path / "b.raw").write_bytes(numbers().tobytes(order="F"))
    with pytest.raises(DataError, match="must hold its voxels itself"):
        read_volume(save(tmp_path / "a.mha", b"", ElementDataFile="b.raw"))
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "b.raw").symlink_to(tmp_path / "b.raw")
    with pytest.raises(DataError, match=r"got ElementDataFile = 'b\.raw', a link that leads out of it"):
        read_volume(save(tmp_path / "case" / "a.mhd", b"", ElementDataFile="b.raw"))


@pytest.mark.parametrize("compressed", [False, True])
def test_an_mhd_with_its_voxels_beside_it(tmp_path: Path, compressed: bool) -> None:
    image = itk().GetImageFromArray(numbers((7, 6, 5)))
    image.SetDirection(ROTATED.ravel().tolist())
    image.SetSpacing((0.5, 1.25, 3))
    itk().WriteImage(image, str(tmp_path / "a.mhd"), compressed)
    beside = tmp_path / ("a.zraw" if compressed else "a.raw")
    volume, (array, affine) = read_volume(tmp_path / "a.mhd"), as_ras(itk().ReadImage(str(tmp_path / "a.mhd")))
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.header.affine, affine, atol=1e-6)
    assert read_header(tmp_path / "a.mhd").shape == volume.header.shape
    data = beside.read_bytes()
    for size in (0, 1, len(data) // 2, len(data) - 1):
        beside.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"must .*Copy or download the file again"):
            read_volume(tmp_path / "a.mhd")
    beside.write_bytes(data + b"tail")
    if compressed:
        assert read_volume(tmp_path / "a.mhd").warnings == ("4 bytes after the image were ignored",)
    else:
        with pytest.raises(DataError, match="must hold exactly the 420 bytes of image that its header says; got 424 bytes"):
            read_header(tmp_path / "a.mhd")
    beside.unlink()
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=f"must be readable; got No such file or directory .*{beside.name}"):
            read(tmp_path / "a.mhd")
    beside.mkdir()
    with pytest.raises(DataError, match="must be a regular file; got a device, pipe or folder"):
        read_volume(tmp_path / "a.mhd")


def test_axes_that_are_not_at_right_angles_are_a_warning(tmp_path: Path) -> None:
    header = read_header(save(tmp_path / "a.mha", TransformMatrix="1 0 0 0 1 0 0 0.3 1"))
    assert "the axes meet at 73.3 degrees" in header.warnings[0]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("sized", [False, True])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, compressed: bool, share: float, sized: bool) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    block = packed(array) if compressed else array.tobytes()
    lines: dict[str, Any] = {"DimSize": "20 20 20", "CompressedData": str(compressed)}
    lines |= {"CompressedDataSize": str(len(block))} if sized and compressed else {}
    path = save(tmp_path / "cut.mha", block[: int(len(block) * share)], **lines)
    with pytest.raises(DataError, match=r"image file must .*\[subject s1, modality flair, file .*cut.* Copy or download"):
        read_volume(path, subject="s1", modality="flair")


def test_a_header_that_was_cut_is_refused(tmp_path: Path) -> None:
    data = save(tmp_path / "a.mha").read_bytes()
    for length in (20, 100, 200):
        (tmp_path / "a.mha").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"must have a MetaImage header that ends with ElementDataFile = LOCAL; got none"):
            read_header(tmp_path / "a.mha")


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    longer = numbers((2, 3, 5))
    path = save(tmp_path / "a.mha", longer.tobytes())
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=r"must hold exactly the 48 bytes .*; got 60 bytes .*Compare DimSize and"):
            read(path)
    with pytest.raises(DataError, match=r"must hold exactly the 48 bytes of image that its header says; got more bytes .*Copy"):
        read_volume(save(tmp_path / "b.mha", packed(longer), CompressedData="True"))
    with pytest.raises(
        DataError, match=r"must hold exactly the 48 bytes of image that its header says; got 24 bytes .*Compare"
    ):
        read_volume(save(tmp_path / "c.mha", packed(numbers((2, 3, 2))), CompressedData="True"))


def test_bytes_behind_a_whole_zlib_stream_are_noted(tmp_path: Path) -> None:
    block = packed()
    path = save(tmp_path / "a.mha", block + b"tail", CompressedData="True", CompressedDataSize=str(len(block)))
    assert read_volume(path).warnings == read_header(path).warnings == ("4 bytes after the image were ignored",)


@pytest.mark.parametrize("sized", [False, True])
def test_bytes_inside_the_block_behind_the_stream_are_noted(tmp_path: Path, sized: bool) -> None:
    block = packed() + bytes(300_000)  # more than is read at a time
    lines: dict[str, Any] = {"CompressedDataSize": str(len(block))} if sized else {}
    volume = read_volume(save(tmp_path / "a.mha", block, CompressedData="True", **lines))
    assert volume.warnings == ("300000 bytes after the image were ignored",)
    np.testing.assert_array_equal(np.sort(volume.array.ravel()), np.arange(24))


@pytest.mark.parametrize("block", [b"\x01\x02\x03" * 16, b"\x01\n" * 24, b"\x01\r" * 24, packed()])
def test_a_header_without_its_last_line_break(tmp_path: Path, block: bytes) -> None:
    path = save(tmp_path / "a.mha", b"")
    path.write_bytes(path.read_bytes().removesuffix(b"\n") + block)
    with pytest.raises(DataError) as error:
        read_volume(path)
    assert "must have a line break behind ElementDataFile = LOCAL; got none: the voxels" in str(error.value)
    assert "Export the image again" in str(error.value) and "\\x" not in str(error.value)


def test_bytes_in_the_place_of_a_file_name_are_not_printed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got ElementDataFile = no text "):
        read_volume(save(tmp_path / "a.mha", ElementDataFile="\x01\x02"))


def test_a_file_packed_by_gzip_says_how_to_unpack_it(tmp_path: Path) -> None:
    data = save(tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha.gz").write_bytes(gzip.compress(data))
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=r"MetaImage that is packed inside, .*; got one inside a gzip .*Unpack it with gun"):
            read(tmp_path / "a.mha.gz")
    (tmp_path / "a.mha.gz").write_bytes(gzip.compress(data)[:12] + b"\xff" * 60)
    with pytest.raises(DataError, match="undamaged gzip file"):
        read_header(tmp_path / "a.mha.gz")


def test_damaged_compression_is_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    whole = packed(array)
    half = len(whole) // 2  # in the middle, what comes out may be too much before the checksum is reached
    places = {-1: "zlib stream; got a wrong checksum", 0: "zlib stream; got damaged compression", half: "(zlib stream|bytes)"}
    for place, rule in places.items():
        block = bytearray(whole)
        block[place] ^= 0xFF
        path = save(tmp_path / "a.mha", bytes(block), DimSize="20 20 20", CompressedData="True")
        with pytest.raises(DataError, match=f"image file must .*{rule}.* Copy or download the file again"):
            read_volume(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    array = numbers(dtype=np.float32)
    array[1, 2, 3] = value
    with pytest.raises(DataError, match="must hold finite numbers; got 1 NaN or infinite values"):
        read_volume(save(tmp_path / "a.mha", array.tobytes(order="F"), ElementType="MET_FLOAT"))


def test_huge_dimensions_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    for compressed in ("False", "True"):
        for size in ("65535 65535 65535", f"9{'0' * 40} 1 1"):
            path = save(tmp_path / "a.mha", packed(), DimSize=size, CompressedData=compressed)
            with pytest.raises(DataError, match="at most 4 GiB"):
                read_volume(path)
    with pytest.raises(DataError, match="at most 4 GiB"):
        read_header(save(tmp_path / "a.mha", ElementNumberOfChannels="2000000000"))
    assert BUDGET > 1000 * 1000 * 500 * 4
    lie = save(tmp_path / "a.mha", packed(), DimSize="1000 1000 500", CompressedData="True")
    with pytest.raises(DataError, match=r"must hold the 1000000000 bytes of its header; got at most \d+ bytes"):
        read_volume(lie)


def test_a_decompression_bomb_stops_at_the_size_of_the_header(tmp_path: Path) -> None:
    bomb = save(tmp_path / "a.mha", zlib.compress(bytes(64 * 1024**2), 9), CompressedData="True")
    with pytest.raises(DataError, match="must hold exactly the 48 bytes of image that its header says; got more bytes"):
        read_volume(bomb)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"NDims": "4"}, "have NDims of 2 or 3; got '4'"),
        ({"NDims": "three"}, "have NDims of 1 whole number; got 'three'"),
        ({"drop": ("NDims",)}, "have NDims of 2 or 3; got 'none'"),
        ({"drop": ("DimSize",)}, "have DimSize in its header; got none"),
        ({"DimSize": "2 3"}, "have DimSize of 3 whole numbers; got '2 3'"),
        ({"DimSize": "2 3 4.0"}, "have DimSize of 3 whole numbers"),
        ({"DimSize": "2 -3 4"}, "have at least one voxel along each axis"),
        ({"ElementType": "MET_STRING"}, "have an ElementType of MET_CHAR.*; got 'MET_STRING'"),
        ({"drop": ("ElementType",)}, "have an ElementType of"),
        ({"ElementSpacing": "1 1"}, "have ElementSpacing of 3 finite numbers; got '1 1'"),
        ({"ElementSpacing": "1 1 nan"}, "have ElementSpacing of 3 finite numbers"),
        ({"ElementSpacing": "1 1 0"}, "have axes and spacings that can be inverted"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "have axes and spacings that can be inverted"),
        ({"TransformMatrix": "1 0 0 1"}, "have TransformMatrix of 9 finite numbers"),
        ({"Offset": "a b c"}, "have Offset of 3 finite numbers; got 'a b c'"),
        ({"CompressedData": "maybe"}, "have CompressedData = True or False; got 'maybe'"),
        ({"CompressedData": "True", "CompressedDataSize": "0"}, "hold the 0 packed bytes"),
        ({"CompressedData": "True", "CompressedDataSize": "1000"}, "hold the 1000 packed bytes of its header; got 48 bytes"),
        ({"BinaryData": "False"}, "have BinaryData = True; got voxels written as text"),
        ({"HeaderSize": "100"}, "have its voxels right behind its header; got HeaderSize = '100'"),
        ({"ObjectType": "Scene"}, "be a MetaImage of ObjectType Image; got 'Scene'"),
        ({"ElementNumberOfChannels": "0"}, "have at least one voxel"),
        ({"Comment": "a\nno key here"}, "have a MetaImage header of lines `key = value`; got another line 12 "),
        ({"Comment": "a\nNDims = 3"}, "say NDims once in its header; got it again in line 12 "),
        ({"Offset": "1e308 0 0"}, "have an affine of at most 1e[+]09 mm; got 1 0 0 1e[+]308; "),
        ({"Offset": "0 1e39 0"}, "have an affine of at most 1e[+]09 mm"),
        ({"ElementSpacing": "1e300 1e300 1e300"}, "have an affine of at most 1e[+]09 mm"),
        ({"ElementSpacing": "1e-300 1 1"}, "have axes and spacings that can be inverted"),
        ({"ElementSpacing": "1e-12 1 1"}, "have voxels of at least 1e-09 mm"),
        ({"TransformMatrix": " ".join(["1e308"] * 9)}, "have an affine of at most 1e[+]09 mm"),
        ({"TransformMatrix": "1e200 0 0 0 1e200 0 0 0 1e200", "ElementSpacing": "1e200 1 1"}, "have axes .* got inf 0 0 0; "),
        ({"TransformMatrix": "1e-200 0 0 0 1 0 0 0 1", "ElementSpacing": "1e-200 1 1"}, "have axes and spacings that"),
        ({"TransformMatrix": "1 0 0 1 1e-9 0 0 0 1"}, "have axes and spacings that can be inverted"),
        ({"DimSize": f"1{'0' * 400} 1 1"}, "need at most 4 GiB in memory; got more than 1e30 GiB"),
    ],
)
def test_impossible_headers_are_refused(tmp_path: Path, changes: Any, text: str) -> None:
    path = save(tmp_path / "a.mha", **changes)
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=f"image file must {text}"):
            read(path)


def test_hostile_headers_give_an_error_and_nothing_else(tmp_path: Path) -> None:
    """Random changes of single bytes: read, or a DataError."""
    random, data = np.random.default_rng(0), save(tmp_path / "a.mha").read_bytes()
    refused = 0
    for _ in range(400):
        changed = bytearray(data)
        changed[int(random.integers(0, len(data) - 48))] = int(random.integers(0, 256))
        (tmp_path / "b.mha").write_bytes(changed)
        try:
            assert read_volume(tmp_path / "b.mha").array.size > 0
        except DataError:
            refused += 1
    assert 100 < refused < 400
