"""Pictures of the patients of the PET/CT phantom: the healthy body, painted organ by organ, then the candidates.

A body is a list of solids, each with an HU and a SUV; later ones lie over earlier ones. Around every place where a candidate
can be there is a pad of fat, whether or not one is there, so that the pad says nothing. Brain, heart, kidneys and bladder are
hot in every patient: only their place tells them from a lesion. All lengths are mm, in RAS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from comodal.data.phantoms.fields import Axes, Field, Points, ellipsoid, points, step
from comodal.data.phantoms.petct_scene import PLACES, Candidate, Release, Scene, Triple

AIR_HU, AIR_SUV = -1024.0, 0.02
FAT_HU, FAT_SUV = -95.0, 0.5
PAD: dict[Release, float] = {"autopet": 33.0, "hecktor": 17.0}  # radius of the fat around a place
BLUR = 3.0  # standard deviation of the PET's point spread


@dataclass(frozen=True)
class Solid:
    """A part of the body: an ellipsoid, or where `column` is set an upright cylinder of elliptic section.

    Attributes:
        centre: Its middle.
        semi: Its half-axes; along z half its height.
        hu: In CT.
        suv: In PET.
        spread: Relative standard deviation of its SUV over patients.
        moves: Standard deviation of its centre over patients (mm); of what moves, the half-axes differ by 6 % as well.
        column: See above.
    """

    centre: Triple
    semi: Triple
    hu: float
    suv: float
    spread: float = 0.1
    moves: float = 0.0
    column: bool = False


def _pair(centre: Triple, semi: Triple, *, hu: float, suv: float) -> tuple[Solid, Solid]:
    x, y, z = centre
    return Solid((x, y, z), semi, hu, suv, moves=2), Solid((-x, y, z), semi, hu, suv, moves=2)


def _shell(centre: Triple, semi: Triple, *, column: bool) -> tuple[Solid, ...]:
    """Skin, fat below it, muscle, and fat inside. centre and semi: of the skin."""
    layers = ((0.0, 20.0, 0.6), (4.0, FAT_HU, FAT_SUV), (14.0, 52.0, 0.8), (27.0, FAT_HU, FAT_SUV))
    x, y, z = semi
    return tuple(Solid(centre, (x - depth, y - depth, z), hu, suv, column=column) for depth, hu, suv in layers)


BODIES: dict[Release, tuple[Solid, ...]] = {
    "autopet": (
        *_shell((0, 0, 282), (170, 118, 280), column=True),
        Solid((0, -5, 590), (60, 62, 45), 52, 0.8, column=True),  # neck
        Solid((0, 8, 660), (78, 96, 96), 25, 0.7),
        Solid((0, 8, 662), (71, 89, 88), 900, 0.9),  # skull
        Solid((0, 8, 664), (64, 82, 80), 36, 9.0, spread=0.15),  # brain
        *_pair((76, 0, 420), (54, 72, 98), hu=-820, suv=0.4),  # lungs
        Solid((-22, 22, 385), (42, 38, 42), 44, 4.5, spread=0.4, moves=3),  # heart
        Solid((62, 12, 290), (72, 66, 52), 60, 2.3, spread=0.15, moves=3),  # liver
        Solid((-92, -22, 295), (28, 34, 44), 50, 1.8, moves=3),  # spleen
        *_pair((70, -48, 225), (22, 22, 46), hu=34, suv=4.5),  # kidneys
        *_pair((30, 62, 250), (26, 16, 22), hu=28, suv=1.8),  # bowel
        *_pair((62, 52, 195), (22, 22, 30), hu=28, suv=2.0),
        Solid((0, 22, 72), (36, 32, 28), 6, 14.0, spread=0.4, moves=3),  # bladder
        *_pair((100, -30, 100), (22, 44, 52), hu=340, suv=1.0),  # pelvis
        Solid((0, -68, 325), (19, 19, 262), 260, 1.4, column=True),  # spine
        Solid((-10, -36, 290), (12, 12, 160), 45, 1.6, column=True),  # aorta
    ),
    "hecktor": (
        *_shell((0, -4, 60), (84, 78, 90), column=True),
        Solid((0, 8, 148), (82, 100, 84), 25, 0.7),
        Solid((0, 8, 160), (70, 88, 58), 900, 0.9),  # skull
        Solid((0, 8, 162), (63, 81, 51), 36, 9.0, spread=0.15),  # brain
        Solid((0, -42, 45), (17, 17, 80), 280, 1.2, column=True),  # spine
        *_pair((40, -14, 50), (9, 9, 70), hu=54, suv=0.8),  # deep muscles
        Solid((0, 50, 92), (20, 24, 14), 54, 1.8, spread=0.3),  # tongue
        *_pair((34, 50, 92), (7, 26, 12), hu=600, suv=0.9),  # mandible
        *_pair((62, 0, 118), (11, 16, 14), hu=12, suv=2.6),  # parotid glands
        *_pair((15, 26, 102), (7, 7, 9), hu=46, suv=3.6),  # tonsils
        Solid((0, 34, 40), (16, 14, 12), 60, 2.6, spread=0.4),  # larynx
        Solid((0, 34, 40), (8, 8, 100), -1000, 0.2, column=True),  # airway
    ),
}


def take(scene: Scene, release: Release, axes: Axes, *, modality: str, rng: np.random.Generator) -> Field:
    """A picture without its noise.

    Args:
        scene: The patient.
        release: Which part of the body.
        axes: Centres of the voxels along X, Y, Z (mm).
        modality: "ct" or "pet".
        rng: Of the anatomy: both modalities of a patient get streams of equal state.

    Returns:
        (X, Y, Z) float32 in HU or SUV, the SUV blurred and scaled.
    """
    ct = modality == "ct"
    p = points(axes)
    steps = [abs(float(axis[1] - axis[0])) for axis in axes]
    width = float(np.mean(steps))
    image = np.full(tuple(len(axis) for axis in axes), AIR_HU if ct else AIR_SUV, dtype=np.float32)
    for solid in solids(scene, release, rng):
        _paint(image, _inside(solid, p, width), solid.hu if ct else solid.suv)
    for candidate in (*scene.candidates, *([scene.primary] if scene.primary else [])):
        value = candidate.density if ct else candidate.uptake
        if value is not None:
            _paint(image, step(distance(candidate, p), width=width), value)
    if ct:
        return image
    blurred = ndimage.gaussian_filter(image, [BLUR / step_mm for step_mm in steps], mode="nearest")
    return np.asarray(blurred * np.float32(scene.scale), dtype=np.float32)


def solids(scene: Scene, release: Release, rng: np.random.Generator) -> Iterator[Solid]:
    """The body of a patient, then the fat around every place where a candidate can be, whether or not one is there."""
    for solid in BODIES[release]:
        moves, grows, spread = rng.standard_normal(3), rng.standard_normal(3), rng.standard_normal()
        x, y, z = (p + float(m) * solid.moves for p, m in zip(_placed(solid.centre, scene), moves, strict=True))
        own = np.exp(0.06 * grows) if solid.moves else np.ones(3)
        a, b, c = (float(half * factor * by) for half, factor, by in zip(solid.semi, scene.body, own, strict=True))
        yield replace(solid, centre=(x, y, z), semi=(a, b, c), suv=solid.suv * float(np.exp(solid.spread * spread)))
    radius = PAD[release]
    for place in PLACES[release]:
        yield Solid(_placed(place, scene), (radius, radius, radius), FAT_HU, FAT_SUV)


def _placed(place: Triple, scene: Scene) -> Triple:
    x, y, z = (p * factor + by for p, factor, by in zip(place, scene.body, scene.shift, strict=True))
    return x, y, z


def distance(candidate: Candidate, p: Points) -> Field:
    """Distance to the surface of a candidate (mm), positive inside."""
    return ellipsoid(p, candidate.centre, candidate.semi)


def labels(candidates: tuple[Candidate, ...], axes: Axes) -> NDArray[np.bool_]:
    """Which voxels have their centre in one of the candidates: (X, Y, Z).

    Args:
        candidates: Those that count.
        axes: Centres of the voxels along X, Y, Z (mm).
    """
    inside = np.zeros(tuple(len(axis) for axis in axes), dtype=bool)
    for candidate in candidates:
        inside |= distance(candidate, points(axes)) >= 0
    return inside


def _inside(solid: Solid, p: Points, width: float) -> Field:
    if not solid.column:
        return step(ellipsoid(p, solid.centre, solid.semi), width=width)
    x, y, z = p
    far = (solid.centre[0], solid.centre[1], 0.0)
    # a cylinder is an ellipsoid that is very long, cut off
    side = ellipsoid((x, y, np.zeros((1, 1, 1), np.float32)), far, (solid.semi[0], solid.semi[1], 1e6))
    ends = np.float32(solid.semi[2]) - np.abs(z - np.float32(solid.centre[2]))
    return step(np.minimum(side, ends), width=width)


def _paint(image: Field, inside: Field, value: float) -> None:
    image += inside * (np.float32(value) - image)
