"""Writes MetaImage (.mha) files for phantoms; equal arrays give equal bytes."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {"uint8": "MET_UCHAR", "int16": "MET_SHORT", "uint16": "MET_USHORT", "int32": "MET_INT", "float32": "MET_FLOAT"}


def mha(array: NDArray[Any], affine: NDArray[np.float64], *, packed: bool = True) -> bytes:
    """A .mha file as bytes, laid out as ITK writes it.

    Args:
        array: (X, Y, Z) of a type in TYPES.
        affine: (4, 4), voxel to RAS mm; its axes at right angles. The file holds LPS mm.
        packed: Whether the voxels are packed by zlib.

    >>> mha(np.zeros((2, 1, 1), np.uint8), np.eye(4), packed=False).splitlines()[4:7]
    [b'CompressedData = False', b'TransformMatrix = -1 0 0 0 -1 0 0 0 1', b'Offset = 0 0 0']
    """
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    voxels = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    block = zlib.compress(voxels, 4) if packed else voxels
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(packed),
        **({"CompressedDataSize": str(len(block))} if packed else {}),
        "TransformMatrix": _words((lps[:3, :3] / spacing).T),
        "Offset": _words(lps[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _words(spacing),
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": TYPES[array.dtype.name],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode() + block


def _words(numbers: NDArray[np.float64]) -> str:
    return " ".join(f"{number + 0.0:.17g}" for number in numbers.ravel())  # -0.0 to 0.0
