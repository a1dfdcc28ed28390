"""DICOM: series, files of several frames and pictures, against SimpleITK and by hand; and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from comodal.data.formats_dicom import DETECTOR, INVERTED
from comodal.data.reading import read_header, read_volume, write_volume
from comodal.errors import DataError

FLIP = np.diag([-1.0, -1, 1, 1])
ROTATED = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)
DIRECTIONS = {
    "axial": np.eye(3),
    "sagittal": np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]]).T,
    "coronal": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).T,
    "oblique": ROTATED,
    "oblique and flipped": ROTATED @ np.diag([-1, -1, 1]),
}
NAME = "Muster^Anna"


AXIAL = np.eye(3)


def dataset(pixels: Any, *, syntax: Any = ExplicitVRLittleEndian, **tags: Any) -> FileDataset:
    """One slice; `tags` change or (None) remove elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(tags)])
    meta.TransferSyntaxUID = syntax
    implicit, big = syntax == ImplicitVRLittleEndian, syntax == ExplicitVRBigEndian
    found = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=implicit, is_little_endian=not big)
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    bits = 8 * pixels.dtype.itemsize
    known: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": "1.2.3",
        "PatientName": NAME,
        "PatientID": "4711",
        "StudyDate": "19500101",
        "Modality": "CT",
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    known |= {"PlanarConfiguration": 0} if colour else {}
    for name, value in {**known, **tags}.items():
        if value is not None:
            setattr(found, name, value)
    data = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    found.PixelData = data + b"\0" * (len(data) % 2)
    found["PixelData"].VR = "OB" if bits == 8 else "OW"
    return found


def save(found: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=True)
    return path


def numbers(shape: tuple[int, ...] = (4, 5, 6), dtype: Any = np.int16) -> Any:
    """(slices, rows, columns)."""
    return (np.arange(np.prod(shape)).reshape(shape) * 7 - 300).astype(dtype)


def place(k: int, directions: Any = AXIAL, step: float = 3.0, shift: Any = (0.0, 0, 0)) -> dict[str, Any]:
    """Where slice k lies."""
    position = np.array([-40, 12, 7.5]) + directions[:, 2] * step * k + np.multiply(shift, k)
    return {
        "ImagePositionPatient": [f"{value:.10g}" for value in position],
        "ImageOrientationPatient": [f"{value:.10g}" for value in directions[:, :2].T.ravel()],
        "PixelSpacing": [1.25, 0.5],
        "SliceThickness": step,
    }


def series(folder: Path, array: Any = None, *, directions: Any = AXIAL, shift: Any = (0.0, 0, 0), **tags: Any) -> Path:
    """A folder of slices whose names and instance numbers are in no order."""
    array = numbers() if array is None else array
    for k, pixels in enumerate(array):
        where = place(k, directions, shift=shift)
        mixed = (k * 7) % 5
        save(dataset(pixels, InstanceNumber=mixed, **{**where, **tags}), folder / f"im{mixed}_{k}.dcm")
    return folder


def itk() -> Any:
    return pytest.importorskip("SimpleITK")


def as_ras(image: Any) -> tuple[Any, Any]:
    """Array (X, Y, Z) and affine of an image of SimpleITK in RAS order, by nibabel."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    found = nib.as_closest_canonical(nib.Nifti1Image(itk().GetArrayFromImage(image).T, FLIP @ affine))
    return np.asarray(found.dataobj), found.affine


def by_itk(folder: Path) -> tuple[Any, Any]:
    names = itk().ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return as_ras(itk().ReadImage(list(names)))


# ------------------------------------------------------------------------------------------------------------------- a series


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_a_series_equals_that_of_simpleitk_in_ras_order(tmp_path: Path, directions: Any) -> None:
    folder = series(tmp_path / "case", directions=directions)
    volume, (array, affine) = read_volume(folder), by_itk(folder)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.header.affine, affine, atol=1e-5)
    assert nib.aff2axcodes(volume.header.affine) == ("R", "A", "S")
    assert volume.array.dtype == np.int16 and volume.array.flags.c_contiguous
    assert volume.notes == volume.warnings == ()
    header = read_header(folder)
    assert header.shape == volume.array.shape[1:] and header.dtype == np.int16 and header.has_spacing
    np.testing.assert_array_equal(header.affine, volume.header.affine)


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_a_prediction_is_nifti_in_the_frame_of_the_series(tmp_path: Path, directions: Any) -> None:
    volume = read_volume(series(tmp_path / "case", directions=directions))
    written = write_volume(volume.array[0], volume.geometry, tmp_path / "out")
    assert written.name == "out.nii.gz" and NAME.encode() not in written.read_bytes()
    image: Any = nib.load(written)
    for k, row, column in ((0, 0, 0), (3, 4, 5), (1, 2, 3)):
        there = place(k, directions)
        lps = np.array(there["ImagePositionPatient"], float) + directions[:, :2] @ (0.5 * column, 1.25 * row)
        (index,) = np.argwhere(np.asarray(image.dataobj) == numbers()[k, row, column])
        np.testing.assert_allclose(image.affine @ [*index, 1], FLIP @ [*lps, 1], atol=1e-4)
    again = read_volume(written)
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.header.affine, volume.header.affine, atol=1e-5)


def test_a_known_voxel_ends_where_the_header_says(tmp_path: Path) -> None:
    """Columns go down, rows to the left, slices to the front (LPS: -P); voxel (slice 2, row 1, column 3)."""
    array = np.zeros((3, 4, 5), np.uint8)
    array[2, 1, 3] = 9
    directions = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]]).T
    np.testing.assert_allclose(np.cross(directions[:, 0], directions[:, 1]), directions[:, 2])
    volume = read_volume(series(tmp_path / "case", array, directions=directions))
    (where,) = np.argwhere(volume.array[0] == 9)
    np.testing.assert_allclose(volume.header.affine @ [*where, 1], [40 - 1.25, -12 + 6, 7.5 - 1.5, 1])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_types_and_syntaxes(tmp_path: Path, syntax: Any, dtype: Any) -> None:
    if syntax == RLELossless and np.dtype(dtype).itemsize == 4:
        pytest.skip("pydicom packs at most 16 bits")
    array = numbers((3, 5, 7), dtype)
    for k, pixels in enumerate(array):
        found = dataset(pixels, syntax=ExplicitVRLittleEndian if syntax == RLELossless else syntax, **place(k))
        if syntax == RLELossless:
            found.compress(RLELossless, generate_instance_uid=False)
        save(found, tmp_path / "case" / f"{k}.dcm")
    if syntax == ExplicitVRBigEndian and np.dtype(dtype).itemsize == 4:  # of which GDCM and pydicom make different numbers
        refused(tmp_path / "case", "must have at most 16 bits in big-endian order; got 32")
        return
    volume = read_volume(tmp_path / "case")
    assert volume.array.dtype == read_header(tmp_path / "case").dtype == dtype
    np.testing.assert_array_equal(volume.array[0][::-1, ::-1].T, array)
    if syntax != RLELossless:  # ITK refuses RLE as pydicom packs it
        np.testing.assert_array_equal(volume.array[0], by_itk(tmp_path / "case")[0])


def test_bytes_in_words_of_the_other_order(tmp_path: Path) -> None:
    pixels = numbers((3, 5), np.uint8)
    found = dataset(pixels, syntax=ExplicitVRBigEndian, **place(0))
    found.PixelData = np.frombuffer(pixels.tobytes() + b"\0", ">u2").astype("<u2").tobytes()
    found["PixelData"].VR = "OW"
    volume = read_volume(save(found, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(volume.array[0, ::-1, ::-1, 0].T, pixels)


def test_twelve_bits_signed_and_overlays_in_the_bits_above(tmp_path: Path) -> None:
    stored = np.array([[0x0001, 0xF002, 0x0FFF], [0x1800, 0x07FF, 0x0000]], np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11, **place(0)}
    unsigned = read_volume(save(dataset(stored, **tags), tmp_path / "u.dcm"))
    np.testing.assert_array_equal(unsigned.array[0, ::-1, ::-1, 0].T, [[1, 2, 4095], [2048, 2047, 0]])
    assert unsigned.warnings == ("bits above those that are stored (BitsStored) were cleared",)
    signed = read_volume(save(dataset(stored, **tags, PixelRepresentation=1), tmp_path / "s.dcm"))
    np.testing.assert_array_equal(signed.array[0, ::-1, ::-1, 0].T, [[1, 2, -1], [-2048, 2047, 0]])
    high = read_volume(save(dataset(stored << 4, **{**tags, "HighBit": 15}), tmp_path / "h.dcm"))
    np.testing.assert_array_equal(high.array, unsigned.array)


def test_each_slice_is_rescaled_by_its_own_header(tmp_path: Path) -> None:
    array = numbers((3, 4, 5), np.uint16)
    for k, pixels in enumerate(array):
        save(dataset(pixels, RescaleSlope=0.5 * (k + 1), RescaleIntercept=-k, **place(k)), tmp_path / "case" / f"{k}")
    volume = read_volume(tmp_path / "case")
    assert volume.array.dtype == read_header(tmp_path / "case").dtype == np.float32
    expected = array * (0.5 * np.arange(1, 4)[:, None, None]) - np.arange(3)[:, None, None]
    np.testing.assert_array_equal(volume.array[0][::-1, ::-1].T, expected.astype(np.float32))
    ct = series(tmp_path / "ct", RescaleSlope=1, RescaleIntercept=-1024)
    np.testing.assert_array_equal(read_volume(ct).array[0], by_itk(ct)[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_low_values_that_are_bright_are_inverted(tmp_path: Path, dtype: Any) -> None:
    pixels = numbers((3, 4), dtype)
    found = dataset(pixels, PhotometricInterpretation="MONOCHROME1", **place(0))
    volume = read_volume(save(found, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(
        volume.array[0, ::-1, ::-1, 0].T.astype(int), np.iinfo(dtype).max + np.iinfo(dtype).min - pixels.astype(int)
    )
    assert volume.notes == read_header(tmp_path / "a.dcm").notes == (INVERTED,)


def test_colours(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    side_by_side = read_volume(save(dataset(rgb), tmp_path / "a.dcm"))
    assert side_by_side.array.shape == (3, 4, 3, 1) and not side_by_side.header.has_spacing
    np.testing.assert_array_equal(side_by_side.array[..., 0].T, rgb)
    planes = dataset(rgb, PlanarConfiguration=1)
    planes.PixelData = rgb.transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(read_volume(save(planes, tmp_path / "b.dcm")).array, side_by_side.array)
    assert read_volume(tmp_path / "b.dcm", channel=2).array.shape == (1, 4, 3, 1)
    np.testing.assert_array_equal(read_volume(tmp_path / "b.dcm", channel=2).array[0, ..., 0].T, rgb[..., 2])
    assert write_volume(side_by_side.array[0], side_by_side.geometry, tmp_path / "out").name == "out.png"
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match="must have channel 3; got 3 channels"):
            read(tmp_path / "b.dcm", channel=3)
    ybr = read_volume(save(dataset(rgb, PhotometricInterpretation="YBR_FULL"), tmp_path / "c.dcm"))
    np.testing.assert_array_equal(ybr.array[..., 0].T, pydicom.pixels.processing.convert_color_space(rgb, "YBR_FULL", "RGB"))
    found = dataset(rgb[..., 0], PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(DataError, match=r"must hold grey values, or RGB of 8 bits; got 'PALETTE COLOR' of 1 x 8 bits"):
        read_volume(save(found, tmp_path / "d.dcm"))


def test_a_picture_has_the_spacing_of_its_header_or_none(tmp_path: Path) -> None:
    pixels = numbers((3, 5), np.uint16)
    plain = read_volume(save(dataset(pixels, Modality="CR"), tmp_path / "a.dcm"))
    assert plain.header.shape == (5, 3, 1) and not plain.header.has_spacing
    np.testing.assert_array_equal(plain.array[0, ..., 0].T, pixels)
    sized = read_volume(save(dataset(pixels, PixelSpacing=[0.2, 0.1]), tmp_path / "b.dcm"))
    assert sized.header.has_spacing and sized.header.spacing == (0.1, 0.2, 1.0) and sized.warnings == ()
    detector = read_volume(save(dataset(pixels, ImagerPixelSpacing=[0.2, 0.1]), tmp_path / "c.dcm"))
    assert detector.header.spacing == (0.1, 0.2, 1.0) and detector.warnings == (DETECTOR,)
    np.testing.assert_array_equal(sized.array, plain.array)
    assert write_volume(plain.array[0], plain.geometry, tmp_path / "out").name == "out.png"


def test_a_single_slice_is_a_volume_with_one_voxel_along_z(tmp_path: Path) -> None:
    volume = read_volume(save(dataset(numbers()[0], **place(0, step=2.5)), tmp_path / "a.dcm"))
    assert volume.array.shape == (1, 6, 5, 1)
    assert volume.header.spacing == (0.5, 1.25, 2.5)
    folder = save(dataset(numbers()[0], **{**place(0), "SliceThickness": None}), tmp_path / "case" / "a").parent
    assert read_volume(folder).warnings == ("the header has no SliceThickness; the slice is taken to be 1 mm thick",)


# ------------------------------------------------------------------------------------------------------------ several frames


def enhanced(array: Any, **tags: Any) -> FileDataset:
    """One file of all slices, the last first, with a position for each frame and the rest for all."""
    found = dataset(array[::-1], NumberOfFrames=len(array), **tags)
    frames = []
    for k in reversed(range(len(array))):
        plane, item = Dataset(), Dataset()
        plane.ImagePositionPatient = place(k, ROTATED)["ImagePositionPatient"]
        item.PlanePositionSequence = [plane]
        frames.append(item)
    orientation, measures, values, shared = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = place(0, ROTATED)["ImageOrientationPatient"]
    measures.PixelSpacing, measures.SliceThickness = [1.25, 0.5], 3
    values.RescaleSlope, values.RescaleIntercept = 2, -5
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [values]
    found.SharedFunctionalGroupsSequence, found.PerFrameFunctionalGroupsSequence = [shared], frames
    return found


def test_frames_of_one_file_equal_a_series(tmp_path: Path) -> None:
    folder = series(tmp_path / "case", directions=ROTATED, RescaleSlope=2, RescaleIntercept=-5)
    expected = read_volume(folder)
    plain, packed = enhanced(numbers()), enhanced(numbers())
    packed.compress(RLELossless, generate_instance_uid=False)
    for name, found in (("plain", plain), ("packed", packed)):
        path = save(found, tmp_path / name / "a.dcm")
        for one in (path, path.parent):
            volume = read_volume(one)
            np.testing.assert_array_equal(volume.array, expected.array)
            np.testing.assert_allclose(volume.header.affine, expected.header.affine, atol=1e-9)
            assert read_header(one).shape == expected.header.shape


def test_frames_without_a_place_of_their_own_are_refused(tmp_path: Path) -> None:
    found = dataset(numbers(), NumberOfFrames=4, **place(0))
    with pytest.raises(DataError, match="must hold one slice at each place; got 3 that share a place"):
        read_header(save(found, tmp_path / "a.dcm"))
    with pytest.raises(DataError, match="must have ImagePositionPatient for each of its 4 slices; got none"):
        read_header(save(dataset(numbers(), NumberOfFrames=4), tmp_path / "b.dcm"))
    part = enhanced(numbers(), ConcatenationUID="1.2.3.4")
    with pytest.raises(DataError, match="must be a whole volume; got a part of a concatenation"):
        read_header(save(part, tmp_path / "c.dcm"))
    less = enhanced(numbers())
    less.PerFrameFunctionalGroupsSequence = less.PerFrameFunctionalGroupsSequence[:-1]
    with pytest.raises(DataError, match="must have functional groups of 4 frames; got 3"):
        read_header(save(less, tmp_path / "d.dcm"))


# ------------------------------------------------------------------------------------------------------------------- refused


def refused(path: Path, text: str, **options: Any) -> None:
    """Both readers refuse it with this text, and say nothing of the patient."""
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=text) as error:
            read(path, subject="s1", modality="ct", **options)
        assert "subject s1, modality ct" in str(error.value)
        for secret in ("Muster", "4711", "1950"):
            assert secret not in str(error.value)


def test_several_series_are_listed(tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    save(dataset(numbers()[0], SeriesInstanceUID="1.2.4", Modality="MR", **place(9)), folder / "other.dcm")
    refused(folder, r"must hold the files of one series; got 2 series: 4 of 'CT' \(such as im0_0.dcm\); 1 of 'MR' .* Put each")
    assert read_volume(folder, files="im*").array.shape == (1, 6, 5, 4)


def test_a_missing_slice_is_found_by_its_gap(tmp_path: Path) -> None:
    folder = series(tmp_path / "case", numbers((6, 4, 5)))
    (folder / "im4_2.dcm").unlink()
    refused(
        folder,
        r"at even distances, none missing; got 6 mm between slices 2 and 3 of 5 \(im2_1.dcm, im1_3.dcm\), elsewhere 3 mm",
    )
    for name in ("im3_4.dcm", "im0_5.dcm"):
        (folder / name).unlink()
    refused(folder, "got 6 mm between slices 2 and 3 of 3 .*, elsewhere 3 mm")


def test_a_slice_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    shutil.copy(folder / "im2_1.dcm", folder / "copy.dcm")
    refused(
        folder, "must hold one slice at each place; got 1 that share a place with another, the first being slices 2 and 3 of 5"
    )


def test_slices_of_another_kind_are_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "size")
    save(dataset(numbers((5, 7)), **place(4)), folder / "odd.dcm")
    refused(folder, r"slices of one size and type; got 5 x 7 int16 'MONOCHROME2' in odd.dcm \(1 of 5 files differ")
    folder = series(tmp_path / "orientation")
    save(dataset(numbers()[0], **{**place(4), "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}), folder / "scout.dcm")
    refused(folder, "must hold slices of one orientation; got 1 of 5 that lie otherwise, such as that of scout.dcm")
    folder = series(tmp_path / "spacing")
    save(dataset(numbers()[0], **{**place(4), "PixelSpacing": [1.25, 0.6]}), folder / "odd.dcm")
    refused(folder, "must hold slices of one PixelSpacing; got another one in odd.dcm")


def test_a_gantry_tilt_is_named_and_one_of_half_a_degree_is_not(tmp_path: Path) -> None:
    tilted = series(tmp_path / "tilted", shift=(0, 3 * np.tan(np.radians(12)), 0))
    refused(tilted, r"stacked along their normal; got a tilt of 12.0 degrees \(gantry tilt\).*Resample it .* dicom2nifti")
    little = series(tmp_path / "little", shift=(0, 3 * np.tan(np.radians(0.4)), 0))
    volume = read_volume(little)
    where = volume.header.affine @ [0, 0, 3, 1]
    np.testing.assert_allclose(where[2], 7.5 + 9, atol=1e-6)
    aside = series(tmp_path / "aside", numbers((5, 5, 6)))
    found = pydicom.dcmread(aside / "im4_2.dcm")
    found.ImagePositionPatient = [-40, 13, 13.5]
    found.save_as(aside / "im4_2.dcm")
    refused(aside, "must have slices that lie on one line; got slice 3 of 5, 1 mm aside")


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path, packed: bool) -> None:
    found = dataset(numbers()[0], **place(0))
    if packed:
        found.compress(RLELossless, generate_instance_uid=False)
    data = save(found, tmp_path / "a.dcm").read_bytes()
    whole = read_volume(tmp_path / "a.dcm")
    assert whole.array.shape == (1, 6, 5, 1)
    for size in range(0, len(data), 1 if len(data) < 1200 else 3):
        (tmp_path / "cut.dcm").write_bytes(data[:size])
        with pytest.raises(DataError):
            read_volume(tmp_path / "cut.dcm")
    (tmp_path / "cut.dcm").write_bytes(data[:-2])
    with pytest.raises(DataError, match=r"must (hold the 60 bytes of pixels .* got 58 bytes|be a complete DICOM).*Copy or"):
        read_volume(tmp_path / "cut.dcm")


def test_a_series_with_one_cut_slice_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    data = (folder / "im1_3.dcm").read_bytes()
    for size in (0, 100, 131):
        (folder / "im1_3.dcm").write_bytes(data[:size])
        refused(folder, "must hold DICOM files only; got 1 of another kind, such as im1_3.dcm")
    for size in (140, len(data) // 2, len(data) - 1):
        (folder / "im1_3.dcm").write_bytes(data[:size])
        refused(folder, "file .*im1_3.dcm")


def test_fewer_pixels_than_the_header_says_are_refused_and_more_are_noted(tmp_path: Path) -> None:
    found = dataset(numbers()[0], **place(0))
    found.PixelData = found.PixelData[:-2]
    refused(save(found, tmp_path / "a.dcm"), "must hold the 60 bytes of pixels of its header; got 58 bytes")
    found.PixelData = found.PixelData + b"\0" * 22
    assert read_volume(save(found, tmp_path / "a.dcm")).warnings == ("there are bytes behind the pixels; they were ignored",)
    frames = enhanced(numbers())
    frames.compress(RLELossless, generate_instance_uid=False)
    frames.NumberOfFrames = 5
    frames.PerFrameFunctionalGroupsSequence = [
        *frames.PerFrameFunctionalGroupsSequence,
        enhanced(numbers((5, 5, 6))).PerFrameFunctionalGroupsSequence[0],
    ]
    with pytest.raises(DataError, match="must hold 5 packed frames; got 4 pieces"):
        read_volume(save(frames, tmp_path / "b.dcm"))


def test_damaged_packed_pixels_are_refused(tmp_path: Path) -> None:
    found = dataset(numbers()[0], **place(0))
    found.compress(RLELossless, generate_instance_uid=False)
    data = bytearray(save(found, tmp_path / "a.dcm").read_bytes())
    at = data.rindex(b"\xfe\xff\x00\xe0")
    data[at + 8 : at + 24] = b"\xff" * 16
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(DataError, match="must hold pixels that can be unpacked"):
        read_volume(tmp_path / "a.dcm")


def test_jpeg_is_unpacked_by_pillow(tmp_path: Path) -> None:
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

    pixels = (np.add.outer(np.arange(32), np.arange(48)) * 3 % 256).astype(np.uint8)
    for syntax, kind, options in ((JPEGBaseline8Bit, "JPEG", {"quality": 100}), (JPEG2000Lossless, "JPEG2000", {})):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind, **({**options, "no_jp2": True} if kind == "JPEG2000" else options))
        found = dataset(pixels, **place(0))
        found.file_meta.TransferSyntaxUID = syntax
        found.PixelData = encapsulate([stream.getvalue()])
        found["PixelData"].is_undefined_length = True
        path = save(found, tmp_path / "a.dcm")
        np.testing.assert_allclose(read_volume(path).array[0, ::-1, ::-1, 0].T.astype(int), pixels, atol=3)
        data = bytearray(path.read_bytes())
        cut = encapsulate([stream.getvalue()[: len(stream.getvalue()) // 2]])
        found.PixelData = cut
        found["PixelData"].is_undefined_length = True
        assert len(data) > len(cut)
        with pytest.raises(DataError, match="must hold pixels that can be unpacked"):
            read_volume(save(found, tmp_path / "b.dcm"))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2.4.70", "1.3.6.1.4.1.99"])
def test_a_syntax_that_cannot_be_unpacked_is_named(tmp_path: Path, syntax: Any) -> None:
    path = save(dataset(numbers()[0], **place(0)), tmp_path / "a.dcm")
    data, old = path.read_bytes(), b"1.2.840.10008.1.2.1\0"
    at = data.index(old)
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    path.write_bytes(data[: at - 2] + len(new).to_bytes(2, "little") + new + data[at + len(old) :])
    name = {"1.3.6.1.4.1.99": "1.3.6.1.4.1.99"}.get(syntax, pydicom.uid.UID(syntax).name.split("(")[0].split(",")[0])
    refused(path, f"must be in a transfer syntax that can be unpacked here; got {name}.*Convert it, for instance with dcm2niix")


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "two directions at right angles; got 1 0 0 1 0 0"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "two directions at right angles"),
        ({"PixelSpacing": None}, "have PixelSpacing; got none"),
        ({"PixelSpacing": [0, 0]}, "have axes and spacings that can be inverted"),
        ({"RescaleSlope": 0}, "have a RescaleSlope other than 0"),
        ({"BitsStored": 17}, "BitsStored and HighBit that fit in BitsAllocated; got 17 bits up to bit 15 of 16"),
        ({"HighBit": 3}, "BitsStored and HighBit that fit in BitsAllocated"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "BitsAllocated of 8, 16 or 32; got 1"),
        ({"BitsAllocated": None}, "have BitsAllocated of one whole number; got None"),
        ({"Rows": None}, "hold an image; got DICOM without pixels"),
        ({"Rows": 0}, "have at least one voxel along each axis|hold the 0 bytes"),
        ({"Rows": 65535, "Columns": 65535}, "hold the 8589672450 bytes of pixels of its header; got 60 bytes"),
        ({"NumberOfFrames": 2000000000}, "hold the .* bytes of pixels of its header; got 60 bytes"),
        ({"SamplesPerPixel": 2}, "hold grey values, or RGB of 8 bits; got 'MONOCHROME2' of 2 x 16 bits"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "hold an image; got a DICOM dose object"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "hold an image; got a DICOM segmentation object"),
    ],
)
def test_impossible_headers_are_refused(tmp_path: Path, tags: Any, text: str) -> None:
    refused(save(dataset(numbers()[0], **{**place(0), **tags}), tmp_path / "a.dcm"), f"image file must .*({text})")


def test_values_that_are_no_numbers_are_refused_and_not_quoted(tmp_path: Path) -> None:
    data = save(dataset(numbers()[0], **place(0)), tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data.replace(b"-40\\12\\7.5", b"4711\\12\\a "))
    refused(tmp_path / "a.dcm", "must have ImagePositionPatient of 3 finite numbers; got something else")


def test_no_preamble_is_named(tmp_path: Path) -> None:
    data = save(dataset(numbers()[0], **place(0)), tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[data.index(b"\x08\x00\x16\x00") :])
    refused(tmp_path / "a.dcm", "must be NIfTI, .*; got what may be DICOM without its preamble")


# -------------------------------------------------------------------------------------------------------------- the folder


def test_what_lies_beside_the_files(tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    expected = read_volume(folder)
    for name in ("DICOMDIR", ".DS_Store", "._im0_0.dcm"):
        (folder / name).write_bytes(b"x")
    assert read_volume(folder).notes == ()
    for name in ("readme.txt", "a.json"):
        (folder / name).write_bytes(b"x")
    (folder / "inner").mkdir()
    volume = read_volume(folder)
    assert volume.notes == read_header(folder).notes == ("3 folders or text files beside the DICOM files were not read",)
    np.testing.assert_array_equal(volume.array, expected.array)
    (folder / "thumb.png").write_bytes(b"x")
    refused(folder, "must hold DICOM files only; got 1 of another kind, such as thumb.png")
    assert read_volume(folder, files="*.dcm").array.shape == expected.array.shape


def test_a_slice_that_links_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "case")
    (folder / "im1_3.dcm").rename(tmp_path / "secret.dcm")
    (folder / "im1_3.dcm").symlink_to(tmp_path / "secret.dcm")
    refused(folder, "must be a regular file inside its folder; got a link or device")


def test_hostile_bytes_give_an_error_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Random changes of single bytes: read, or a DataError; no warning, no other exception, nothing in a log."""
    random, texts = np.random.default_rng(0), list[str]()
    for found in (dataset(numbers()[0], **place(0)), enhanced(numbers())):
        data = save(found, tmp_path / "a.dcm").read_bytes()
        for _ in range(150):
            changed = bytearray(data)
            for at in random.integers(132, len(data), 3):
                changed[at] = int(random.integers(0, 256))
            (tmp_path / "b.dcm").write_bytes(changed)
            try:
                assert read_volume(tmp_path / "b.dcm").array.size > 0
            except DataError as error:
                texts.append(str(error))
    assert not caplog.records
    assert 50 < len(texts) < 300 and not any("Muster" in text for text in texts)
