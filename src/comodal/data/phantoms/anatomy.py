"""A cartoon of a healthy brain: hemispheres with folded cortex, white matter, ventricles, deep nuclei, cerebellum, brain stem.

Coordinates p = (x, y, z) are mm in the brain's own frame: x to the left, y to the back (the array order of BraTS, LPS), z up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from comodal.data.phantoms.fields import Axes, Field, Points, Triple, ellipsoid, smooth_noise, step, union

Push = Callable[[Points], Points]


@dataclass(frozen=True)
class Subject:
    """What makes one brain differ from the next.

    Attributes:
        scale: Size along X, Y, Z relative to the average.
        shift: Position in the field of view (mm).
        tilt: Head rotation about Z and X (radians).
        ventricles: Width of the ventricles relative to the average.
        sulci: Half-width of the sulci (mm): atrophy.
        cortex: Thickness of the cortex (mm).
        hyperintensities: Load of white-matter hyperintensities, 0 (none) to 1.
        vessels: Radius of the vessels (mm).
    """

    scale: Triple
    shift: Triple
    tilt: tuple[float, float]
    ventricles: float
    sulci: float
    cortex: float
    hyperintensities: float
    vessels: float


@dataclass(frozen=True)
class Anatomy:
    """Fractions of tissue on the fine grid; those of csf, grey and white sum to 1 within the brain.

    Attributes:
        brain: Depth below the surface of the brain (mm, positive inside).
        csf, grey, white: Fractions in [0, 1].
        hyperintensities: Fraction of white matter that is bright in FLAIR without being tumour.
        vessels: Fraction of voxels that take up contrast agent without being tumour.
    """

    brain: Field
    csf: Field
    grey: Field
    white: Field
    hyperintensities: Field
    vessels: Field


def draw_subject(rng: np.random.Generator) -> Subject:
    """A random subject."""
    size = rng.uniform(0.92, 1.04)
    scale = tuple(size * rng.uniform(0.96, 1.04) for _ in range(3))
    return Subject(
        scale=(scale[0], scale[1], min(scale[2], 1.06)),
        shift=(rng.uniform(-4, 4), rng.uniform(-6, 6), rng.uniform(-3, 3)),
        tilt=(rng.uniform(-0.07, 0.07), rng.uniform(-0.07, 0.07)),
        ventricles=float(np.exp(rng.uniform(-0.35, 0.4))),
        sulci=rng.uniform(0.5, 1.3),
        cortex=rng.uniform(2.6, 3.4),
        hyperintensities=rng.uniform(0, 1),
        vessels=rng.uniform(1.3, 2.2),
    )


def place(subject: Subject, axes: Axes, rng: np.random.Generator) -> Points:
    """Takes voxels to the brain's own frame: shift, tilt, size, and a smooth deformation that no two subjects share."""
    x, y, z = (
        (a.astype(np.float32) - np.float32(s)).reshape(tuple(-1 if i == k else 1 for i in range(3)))
        for k, (a, s) in enumerate(zip(axes, subject.shift, strict=True))
    )
    (cz, sz), (cx, sx) = ((np.float32(np.cos(a)), np.float32(np.sin(a))) for a in subject.tilt)
    x, y = cz * x - sz * y, sz * x + cz * y
    y, z = cx * y - sx * z, sx * y + cx * z
    turned = (x, y, z)
    out = [
        value / np.float32(scale) + np.float32(2.5) * smooth_noise(rng, axes, scale=45)
        for value, scale in zip(turned, subject.scale, strict=True)
    ]
    return out[0], out[1], out[2]


def build_anatomy(subject: Subject, axes: Axes, *, p: Points, push: Push, rng: np.random.Generator) -> Anatomy:
    """Draws the healthy brain.

    Args:
        subject: Who.
        axes: Fine coordinates along each axis (mm), for the noise.
        p: Coordinates of the fine voxels in the brain's own frame.
        push: Mass effect: takes a point to where its tissue was before a tumour pushed it aside.
        rng: Source of the folds, vessels and spots.
    """
    surface, cerebrum, cerebellum, stem = outline(p)
    inner = push(p)
    folds = cerebrum - np.float32(1.2)
    folds = np.minimum(folds, sulci(p, cerebrum, subject=subject, rng=rng))
    folds = np.minimum(folds, fissures(inner, subject))
    lobules = folia(inner, cerebellum)
    pial = union(folds, lobules, stem)
    white = union(folds - np.float32(subject.cortex), lobules - np.float32(1.8), stem - np.float32(0.5))
    ventricle, plexus = ventricles(inner, subject.ventricles)
    deep = step(union(*(ellipsoid(inner, c, s) for c, s in both_sides(NUCLEI))), width=3)
    csf = np.maximum(1 - step(pial), step(ventricle))
    # Deep nuclei are a mixture of cell bodies and fibres; a share of three quarters gives them their in-between grey.
    grey = (1 - csf) * np.maximum(1 - step(white), np.float32(0.75) * deep * step(cerebrum - 12))
    spots = hyperintensities(axes, ventricle, depth=cerebrum, load=subject.hyperintensities, rng=rng)
    vessels = union(tubes(axes, subject.vessels, rng) - 2 * step(pial - 8), sinuses(p, surface), plexus)
    wm = 1 - csf - grey
    return Anatomy(surface, csf, grey, wm, spots * wm, step(vessels) * step(surface - 1))


NUCLEI: tuple[tuple[Triple, Triple], ...] = (
    ((11, 10, 4), (8, 14, 9)),  # thalamus
    ((25, -4, 2), (5, 16, 9)),  # putamen
    ((13, -20, 8), (5, 9, 8)),  # head of the caudate
)
VENTRICLES: tuple[tuple[Triple, Triple], ...] = (
    ((9, -20, 12), (5.5, 16, 8)),  # frontal horn
    ((12, 4, 16), (6, 26, 7)),  # body
    ((18, 27, 10), (7, 12, 10)),  # trigone
    ((23, 42, 6), (4.5, 14, 6)),  # occipital horn
    ((31, 14, -10), (4, 15, 3.5)),  # temporal horn
)


def both_sides(bodies: tuple[tuple[Triple, Triple], ...]) -> list[tuple[Triple, Triple]]:
    """Bodies and their mirror images."""
    return [((side * c[0], c[1], c[2]), s) for c, s in bodies for side in (1, -1)]


def outline(p: Points) -> tuple[Field, Field, Field, Field]:
    """Depth below the surfaces of the brain, the cerebrum, the cerebellum and the brain stem (mm, positive inside)."""
    x, y, z = p
    # The head is an egg seen from above, wider behind; its base is flatter than its vault.
    narrow = np.float32(1) - np.float32(0.06) * np.clip((np.float32(-10) - y) / np.float32(70), -0.6, 1)
    egg = (x / narrow, y, np.where(z > 0, z, z * np.float32(1.6)))
    lobes = union(*(ellipsoid(p, c, s) for c, s in both_sides((((41, -6, -22), (20, 37, 19)),))))
    cerebellum = ellipsoid(p, (0, 47, -37), (50, 31, 22))
    stem = ellipsoid(p, (0, 20, -40), (12, 12, 32))
    cerebrum = union(ellipsoid(egg, (0, -1, 4), (66, 82, 60)), lobes)
    cerebrum = np.minimum(cerebrum, -cerebellum - np.float32(1.5))  # the tentorium
    # The gap of the tentorium is fluid, not background.
    return union(cerebrum, cerebellum + np.float32(1.5), stem + 1), cerebrum, cerebellum, stem


def sulci(p: Points, depth: Field, *, subject: Subject, rng: np.random.Generator) -> Field:
    """Distance to the sulci: the zero sheets of a noise that is constant along rays from the middle of each hemisphere."""
    from scipy.ndimage import map_coordinates

    x, y, z = p
    # A coarse table of signed distances (value over slope), read once per voxel along its ray.
    pitch, reach, ball = 2.0, 80.0, 58.0
    line = np.arange(-reach, reach + pitch, pitch)
    noise = smooth_noise(rng, (line, line, line), scale=10.5)
    slope = np.sqrt(sum((g * g for g in np.gradient(noise, pitch)), start=np.float32(0)))
    table = np.clip(noise / np.maximum(slope, np.float32(0.03)), -15, 15)
    rx, ry, rz = x - np.where(x > 0, np.float32(24), np.float32(-24)), y * np.float32(0.8), z - np.float32(2)
    radius = np.sqrt(rx * rx + ry * ry + rz * rz) + np.float32(1e-3)
    # A little of the radius stays in, so that sulci bend on their way down.
    ray = np.float32(ball) / radius * np.float32(0.85) + np.float32(0.15)
    where = [(r * ray + np.float32(reach)) / np.float32(pitch) for r in (rx, ry, rz)]
    sheet = np.abs(map_coordinates(table, where, order=1, mode="nearest", output=np.float32)) * np.minimum(radius / ball, 1)
    bottom = np.float32(16) + np.float32(4) * np.sin(y / np.float32(9) + np.float32(rng.uniform(0, 6))) * np.cos(
        z / np.float32(11)
    )
    below = np.maximum(depth - bottom, 0)
    width = np.float32(subject.sulci) * np.clip(np.float32(1.3) - depth / np.float32(16), 0.3, 1.3)
    return np.asarray(np.sqrt(sheet * sheet + below * below) - width, dtype=np.float32)


def fissures(p: Points, subject: Subject) -> Field:
    """Distance to the fissure between the hemispheres, the Sylvian fissures and the cisterns at the base (mm)."""
    x, y, z = p
    callosum = np.maximum(ellipsoid(p, (0, 0, 2), (60, 46, 25)), 0)
    middle = np.sqrt(x * x + callosum * callosum) - np.float32(subject.sulci + 0.3)
    rising = (x, y, z - np.float32(0.6) * (y + 8))  # the Sylvian fissure climbs towards the back
    sylvian = union(
        *(ellipsoid(rising, c, s) for c, s in both_sides((((49, -6, -3), (13, 20, 2.0)), ((37, -6, -1), (1.8, 15, 10)))))
    )
    cistern = ellipsoid(p, (0, -8, -25), (11, 11, 5))
    return np.asarray(np.minimum(middle, -union(sylvian, cistern)), dtype=np.float32)


def folia(p: Points, depth: Field) -> Field:
    """Distance to the pia of the cerebellum, with its fine parallel folds (mm, positive inside)."""
    x, y, z = p
    level = (z + np.float32(0.25) * np.abs(x) + np.float32(0.35) * (y - 47)) / np.float32(7.5)
    sheet = np.abs(level - np.floor(level) - np.float32(0.5)) * np.float32(7.5)
    below = np.maximum(depth - 11, 0)
    fold = np.sqrt(sheet * sheet + below * below) - np.float32(0.3)
    fourth = -ellipsoid(p, (0, 31, -33), (6, 5, 9))
    return np.asarray(np.minimum(np.minimum(depth - np.float32(0.8), fold), fourth), dtype=np.float32)


def ventricles(p: Points, size: float) -> tuple[Field, Field]:
    """Distance to the surface of the ventricles, and of the choroid plexus within them (mm, positive inside)."""
    sized = tuple((c, (s[0] * size, s[1] * (0.7 + 0.3 * size), s[2] * size)) for c, s in VENTRICLES)
    third: tuple[Triple, Triple] = ((0, 6, 2), (2.2 * size, 14, 9))
    lateral = union(*(ellipsoid(p, c, s) for c, s in both_sides(sized)))
    # A thin wall, the septum, parts the two frontal horns.
    wall = np.abs(p[0]) - np.float32(1.2)
    plexus = union(*(ellipsoid(p, c, s) for c, s in both_sides((((20, 27, 9), (3, 7, 4)),))))
    return union(np.minimum(lateral, wall), ellipsoid(p, *third)), np.minimum(plexus, lateral)


def hyperintensities(axes: Axes, ventricle: Field, *, depth: Field, load: float, rng: np.random.Generator) -> Field:
    """Fraction of white-matter hyperintensity: caps around the ventricles and scattered spots, more of both with `load`."""
    near = np.float32(1) - np.clip(-ventricle / np.float32(30), 0, 1)
    noise = smooth_noise(rng, axes, scale=13)
    spots = step(noise - np.float32(3.0 - 1.1 * load) + np.float32(0.9) * near, width=0.35) * step(depth - 9, width=4)
    caps = step(np.float32(4.5 * load) + ventricle + np.float32(1.5) * noise, width=2)
    return np.asarray(np.maximum(spots, caps * np.float32(0.8)), dtype=np.float32)


def tubes(axes: Axes, radius: float, rng: np.random.Generator) -> Field:
    """Distance to random vessels (mm, positive inside): curves where two smooth noises vanish together."""
    first, second = smooth_noise(rng, axes, scale=22), smooth_noise(rng, axes, scale=22)
    # The mean slope of such a noise is about 1.3 per lattice step: this makes a distance of its value.
    return np.asarray(np.float32(radius) - np.float32(22 / 1.3) * np.hypot(first, second), dtype=np.float32)


def sinuses(p: Points, depth: Field) -> Field:
    """Distance to the superior sagittal and transverse sinuses, as far as skull stripping has left them (mm)."""
    x, y, z = p
    sagittal = np.float32(3.2) - np.sqrt(x * x + (depth - np.float32(2.5)) ** 2) - 50 * (z < np.float32(5))
    level = z + np.float32(16) + np.float32(0.1) * np.abs(x)
    transverse = np.float32(3.0) - np.sqrt(level * level + (depth - np.float32(2.5)) ** 2) - 50 * (y < np.float32(35))
    return union(sagittal.astype(np.float32), transverse.astype(np.float32))
