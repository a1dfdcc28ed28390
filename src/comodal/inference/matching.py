"""Scores of images with reports, in parts that fit in memory. The files of both are read before; here is what the method says.

Axis letters: B images, R reports, S sentences, N regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comodal.batch import Sample, Text, collate
from comodal.errors import ConfigError, UnsupportedSubset, message
from comodal.inference.predictor import Device, evaluating
from comodal.information.local_images import soft_maximum
from comodal.method import Matches, Method, Problem

Floats = NDArray[np.float64]
_Value = TypeVar("_Value")
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
    spoken: Floats | None = None,
    maps: bool = False,
    device: Device = "cpu",
) -> Scores:
    """Scores of all images with all reports.

    Args:
        method: On `device`; it is run in eval mode and left in the mode in which it was.
        samples: B images; nothing else of them is put into a batch.
        texts: R reports, (S, L) each.
        name: The modality of the reports.
        levels: (B, N) or (B, 1), what is taken off the scores of a region or image, see `levels_of`; a report then scores the
            mean over its sentences of the (soft) maximum over regions. None leaves all as the method says.
        spoken: (R, S) or (R, 1), what is taken off the scores of a sentence or report, see `levels_of_sentences`.
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
                said = None if spoken is None else torch.from_numpy(spoken[start : start + REPORTS, : text.ids.shape[1]])
                reports, sentences = _off(found, off, said)
                row.append(reports.numpy())
                grid = tuple(found.grid)
                if maps and sentences is not None:
                    kept.append(sentences.float().numpy())
            rows.append(np.concatenate(row, axis=1))
    parts = -(-len(texts) // REPORTS)
    return Scores(np.concatenate(rows), _joined(kept, parts) if kept else None, grid)


def _off(found: Matches, levels: Tensor | None, spoken: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Scores of reports, in float64, and of sentences, on the CPU, without their levels."""
    reports, sentences = found.reports.double().cpu(), None if found.sentences is None else found.sentences.cpu()
    if levels is None and spoken is None:
        return reports, sentences
    if sentences is None:
        reports = reports if levels is None else reports - levels  # (B, 1)
        return reports if spoken is None else reports - spoken[:, 0], None
    sentences = sentences if levels is None else sentences - levels[:, None, None].to(sentences.dtype)
    sentences = sentences if spoken is None else sentences - spoken[:, :, None].to(sentences.dtype)
    return soft_maximum(sentences, found.temperature, dim=3).nanmean(dim=2).double(), sentences


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
    some = _spread([sentence for text in reports for sentence in _sentences(text) if sentence.attention.any()], most)
    maps = scores_of(method, samples, some, name=name, maps=True, device=device).sentences
    if maps is None:
        wholes = torch.from_numpy(scores_of(method, samples, _spread(reports, most), name=name, device=device).reports)
        return np.asarray((wholes.logsumexp(dim=1, keepdim=True) - math.log(wholes.shape[1])).numpy())
    scores = torch.from_numpy(maps[:, :, 0]).double()
    return np.asarray((scores.logsumexp(dim=1) - math.log(scores.shape[1])).numpy())


def levels_of_sentences(
    method: Method,
    samples: Sequence[Sample],
    texts: Sequence[Text],
    *,
    name: str,
    most: int = 256,
    device: Device = "cpu",
) -> Floats:
    """What a sentence scores with any image: log mean exp over images of its score with each, the (soft) maximum over regions.

    A critic that learned by InfoNCE among images is the log ratio of densities plus any function of the sentence, so that
    sentences can be compared only once this is taken off. It is one number for all regions of all images.

    Args:
        method: On `device`.
        samples: At least one image.
        texts: R reports.
        name: The modality of the reports.
        most: At most so many images, spread evenly.
        device: Where the method is.

    Returns:
        (R, S) float64, NaN where there is no sentence; (R, 1) of a method without regions, of whole reports.
    """
    some = _spread(samples, most)
    wholes = not scores_of(method, some[:1], texts[:1], name=name, device=device).grid
    parts = [[text] if wholes else _sentences(text) for text in texts]
    distinct = {_tokens(part): part for own in parts for part in own if part.attention.any()}
    scores = torch.from_numpy(scores_of(method, some, list(distinct.values()), name=name, device=device).reports)
    values = dict(zip(distinct, (scores.logsumexp(dim=0) - math.log(len(some))).tolist(), strict=True))
    out = np.full((len(texts), max(map(len, parts))), np.nan)
    for row, own in zip(out, parts, strict=True):
        row[: len(own)] = [values.get(_tokens(part), np.nan) for part in own]
    return out


def _sentences(text: Text) -> list[Text]:
    return [Text(text.ids[[s]], text.attention[[s]]) for s in range(len(text.ids))]


def _tokens(text: Text) -> tuple[int, ...]:
    return tuple(text.ids[text.attention].tolist())


def _spread(values: Sequence[_Value], most: int) -> list[_Value]:
    places = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int))
    return [values[place] for place in places]


def _joined(kept: Sequence[NDArray[np.float32]], parts: int) -> NDArray[np.float32]:
    """Blocks of images and reports, `parts` of reports each, as one (B, R, S, N); fewer sentences are filled with NaN."""
    longest = max(block.shape[2] for block in kept)
    full = [np.pad(b, ((0, 0), (0, 0), (0, longest - b.shape[2]), (0, 0)), constant_values=np.nan) for b in kept]
    rows = [np.concatenate(full[at : at + parts], axis=1) for at in range(0, len(full), parts)]
    return np.concatenate(rows)
