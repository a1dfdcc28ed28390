"""NIfTI-1 and NIfTI-2, plain or gzipped, read to the last byte.

The bytes are decompressed here rather than by a library call because the libraries differ in what they forgive: a file cut in
half may come back with zeros for the lost half, and zeros look like an absent sequence. Here a stream that ends early or fails
its checksum is an error, sizes are checked before memory is taken, and no more than the declared bytes are ever kept.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel import orientations

from comodal.data.atomic import replacing
from comodal.data.geometry import Affine, Array, Geometry, Header, Source, Volume, check_affine, check_budget, check_finite

CHUNK = 1 << 18
# Deflate cannot shrink data by more than 1032 : 1, so a smaller file cannot hold what its header claims.
MAX_DEFLATE_RATIO = 1032
# Bytes after the image that are skipped with a note; more is taken for a decompression bomb.
MAX_TRAILING = 16 * 1024**2
LAST_CODE = 5  # of the spaces that sform and qform may lead to
GZIP_MAGIC = b"\x1f\x8b"
COPY_AGAIN = "Copy or download the file again"
VECTOR_INTENT = 1007  # the fifth axis holds the components of a vector
SHEARED = math.sin(math.radians(0.5))  # cosine of the angle of two axes, from which on the volume is called sheared


class Stream:
    """The decompressed bytes of a .nii or .nii.gz file, whatever it is called.

    Args:
        file: Open for reading.
        source: For the error text.
        start: Where the bytes begin (behind the header of another format).
        is_gzip: Whether they are packed; None where the first bytes decide.

    Attributes:
        warnings: What was found behind the image.
        compressed_size: Bytes in the file from `start` on.
    """

    def __init__(self, file: BinaryIO, source: Source, *, start: int = 0, is_gzip: bool | None = None) -> None:
        self.source = source
        self.warnings: list[str] = []
        self.compressed_size = max(os.fstat(file.fileno()).st_size - start, 0)
        self._file = file
        self._left = b""
        self._pending = b""
        file.seek(start)
        self.is_gzip = file.read(2) == GZIP_MAGIC if is_gzip is None else is_gzip
        file.seek(start)
        self._inflate: Any = zlib.decompressobj(31) if self.is_gzip else None

    def _next(self) -> bytes:
        """The next piece, b"" at the end."""
        if not self.is_gzip:
            return self._file.read(CHUNK)
        while True:
            if self._inflate.eof and not self._next_member():
                return b""
            raw = self._inflate.unconsumed_tail or self._pending or self._file.read(CHUNK)
            self._pending = b""
            try:
                piece: bytes = self._inflate.decompress(raw, CHUNK)
            except zlib.error as error:
                got = "a wrong checksum" if "check" in str(error) else f"damaged compression ({error})"
                raise self.source.error("be an undamaged gzip file", got, do=COPY_AGAIN) from None
            if piece:
                return piece
            if not raw and not self._inflate.eof:
                raise self.source.error("be a complete gzip file", "one that ends early", do=COPY_AGAIN)

    def _next_member(self) -> bool:
        """Moves to the next gzip member: concatenated files are legal. False where nothing but padding is left."""
        rest: bytes = self._inflate.unused_data
        if len(rest) < 2:
            rest += self._file.read(CHUNK)
        if rest.startswith(GZIP_MAGIC):
            self._inflate, self._pending = zlib.decompressobj(31), rest
            return True
        if rest.strip(b"\0"):
            self.warnings.append("there are bytes after the end of the gzip stream; they were ignored")
        return False

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        parts = [self._left]
        have = len(self._left)
        while have < size and (piece := self._next()):
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._left = data[size:]
        return data[:size]

    def fill(self, target: Array) -> int:
        """Reads into a uint8 array; returns how many bytes there were."""
        view, done = target.data, 0
        while done < len(view):
            piece = self.read(min(CHUNK, len(view) - done))
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def skip(self, size: int) -> int:
        """Reads and drops; returns how many bytes there were."""
        done = 0
        while done < size and (piece := self.read(min(CHUNK, size - done))):
            done += len(piece)
        return done

    def finish(self) -> None:
        """Reads to the end, so that the checksum is verified."""
        extra = self.skip(MAX_TRAILING + 1)
        if extra > MAX_TRAILING:
            rule = f"hold at most {MAX_TRAILING // 1024**2} MiB after the image"
            raise self.source.error(rule, "more", do="Save the image again")
        if extra:
            self.warnings.append(f"{extra} bytes after the image were ignored")


@dataclass(frozen=True)
class Parsed:
    """A NIfTI header that was understood and found plausible."""

    raw: Any
    shape: tuple[int, int, int]
    stored: tuple[int, ...]
    volumes: int
    dtype: np.dtype[Any]
    offset: int
    scale: tuple[float, float] | None
    affine: Any
    warnings: tuple[str, ...]

    @property
    def volume_bytes(self) -> int:
        """Size of one volume in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def _raw_header(stream: Stream) -> Any:
    source, block = stream.source, stream.read(4)
    little, big = int.from_bytes(block, "little"), int.from_bytes(block, "big")
    kind: Any = {348: nib.Nifti1Header, 540: nib.Nifti2Header}.get(little if little in (348, 540) else big)
    if kind is None:
        do = "Check what the file really is, and convert it"
        raise source.error("be NIfTI, MetaImage, NRRD, DICOM, .npy, PNG, JPEG or TIFF", _describe(block), do=do)
    size = kind.sizeof_hdr
    block += stream.read(size - 4)
    if len(block) < size:
        raise source.error(f"have a header of {size} bytes", f"{len(block)} bytes", do=COPY_AGAIN)
    header = kind(block, endianness="<" if little == size else ">", check=False)
    magic = header["magic"].item()
    if magic.rstrip(b"\0") != (b"n+1" if header.sizeof_hdr == 348 else b"n+2"):
        raise source.error("be single-file NIfTI (magic n+1 or n+2)", repr(magic), do="Convert it to .nii.gz")
    if header.sizeof_hdr == 540 and header["eol_check"].tobytes() not in (b"\r\n\x1a\n", bytes(4)):
        raise source.error("be as it was written", "line ends that a copy in text mode has changed", do=COPY_AGAIN)
    return header


def is_nifti(head: bytes) -> bool:
    """True where the first bytes of a file give the size of a NIfTI header."""
    return {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")} & {348, 540} != set()


def _describe(block: bytes) -> str:
    if not block:
        return "an empty file"
    if block[:2] in (b"\x08\0", b"\2\0"):
        return "what may be DICOM without its preamble (dcmconv writes one)"
    if block.lstrip()[:1] == b"<":
        return "a web page or XML text"
    return f"bytes {block.hex(' ')}"


def _dtype(header: Any, source: Source) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except Exception:  # noqa: BLE001  nibabel raises several kinds for a code that it does not know
        code = int(header["datatype"])
        raise source.error("have a known data type", f"code {code}", do="Convert it to int16 or float32") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise source.error("hold real numbers of one channel", str(dtype), do="Convert it to int16 or float32")
    return dtype


def _stored_shape(header: Any, source: Source) -> tuple[int, ...]:
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise source.error("have 1 to 7 axes", dim[0], do="Export the image again")
    return tuple(dim[1 : dim[0] + 1])


def _scale(header: Any, source: Source) -> tuple[float, float] | None:
    """(slope, intercept), None where the stored values are the values (a slope of 0 or NaN says so)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return None
    if math.isinf(slope) or not math.isfinite(intercept):
        raise source.error("have a finite scl_slope and scl_inter", (slope, intercept), do="Export the image again")
    return None if (slope, intercept) == (1.0, 0.0) else (slope, intercept)


def _affine(header: Any, source: Source) -> tuple[Any, tuple[str, ...]]:
    codes = (int(header["sform_code"]), int(header["qform_code"]))
    if not all(0 <= code <= LAST_CODE for code in codes):  # whoever writes such a number has not written the affine either
        rule = f"have an sform_code and qform_code of 0 to {LAST_CODE}"
        raise source.error(rule, codes, do="Copy the file again, or export the image again")
    warnings, sform, qform = [], header.get_sform(coded=True)[0], None
    try:
        qform = header.get_qform(coded=True)[0]
    except Exception as error:  # noqa: BLE001  nibabel raises several kinds for impossible quaternions
        if sform is None:
            raise source.error("have a usable affine", str(error), do="Set sform or qform") from None
        warnings.append("the qform is impossible; sform is used")
    affine = np.asarray(header.get_best_affine() if sform is None else sform, dtype=np.float64)
    check_affine(source, affine, "have an affine that can be inverted", do="Set sform, or the voxel sizes")
    if sform is None and qform is None:
        warnings.append("neither sform nor qform is set; orientation is a guess from the voxel sizes")
    elif sform is not None and qform is not None and not np.allclose(sform, qform, atol=1e-2):
        warnings.append("sform and qform disagree; sform is used")
    if int(header["xyzt_units"]) & 7 in (1, 3):
        warnings.append("the header gives lengths in metres or micrometres; they are read as mm")
    axes = min(int(header["dim"][0]), 3)
    sizes, spacing = np.asarray(header["pixdim"][1 : axes + 1], np.float64), np.linalg.norm(affine[:3, :axes], axis=0)
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        if sform is None and qform is None:  # nothing says how large a voxel is
            raise source.error("have a usable affine", f"no form, and voxel sizes {sizes.tolist()}", do="Set sform or qform")
        warnings.append("pixdim is not positive; the voxel sizes are those of the affine")
    elif not np.allclose(sizes, spacing, rtol=0.01):
        warnings.append("pixdim and sform disagree about the voxel sizes; sform is used")
    return affine, (*warnings, *shear(affine))


def shear(affine: Affine) -> tuple[str, ...]:
    """A warning where the axes of an affine are not at right angles: such a volume is read as if they were."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(np.abs(np.triu(unit.T @ unit, 1)).max())
    if cosine < SHEARED:
        return ()
    angle = math.degrees(math.acos(min(cosine, 1.0)))
    return (f"the axes meet at {angle:.1f} degrees instead of 90 (gantry tilt or shear); distances are distorted",)


def parse(stream: Stream) -> Parsed:
    """Reads and checks the header.

    Args:
        stream: At its first byte; afterwards behind the header.

    Raises:
        DataError: Not NIfTI, an impossible header, more than the budget, or more than the file can hold.
    """
    source, header = stream.source, _raw_header(stream)
    stored, dtype = _stored_shape(header, source), _dtype(header, source)
    check_budget(source, stored, dtype.itemsize)
    spatial = (*stored, 1, 1, 1)[:3]
    volumes = math.prod(stored[3:])
    offset = float(header["vox_offset"])
    first = 352 if header.sizeof_hdr == 348 else 544
    if not math.isfinite(offset) or offset < 0 or offset > 1e9 or 0 < offset < header.sizeof_hdr:
        raise source.error(f"have vox_offset of at least {first}", offset, do="Export the image again")
    with np.errstate(invalid="ignore"):  # NaN is found and refused, with a message
        affine, warnings = _affine(header, source)
    start = int(offset) or first
    parsed = Parsed(
        header, (spatial[0], spatial[1], spatial[2]), stored, volumes, dtype, start, _scale(header, source), affine, warnings
    )
    need = parsed.volume_bytes * volumes + start
    limit = stream.compressed_size * (MAX_DEFLATE_RATIO if stream.is_gzip else 1)
    if limit < need:
        raise source.error(f"hold the {need} bytes of its header", f"at most {limit} bytes", do=COPY_AGAIN)
    return parsed


def _pick(parsed: Parsed, channel: int | None, source: Source) -> range:
    """Which volumes of the file to read: the only one, the one that the cohort names, or the components of a vector."""
    if channel is None and parsed.volumes > 1:
        if int(parsed.raw["intent_code"]) == VECTOR_INTENT and len(parsed.stored) == 5 and parsed.stored[3] == 1:
            return range(parsed.volumes)
        do = "Split it, or name the volume with `channel: 0` in the cohort's yaml"
        raise source.error("hold one volume", f"shape {parsed.stored}", do=do)
    index = channel or 0
    if not 0 <= index < parsed.volumes:
        raise source.error(f"have channel {index}", f"{parsed.volumes} channels", do="Correct `channel` in the cohort's yaml")
    return range(index, index + 1)


def ras_frame(affine: Affine, shape: tuple[int, int, int]) -> tuple[tuple[int, int, int], Affine, Any]:
    """Shape and affine of an array once it is in RAS order, and the orientation (nibabel's) that brings it there.

    Args:
        affine: (4, 4), voxel of the file's own axes to RAS mm.
        shape: Of the file's own axes.

    >>> ras_frame(np.diag([-2.0, 1, 1, 1]), (3, 4, 5))[1][0].tolist()
    [2.0, 0.0, 0.0, -4.0]
    """
    orientation = orientations.io_orientation(affine)
    x, y, z = np.argsort(orientation[:, 0]).astype(int)
    return (shape[x], shape[y], shape[z]), affine @ orientations.inv_ornt_aff(orientation, shape), orientation


def frame(stored: tuple[int, ...], affine: Affine, orientation: Any) -> Geometry:
    """Where predictions for a file of another format go: into NIfTI, which viewers and ITK read; one format is enough.

    Args:
        stored: Its own axes, two or three.
        affine: (4, 4), voxel of these axes to RAS mm.
        orientation: As `ras_frame` gives it.
    """
    kind: Any = nib.Nifti1Header if max(stored) < 1 << 15 else nib.Nifti2Header
    header = kind()
    header.set_data_shape(stored)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_xyzt_units("mm")
    return Geometry("nifti", stored, affine, orientation, header)


def _header(parsed: Parsed, channels: int, warnings: tuple[str, ...] = ()) -> tuple[Header, Any]:
    shape, affine, orientation = ras_frame(parsed.affine, parsed.shape)
    dtype = np.dtype(np.float32) if parsed.scale else parsed.dtype.newbyteorder("=")
    return Header(shape, channels, affine, dtype, warnings=parsed.warnings + warnings), orientation


def read_header(file: BinaryIO, source: Source, *, channel: int | None) -> Header:
    """Header of an open NIfTI file; no pixel is read."""
    parsed = parse(Stream(file, source))
    return _header(parsed, len(_pick(parsed, channel, source)))[0]


def read(file: BinaryIO, source: Source, *, channel: int | None) -> Volume:
    """Reads an open NIfTI file to its last byte; see `comodal.data.reading.read_volume`."""
    stream = Stream(file, source)
    parsed = parse(stream)
    wanted = _pick(parsed, channel, source)
    size = parsed.volume_bytes
    done = stream.skip(parsed.offset - parsed.raw.sizeof_hdr + wanted.start * size)
    flat = np.empty(math.prod(parsed.shape) * len(wanted), dtype=parsed.dtype)
    done += stream.fill(flat.view(np.uint8))
    done += stream.skip((parsed.volumes - wanted.stop) * size)
    need = parsed.offset - parsed.raw.sizeof_hdr + parsed.volumes * size
    if done < need:
        raise source.error(f"hold {need} bytes of image", f"{done} bytes", do=COPY_AGAIN)
    stream.finish()
    header, orientation = _header(parsed, len(wanted), tuple(stream.warnings))
    array = np.empty((len(wanted), *header.shape), header.dtype)
    for volume, one in zip(array, flat.reshape((len(wanted), *parsed.shape[::-1])), strict=True):
        scaled = _scaled(one.T, parsed.scale)
        check_finite(source, scaled)
        volume[...] = orientations.apply_orientation(scaled, orientation)
    stored = parsed.stored if parsed.volumes == 1 else parsed.shape
    return Volume(array, header, Geometry("nifti", stored, parsed.affine, orientation, parsed.raw))


def _scaled(array: Array, scale: tuple[float, float] | None) -> Array:
    if scale is None:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    out = np.empty(array.shape, dtype=np.float32, order="F")
    for z in range(array.shape[2]):  # in float64, since slopes as small as 1e-10 on 32-bit integers occur; a slice at a time
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused by who asked
            out[..., z] = array[..., z].astype(np.float64) * scale[0] + scale[1]
    return out


def write(array: Array, geometry: Geometry, path: Path) -> Path:
    """Writes an (X, Y, Z) array in RAS order as `<path>.nii.gz` in the frame of the file it belongs to."""
    back = orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), geometry.orientation)
    data = orientations.apply_orientation(array, back).reshape(geometry.shape, order="F")
    header = geometry.header.as_byteswapped("<")
    header.set_data_dtype(data.dtype)
    header["dim"][0] = len(geometry.shape)
    header["dim"][1:] = [*geometry.shape, *[1] * (7 - len(geometry.shape))]
    header["vox_offset"] = 352 if header.sizeof_hdr == 348 else 544
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"], header["cal_max"], header["intent_code"] = 0, 0, 0
    for field in {"descrip", "aux_file", "intent_name", "db_name", "data_type"} & set(header.keys()):
        header[field] = b""  # free text of the input may name the patient
    target = path.with_name(path.name + ".nii.gz")
    # No file name and no time in the gzip header: equal predictions are equal bytes.
    with replacing(target) as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed:
        packed.write(header.binaryblock + b"\0\0\0\0")
        packed.write(data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes(order="F"))
    return target
