"""N4 correction of the bias field of MRI (Tustison et al., 2010, IEEE Trans. Med. Imaging 29(6)), by SimpleITK.

The papers that prepare images in this way (HeMIS: Havaei et al., 2016) state no settings. These are ours: ITK's defaults (four
levels of at most 50 iterations), fitted on every fourth voxel along each axis, over the voxels that are not background; the
field is then evaluated, and divided out, at every voxel. One thread, so that the number of cores changes no number.

Axis letters: X Y Z voxels.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt

from comodal.data.geometry import Array
from comodal.errors import ConfigError, message

SHRINK = 4  # every fourth voxel along each axis
LEAST = 8  # voxels along an axis that shrinking leaves, where there are as many


def check_n4_installed(owner: str) -> None:
    """Refuses N4 where SimpleITK, an optional part of comodal, is not installed.

    Args:
        owner: For the error text: who asks for it.

    Raises:
        ConfigError: With the command that installs it.
    """
    if importlib.util.find_spec("SimpleITK") is None:
        do = "Type: pip install 'comodal[itk]'"
        raise ConfigError(message(owner, "have SimpleITK for N4 bias-field correction", "none installed", do=do))


def correct_bias(channel: Array) -> npt.NDArray[np.float64]:
    """Divides the bias field out of one image. Voxels of 0 stay 0.

    Args:
        channel: (X, Y, Z); the field is fitted where values are above 0, since N4 takes their logarithm.

    Returns:
        (X, Y, Z) float64. The image itself where there is nothing to fit: one value, or fewer than two axes.

    Raises:
        ConfigError: SimpleITK is not installed.
    """
    image = np.squeeze(np.asarray(channel, dtype=np.float64))
    values = image[image > 0]
    if image.ndim < 2 or not values.size or values.min() == values.max():
        return np.asarray(channel, dtype=np.float64)
    check_n4_installed("hemis-n4")
    itk: Any = importlib.import_module("SimpleITK")
    whole = itk.GetImageFromArray(image.astype(np.float32))
    inside = itk.GetImageFromArray((image > 0).astype(np.uint8))
    factors = [min(SHRINK, max(1, size // LEAST)) for size in whole.GetSize()]
    small = itk.Shrink(inside, factors)
    if not itk.GetArrayViewFromImage(small).any():  # a few voxels, all of them stepped over
        factors, small = [1] * len(factors), inside
    n4 = itk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.Execute(itk.Shrink(whole, factors), small)
    field = itk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)).astype(np.float64)
    return np.asarray((image / np.exp(field)).reshape(channel.shape))
