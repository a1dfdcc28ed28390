"""Scores of images with reports, in parts that fit in memory. The files of both are read before; here is what the method says.

Axis letters: B images, R reports, S sentences, N regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comodal.batch import Sample, Text, collate
from comodal.errors import ConfigError, UnsupportedSubset, message
from comodal.inference.predictor import Device, evaluating
from comodal.method import Matches, Method, Problem

Floats = NDArray[np.float64]
IMAGES, REPORTS = 64, 256  # at most, at once
VOXELS = 2**23  # of the images at once: 64 pictures of 362 x 362


@dataclass(frozen=True, eq=False)
class Scores:
    """What `Method.match` says of B images and R reports.

    Attributes:
        reports: (B, R) float64.
        sentences: (B, R, S, N) float32, NaN where there is no sentence; None where nobody asked, or the method has no regions.
        grid: Regions along each axis of the image.
    """

    reports: NDArray[np.float64]
    sentences: NDArray[np.float32] | None
    grid: tuple[int, ...]


def require_matches(method: Method) -> None:
    """Refuses a method that did not learn images and reports together, and names those that do.

    Raises:
        ConfigError: It has no `match`.
    """
    if method.matches:
        return
    from comodal.methods import METHODS, load_method  # heavy, and only for this message

    can = [name for name in METHODS if load_method(name).match is not Method.match]
    do = f"Train one of these on images and reports: {', '.join(can)}" if can else "No method of this version does"
    rule = "be one that scores how well an image and a report belong together"
    raise ConfigError(message("RUN's method", rule, type(method).__name__, do=do))


def images_and_text(problem: Problem) -> tuple[tuple[str, ...], str]:
    """The images and the report of a problem.

    Raises:
        UnsupportedSubset: It lacks either.
    """
    images = tuple(m.name for m in problem.modalities if m.kind == "image")
    texts = [m.name for m in problem.modalities if m.kind == "text"]
    if not images or not texts:
        rule = "have an image and a text among its modalities"
        do = "Match a run that was trained on both"
        raise UnsupportedSubset(message("RUN", rule, ", ".join(problem.names) or "nothing", do=do))
    return images, texts[0]


def texts_of(problem: Problem, name: str, texts: Sequence[Text]) -> Text:
    """Reports as one `Text` (R, S, L).

    Args:
        problem: Has the modality.
        name: A modality of kind text.
        texts: Of each report, (S, L).
    """
    samples = [Sample(id=str(number), group=str(number), inputs={name: text}) for number, text in enumerate(texts)]
    found = collate(samples, [problem.modality(name)]).inputs[name]
    assert isinstance(found, Text)
    return found


@torch.no_grad()
def scores_of(
    method: Method,
    samples: Sequence[Sample],
    texts: Sequence[Text],
    *,
    name: str,
    levels: Floats | None = None,
    maps: bool = False,
    device: Device = "cpu",
) -> Scores:
    """Scores of all images with all reports.

    Args:
        method: On `device`; it is run in eval mode and left in the mode in which it was.
        samples: B images; nothing else of them is put into a batch.
        texts: R reports, (S, L) each.
        name: The modality of the reports.
        levels: What is taken off the scores, see `levels_of`; a report then scores the mean over its sentences of the maximum
            over regions. None leaves all as the method says.
        maps: Whether the scores of sentences at regions are kept.
        device: Where the method is.
    """
    problem, rows = method.problem, []
    kept: list[NDArray[np.float32]] = []
    grid: tuple[int, ...] = ()
    size = min(IMAGES, max(1, VOXELS // math.prod(problem.patch or (1,))))
    with evaluating(method):
        for first in range(0, len(samples), size):
            chosen = samples[first : first + size]
            batch = collate(chosen, problem.modalities, patch=problem.patches).to(device)
            off = None if levels is None else torch.from_numpy(levels[first : first + size])
            row = []
            for start in range(0, len(texts), REPORTS):
                text = texts_of(problem, name, texts[start : start + REPORTS])
                found = method.match(batch, text.to(device))
                reports, sentences = _off(found, off)
                row.append(reports.numpy())
                grid = tuple(found.grid)
                if maps and sentences is not None:
                    kept.append(sentences.float().numpy())
            rows.append(np.concatenate(row, axis=1))
    parts = -(-len(texts) // REPORTS)
    return Scores(np.concatenate(rows), _joined(kept, parts) if kept else None, grid)


def _off(found: Matches, levels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Scores of reports, in float64, and of sentences, on the CPU, without their levels."""
    reports, sentences = found.reports.double().cpu(), None if found.sentences is None else found.sentences.cpu()
    if levels is None:
        return reports, sentences
    if sentences is None:
        return reports - levels, None
    sentences = sentences - levels[:, None, None].to(sentences.dtype)
    return sentences.amax(dim=3).nanmean(dim=2).double(), sentences


def levels_of(
    method: Method,
    samples: Sequence[Sample],
    reports: Sequence[Text],
    *,
    name: str,
    most: int = 256,
    device: Device = "cpu",
) -> Floats:
    """What an image, or each region of it, scores with anything: log mean exp of its scores with the sentences of some reports.

    A critic that learned by InfoNCE among sentences is the log ratio of densities plus any function of the region (van den Oord
    et al. 2018, Equation 5), so that regions, and images, can be compared only once this is taken off. For a critic of the
    other bounds it is nearly constant.

    Args:
        method: On `device`.
        samples: B images.
        reports: At least one. Their sentences count as often as they occur.
        name: The modality of the reports.
        most: At most so many sentences, or reports, spread evenly.
        device: Where the method is.

    Returns:
        (B, N) float64, or (B, 1) of a method without regions, from whole reports.
    """
    every = [Text(text.ids[[s]], text.attention[[s]]) for text in reports for s in range(len(text.ids))]
    some = _spread([text for text in every if text.attention.any()], most)
    distinct: dict[tuple[int, ...], int] = {}
    keys = [tuple(text.ids[text.attention].tolist()) for text in some]
    rows = [distinct.setdefault(key, len(distinct)) for key in keys]
    texts = [some[rows.index(place)] for place in range(len(distinct))]
    maps = scores_of(method, samples, texts, name=name, maps=True, device=device).sentences
    if maps is None:
        wholes = torch.from_numpy(scores_of(method, samples, _spread(reports, most), name=name, device=device).reports)
        return np.asarray((wholes.logsumexp(dim=1, keepdim=True) - math.log(wholes.shape[1])).numpy())
    shares = torch.bincount(torch.tensor(rows)).double() / len(rows)
    scores = torch.from_numpy(maps[:, :, 0]).double() + shares.log()[None, :, None]
    return np.asarray(scores.logsumexp(dim=1).numpy())


def _spread(values: Sequence[Text], most: int) -> list[Text]:
    places = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int))
    return [values[place] for place in places]


def _joined(kept: Sequence[NDArray[np.float32]], parts: int) -> NDArray[np.float32]:
    """Blocks of images and reports, `parts` of reports each, as one (B, R, S, N); fewer sentences are filled with NaN."""
    longest = max(block.shape[2] for block in kept)
    full = [np.pad(b, ((0, 0), (0, 0), (0, longest - b.shape[2]), (0, 0)), constant_values=np.nan) for b in kept]
    rows = [np.concatenate(full[at : at + parts], axis=1) for at in range(0, len(full), parts)]
    return np.concatenate(rows)
