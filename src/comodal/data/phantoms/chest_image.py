"""The pictures of the chest phantom: a frontal and a lateral view of the same contrasts."""

from __future__ import annotations

import numpy as np

from comodal.data.phantoms.chest_anatomy import Anatomy, Frame, above, grid, plain, texture
from comodal.data.phantoms.chest_model import FINDINGS, Causes, Chances, Floats, Signs
from comodal.data.phantoms.chest_signs import AMPLITUDES, TEMPLATES, oedema, template

HEART_GROWTH = 0.34  # what a visible cardiomegaly of median contrast adds to the width of the heart, as a share
SHOULDER = 0.75
NOISE = 0.016  # deviation of the quanta at 128 pixels


def contrast_share(signs: Signs, chances: Chances, j: int) -> Floats:
    """(S,) contrast of finding j at each site in units of a visible one; of edema, in units of one grade."""
    distance = float(chances.grade_distances()[1]) if j == 0 else chances.distance(FINDINGS[j])
    return np.asarray(signs.contrasts[0] / distance)


def growth(causes: Causes, chances: Chances) -> float:
    """By what share the heart is wider than a normal one."""
    hearts = [j for j, finding in enumerate(FINDINGS[: len(causes.signs)]) if finding.name == "Cardiomegaly"]
    return HEART_GROWTH * float(contrast_share(causes.signs[hearts[0]], chances, hearts[0])[0]) if hearts else 0.0


def frontal(causes: Causes, chances: Chances, frame: Frame, *, seed: tuple[int, int], noise: np.random.Generator) -> Floats:
    """The picture of one case before it is rounded: (size, size) in 0 (black) to 1.

    Args:
        causes: Of one case.
        chances: Of the model.
        frame: The body on the pixels.
        seed: (seed, case): the stream of the texture of each finding.
        noise: Stream of the quantum noise.
    """
    return expose(frame, density(causes, chances, frame, seed=seed), noise)


def density(causes: Causes, chances: Chances, frame: Frame, *, seed: tuple[int, int]) -> Floats:
    """What stops the rays of the frontal picture. Arguments: as for `frontal`."""
    out = plain(frame, growth(causes, chances))
    for j, signs in enumerate(causes.signs):
        shares = contrast_share(signs, chances, j)
        if FINDINGS[j].name == "Edema":
            out += oedema(frame, float(shares[0]), np.random.default_rng([*seed, 60]))
        elif FINDINGS[j].name in TEMPLATES:
            for site in range(len(shares)):
                if shares[site] > 0:
                    out += AMPLITUDES[FINDINGS[j].name] * shares[site] * template(frame, signs, j, site=site, seed=seed)
    return out


def film(light: Floats) -> Floats:
    """The film's curve: straight up to SHOULDER, then ever flatter below 1, so that what is dense still differs."""
    room = 1 - SHOULDER
    return np.where(light < SHOULDER, light, 1 - room * np.exp(-np.maximum(light - SHOULDER, 0) / room))


def expose(frame: Frame, density: Floats, noise: np.random.Generator) -> Floats:
    """The film: gain and offset of the exposure, the marker, noise of the quanta that grows as pixels shrink."""
    a, size = frame.anatomy, len(density)
    image = film(a.offset + a.gain * density)
    image += NOISE * min(2.0, size / 128) * noise.standard_normal(density.shape)
    x, y = grid(size)
    along = -x if a.marker else x
    letter = ((np.abs(along - 0.88) < 0.018) & (np.abs(y + 0.80) < 0.07)) | (
        (np.abs(along - 0.91) < 0.045) & (np.abs(y + 0.75) < 0.02)
    )
    return np.clip(np.where(letter, 0.97, image), 0, 1)


def lateral(causes: Causes, chances: Chances, anatomy: Anatomy, *, size: int, noise: np.random.Generator) -> Floats:
    """The view from the side: spine on the right, heart in front, both lungs on each other, findings as clouds at their height.

    Args:
        causes: Of one case.
        chances: Of the model.
        anatomy: The body and the film.
        size: Pixels along each side.
        noise: Stream of the quantum noise, and of what this view has of its own.
    """
    x, y = grid(size)
    body = above(1 - np.hypot(x / 0.80, (y - 0.1) / 1.25), 0.03)
    floor = anatomy.base[0] + 0.02 + 0.35 * np.square(x + 0.1)
    lungs = above(1 - np.hypot((x + 0.02) / 0.62, (y + 0.02) / 0.85), 0.03) * above(floor - y)
    density = 0.58 * body - 0.34 * lungs
    density += (
        0.16 * above(0.10 - np.abs(x - 0.50 + 0.1 * y**2), 0.02) * (0.8 + 0.2 * np.sign(np.cos(2 * np.pi * y / 0.14))) * body
    )
    wide = 0.30 * (1 + growth(causes, chances))
    density += 0.26 * above(1 - np.hypot((x + 0.25) / wide, (y - 0.22) / 0.30), 0.05) * lungs
    density -= 0.10 * above(0.035 - np.abs(x - 0.10), 0.01) * above(-0.15 - y, 0.03)
    heights = {"upper": -0.42, "mid": -0.08, "lower": 0.24}
    for j, signs in enumerate(causes.signs):
        finding, shares = FINDINGS[j], contrast_share(signs, chances, j)
        if finding.name == "Edema":
            density += 0.05 * min(float(shares[0]), 4.0) * lungs * (1 + 0.3 * texture(noise, x, y, scale=0.1))
            continue
        for site in range(len(shares) if finding.name in AMPLITUDES else 0):
            at = (0.25 * signs.jitter[0, site, 0], heights.get(finding.sites[site].split()[-1], 0.35))
            width = 0.05 if finding.name == "Nodule" else 0.16
            cloud = np.exp(-np.square(np.hypot(x - at[0], y - at[1]) / width))
            density += 0.7 * AMPLITUDES[finding.name] * float(shares[site]) * cloud * lungs
    film = Frame(anatomy, x, y, (lungs, lungs), lungs)
    return expose(film, density, noise)
