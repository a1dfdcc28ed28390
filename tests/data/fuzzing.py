"""Mutates the bytes of small valid files and reads them, for a while; run as a script by test_fuzz.py, in a process of its own.

What is read must be an error that comodal means (a UserError), or the array that another reader finds in the same bytes, or,
where the format has a checksum, the array of the undamaged file. `python fuzzing.py FORMAT SEED SECONDS FOLDER` prints one line
of JSON; before each reading the number of the mutation is written to FOLDER/now, so that a crash or a hang can be told.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import tifffile
from PIL import Image

from comodal.data.phantoms.metaimage import mha
from comodal.data.reading import read_header, read_volume
from comodal.data.tables import read_table
from comodal.errors import UserError

Array = npt.NDArray[Any]
LIMIT = 1 << 30  # bytes that reading may take beyond what the libraries take
AFFINE = np.array([[-1.5, 0, 0, 10], [0, -1.0, 0.1, 20], [0, 0.1, 2.0, -5], [0, 0, 0, 1]])


def volume(dtype: str = "int16") -> Array:
    return np.random.default_rng(0).integers(1, 90, (7, 6, 5)).astype(dtype)


def nifti(kind: Any = nib.Nifti1Image, scaled: bool = False) -> bytes:
    image = kind(volume(), AFFINE)
    if scaled:
        image.header.set_slope_inter(0.5, 3)
    found: bytes = image.to_bytes()
    return found


def picture(form: str, dtype: str, channels: int = 1, **settings: Any) -> bytes:
    shape = (9, 11) if channels == 1 else (9, 11, channels)
    array = np.random.default_rng(1).integers(0, 250, shape).astype(dtype)
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=form, **settings)
    return file.getvalue()


def tiff(**settings: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.random.default_rng(2).integers(0, 250, (2, 32, 48)).astype("uint16"), metadata=None, **settings)
    return file.getvalue()


def dicom() -> bytes:
    """A single slice in explicit little endian."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3.4")
    data = pydicom.dataset.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.Modality = "1.2.3", "MR"
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 6, 8, 16, 16, 15
    data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    data.PixelSpacing, data.SliceThickness = [1.5, 2.0], 3.0
    data.ImagePositionPatient, data.ImageOrientationPatient = [1.0, 2, 3], [1.0, 0, 0, 0, 1, 0]
    data.PixelData = np.arange(48, dtype="<u2").tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def nrrd() -> bytes:
    lines = (
        "NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 7 6 5", "endian: little",
        "encoding: gzip", "space directions: (1.5,0,0) (0,1,0.1) (0,-0.1,2)", "space origin: (1,2,3)", "", "",
    )  # fmt: skip
    return "\n".join(lines).encode() + gzip.compress(volume().tobytes(order="F"), mtime=0)


def table() -> bytes:
    rows = [f'p{k},{k / 7:.3f},"a; {k}",x/{k}.nii' for k in range(6)]
    return ("subject,age,note,t1\n" + "\n".join(rows) + "\n").encode()


# ------------------------------------------------------------------------------------------ what another reader finds


def by_nibabel(data: bytes) -> Array:
    """As nibabel reads it, once what the standard leaves open is settled as comodal does: an offset of 0, empty extensions."""
    wide = int.from_bytes(data[:4], "little") == 540 or int.from_bytes(data[:4], "big") == 540
    kind: Any = nib.Nifti2Image if wide else nib.Nifti1Image
    size = kind.header_class.sizeof_hdr
    order = "<" if int.from_bytes(data[:4], "little") == size else ">"
    header = kind.header_class(data[:size], endianness=order, check=False)
    if int(header["vox_offset"]) == 0:
        header["vox_offset"] = size + 4
    image = kind.from_bytes(header.binaryblock + bytes(4) + data[size + 4 :])
    array = np.asarray(image.dataobj)
    array = array.reshape((*array.shape, 1, 1)[:3]) if array.ndim < 3 else array.reshape(array.shape[:3])
    turn = nib.orientations.io_orientation(image.affine)
    return np.asarray(nib.orientations.apply_orientation(array, turn))[None]


def by_gzip(data: bytes) -> Array:
    return by_nibabel(gzip.decompress(data))


def by_pillow(data: bytes) -> Array:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    array = np.asarray(image)
    return (array.T[None] if array.ndim == 2 else array.transpose(2, 1, 0))[..., None]


def by_tifffile(data: bytes) -> Array:
    pages = [page.asarray() for page in tifffile.TiffFile(io.BytesIO(data)).pages]
    return np.stack(pages).transpose(2, 1, 0)[None]


def by_header(data: bytes) -> Array:
    """MetaImage as its text says, for the lines that are there."""
    head, _, rest = data.partition(b"ElementDataFile = LOCAL\n")
    lines = dict(line.split(" = ", 1) for line in head.decode("ascii").strip().split("\n"))
    kinds = {
        "MET_SHORT": "<i2",
        "MET_USHORT": "<u2",
        "MET_CHAR": "<i1",
        "MET_UCHAR": "<u1",
        "MET_INT": "<i4",
        "MET_FLOAT": "<f4",
    }
    dtype = np.dtype(kinds[lines["ElementType"].strip()])
    if (
        lines.get("BinaryDataByteOrderMSB", "False").strip() == "True"
        or lines.get("ElementByteOrderMSB", "False").strip() == "True"
    ):
        dtype = dtype.newbyteorder(">")
    shape = [int(n) for n in lines["DimSize"].split()]
    return np.frombuffer(rest, dtype)[: int(np.prod(shape))].reshape(shape, order="F")


def by_pydicom(data: bytes) -> Array:
    found = pydicom.dcmread(io.BytesIO(data))
    found.SamplesPerPixel = found.get("SamplesPerPixel", 1)  # one, where nothing is said
    pixels = found.pixel_array.astype(np.float64) * float(found.get("RescaleSlope", 1)) + float(
        found.get("RescaleIntercept", 0)
    )
    frames = pixels if pixels.ndim == 3 else pixels[None]
    return np.asarray(frames.transpose(2, 1, 0)[None])


def by_csv(data: bytes) -> list[list[str]]:
    import csv

    return [
        [cell.strip() for cell in row] for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    ]


# A format: bytes of a valid file, suffix, another reader, whether a checksum protects the pixels.
FORMATS: dict[str, tuple[Callable[[], bytes], str, Callable[[bytes], Any] | None, bool]] = {
    "nifti": (nifti, ".nii", by_nibabel, False),
    "nifti-scaled": (lambda: nifti(scaled=True), ".nii", by_nibabel, False),
    "nifti2": (lambda: nifti(nib.Nifti2Image), ".nii", by_nibabel, False),
    "nifti-gz": (lambda: gzip.compress(nifti(), mtime=0), ".nii.gz", by_gzip, True),
    "mha": (lambda: mha(volume(), AFFINE), ".mha", None, False),
    "nrrd": (nrrd, ".nrrd", None, False),
    "png": (lambda: picture("PNG", "uint8", 3), ".png", by_pillow, True),
    "png-16": (lambda: picture("PNG", "uint16"), ".png", by_pillow, True),
    "jpeg": (lambda: picture("JPEG", "uint8", 3, quality=90), ".jpg", by_pillow, False),
    "tiff": (tiff, ".tif", by_tifffile, False),
    "tiff-deflate": (lambda: tiff(compression="zlib", tile=(16, 16)), ".tif", by_tifffile, False),
    "dicom": (dicom, ".dcm", by_pydicom, False),
    "csv": (table, ".csv", by_csv, False),
}


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """One to four changes: bits, bytes, extreme numbers, cuts, insertions, blocks that move."""
    found = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        if not found:
            break
        at, kind = int(random.integers(len(found))), int(random.integers(9))
        if random.random() < 0.5:  # headers decide more than pixels do
            at = min(at, int(random.integers(min(len(found), 400))))
        if kind == 0:
            found[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            found[at] = int(random.integers(256))
        elif kind == 2:
            extreme = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f", b"\xff\x7f"]
            word = extreme[int(random.integers(len(extreme)))]
            found[at : at + len(word)] = word
        elif kind == 3:
            del found[at:]
        elif kind == 4:
            del found[at : at + int(random.integers(1, 20))]
        elif kind == 5:
            found[at:at] = random.bytes(int(random.integers(1, 20)))
        elif kind == 6:
            found += random.bytes(int(random.integers(1, 40)))
        elif kind == 7:
            other = int(random.integers(len(found)))
            found[at : at + 8], found[other : other + 8] = found[other : other + 8], found[at : at + 8]
        else:
            found[at : at + 1] = b'0123456789-., ;"\n\r\t'[int(random.integers(19)) :][:1]
    return bytes(found)


def same(ours: Array, other: Array) -> bool:
    return ours.shape == other.shape and bool(
        np.allclose(ours.astype(np.float64), other.astype(np.float64), rtol=1e-5, atol=1e-5)
    )


def turned(array: Array) -> list[Array]:
    """A slice in each of its eight positions: pydicom gives rows and columns, comodal the patient's axes."""
    flips = [array, array[:, ::-1], array[:, :, ::-1], array[:, ::-1, ::-1]]
    return [*flips, *(flip.transpose(0, 2, 1, 3) for flip in flips)]


def judge(form: str, data: bytes, path: Path, original: Any) -> str:
    """ "refused", "read", or what is wrong."""
    path.write_bytes(data)
    other, checked = FORMATS[form][2:]
    try:
        if form == "csv":
            columns, rows = read_table(path)
            ours: Any = [columns, *[list(row.values()) for row in rows]]
        else:
            found = read_volume(path)
            ours, header = found.array, read_header(path)
            if ours.shape != (header.channels, *header.shape) or not np.isfinite(ours.astype(np.float64)).all():
                return f"an array of {ours.shape} where the header says {header.shape}, or one that is not finite"
    except UserError:
        return "refused"
    if form == "csv":
        return _judge_table(ours, data)
    if same(ours, original):
        return "read"
    if checked:
        return "another array in spite of the checksum"
    if other is None:
        return "read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = other(data)
    except Exception as error:  # noqa: BLE001  whatever the other reader raises on hostile bytes
        return f"an array where the other reader says {type(error).__name__}: {' '.join(str(error).split())}"
    positions = turned(expected) if form == "dicom" else [expected]
    return (
        "read"
        if any(same(ours, one) for one in positions)
        else f"another array than the other reader: {ours.shape} and {expected.shape}"
    )


def _judge_table(ours: list[list[str]], data: bytes) -> str:
    if data.count(b";") > data.count(b",") or b"\t" in data:
        return "read"
    expected = [row for row in by_csv(data) if any(row)]
    return "read" if ours == expected else "another table than that of the csv module"


def main(form: str, seed: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Mutates and reads until the time is over."""
    make, suffix, _, _ = FORMATS[form]
    data, path = make(), folder / f"file{suffix}"
    path.write_bytes(data)
    original = None if form == "csv" else read_volume(path).array
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT, size + LIMIT))
    counts: dict[str, int] = {}
    wrong: list[str] = []
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        (folder / "now").write_text(f"{seed}-{number}")
        mutated = mutate(data, np.random.default_rng([seed, number]))
        try:
            said = judge(form, mutated, path, original)
        except Exception as error:  # noqa: BLE001  everything but a UserError is what this test is for
            said = f"{type(error).__name__}: {error}"
        if said in ("refused", "read"):
            counts[said] = counts.get(said, 0) + 1
        else:
            wrong.append(f"mutation {seed}-{number}: {said}"[:300])
        number += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"format": form, "mutations": number, "counts": counts, "wrong": wrong[:20], "wrongs": len(wrong), "peak_kib": peak}


if __name__ == "__main__":
    warnings.simplefilter("error")
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))) + "\n")
