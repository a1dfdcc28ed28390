"""The table of phantoms, and the material of which they are made."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from comodal.data.phantoms import PHANTOMS, load_phantom
from comodal.data.phantoms.anatomy import outline
from comodal.data.phantoms.brain import BrainPhantom, write_brain
from comodal.data.phantoms.fields import ellipsoid, points, smooth_noise
from comodal.errors import ConfigError


def test_the_table_loads_and_refuses_unknown_names() -> None:
    assert PHANTOMS["brain"].layout == "brats"
    assert load_phantom("brain") == (write_brain, BrainPhantom)
    with pytest.raises(ConfigError, match=r"phantom must be a known phantom; got 'brian'. Did you mean brain\?"):
        load_phantom("brian")


def test_the_table_imports_nothing_heavy() -> None:
    code = "import sys, comodal.data.phantoms; print({'torch', 'scipy', 'nibabel', 'monai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_noise_has_unit_deviation_and_does_not_depend_on_the_grid() -> None:
    line = np.linspace(-100, 100, 41)
    some = (line[::4], line[3:30:3], line[5:6])
    whole, part = (smooth_noise(np.random.default_rng(1), axes, scale=12) for axes in ((line, line, line), some))
    np.testing.assert_array_equal(part, whole[::4, 3:30:3, 5:6])
    assert abs(whole.std() - 1) < 0.1
    assert abs(whole.mean()) < 0.1
    # Smooth: neighbours 5 mm apart differ by much less than voxels far apart do.
    assert np.diff(whole, axis=0).std() < 0.7


def test_ellipsoid_distance_is_that_of_a_sphere() -> None:
    line = np.linspace(-20, 20, 21)
    p = points((line, line, line))
    radius = np.sqrt((p[0] - 2) ** 2 + p[1] ** 2 + p[2] ** 2)
    np.testing.assert_allclose(ellipsoid(p, (2, 0, 0), (9, 9, 9)), 9 - radius, atol=0.02)


def test_outline_is_symmetric_and_of_the_size_of_a_head() -> None:
    line = np.arange(-99, 100, 3.0)
    brain = outline(points((line, line, line)))[0] > 0
    np.testing.assert_array_equal(brain, brain[::-1])
    extent = np.ptp(np.argwhere(brain), axis=0) * 3
    np.testing.assert_allclose(extent, (132, 165, 135), atol=12)  # mm
