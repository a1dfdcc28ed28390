"""Where the sentences of a run point: the pointing game on phrases whose place is known, and maps to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comodal.batch import Text
from comodal.data.phrases import Phrase, Place
from comodal.errors import ConfigError, DataError, message, nearest
from comodal.evaluation import grounding
from comodal.study.seen import Seen, Work, key_of

FIGURES, PANELS = 6, 7  # cases that are drawn where nobody names one, and sentences of a case


@dataclass(frozen=True, eq=False)
class Panel:
    """One sentence on one image.

    Attributes:
        sentence: As it was read, or as the phrase has it.
        scores: (N,) of the regions.
        places: Where it should point, in shares of the window; () where nobody knows.
        hit: Whether it does, in 0..1; None where nobody knows.
    """

    sentence: str
    scores: NDArray[np.float64]
    places: tuple[Place, ...] = ()
    hit: float | None = None


@dataclass(frozen=True, eq=False)
class DrawnCase:
    """A case with the maps of its sentences. image: (X, Y) as the network saw it; grid: regions along X and Y."""

    subject: str
    image: NDArray[np.float32]
    grid: tuple[int, ...]
    panels: tuple[Panel, ...]


def _places(work: Work, one: Seen, phrase: Phrase) -> tuple[Place, ...]:
    native = work.native(one.case)
    return tuple(grounding.in_window(place, native, one.window) for place in phrase.places)


def point(work: Work, seen: Sequence[Seen], phrases: Sequence[Phrase]) -> dict[str, Any]:
    """The pointing game on the phrases whose case is read and whose place is within the window."""
    number = {one.case.id: place for place, one in enumerate(seen)}
    here = [phrase for phrase in phrases if phrase.subject in number]
    if not here:
        do = nearest(phrases[0].subject, number)
        raise DataError(message("--phrases", "name subjects of the split", repr(phrases[0].subject), do=do))
    sentences = list(dict.fromkeys(phrase.sentence for phrase in here))
    scores = work.scores(seen, work.encode(sentences, "phrases"), maps=True)
    if scores.sentences is None:
        rule = "score sentences at regions, for phrases to be judged"
        do = "Train it with regions (local-mi with level: local), or leave out --phrases"
        raise ConfigError(message("RUN", rule, "a method that sees images as wholes", do=do))
    truth = [grounding.true_regions(_places(work, seen[number[p.subject]], p), scores.grid) for p in here]
    kept = [(phrase, true) for phrase, true in zip(here, truth, strict=True) if true.any()]
    work.notes += _left_out(len(phrases) - len(here), len(here) - len(kept))
    if not kept:
        return {"grid": scores.grid}
    asked = grounding.Asked(
        maps=_of_one_sentence(scores.sentences),
        groups=tuple(one.case.group for one in seen),
        subjects=tuple(one.case.id for one in seen),
        image=np.array([number[phrase.subject] for phrase, _ in kept]),
        sentence=np.array([sentences.index(phrase.sentence) for phrase, _ in kept]),
        truth=np.stack([true for _, true in kept]),
        findings=tuple(phrase.finding for phrase, _ in kept),
    )
    every = grounding.constant_rate(asked.truth, asked.findings)
    return {"grounding": grounding.grounding(asked), "grid": scores.grid, "constant_by_finding": every}


def _of_one_sentence(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """(B, U, S, N) of texts that are a phrase each to (B, U, N): the mean over its sentences, which is mostly one."""
    return np.asarray(np.nanmean(maps.astype(np.float64), axis=2))


def _left_out(elsewhere: int, cropped: int) -> list[str]:
    notes = [f"{elsewhere} phrases are about other cases than these."] if elsewhere else []
    return notes + ([f"{cropped} phrases are left out: their place was cropped away."] if cropped else [])


def draw(
    work: Work, seen: Sequence[Seen], phrases: Sequence[Phrase], *, subjects: Sequence[str] | None = None
) -> tuple[DrawnCase, ...]:
    """The cases that are named, or a few: spread evenly over those with phrases, or with reports."""
    of: dict[str, list[Phrase]] = {}
    for phrase in phrases:
        of.setdefault(phrase.subject, []).append(phrase)
    pool = [one for one in seen if (one.case.id in of if phrases else one.text is not None)]
    chosen = [one for one in seen if one.case.id in subjects] if subjects is not None else _spread(pool)
    silent = [one.case.id for one in chosen if one.text is None and one.case.id not in of]
    if silent:
        work.notes.append(f"No figure of {', '.join(silent)}: neither a report nor a phrase.")
    chosen = [one for one in chosen if one.case.id not in silent]
    drawn = [_drawn(work, one, of.get(one.case.id, [])) for one in chosen]
    without = "No figures: the method sees images as wholes, and has no map of a sentence."
    if chosen and not any(drawn) and without not in work.notes:
        work.notes.append(without)
    return tuple(case for case in drawn if case is not None)


def _spread(pool: Sequence[Seen]) -> list[Seen]:
    if not pool:
        return []
    places = np.unique(np.linspace(0, len(pool) - 1, min(FIGURES, len(pool))).round().astype(int))
    return [pool[place] for place in places.tolist()]


def _drawn(work: Work, one: Seen, phrases: Sequence[Phrase]) -> DrawnCase | None:
    """Phrases with their places first, then the other sentences of the report."""
    tokenizer = work.run.tokenizer
    assert tokenizer is not None
    rows = [(phrase.sentence, tokenizer.encode(phrase.sentence), _places(work, one, phrase)) for phrase in phrases]
    known = {key_of(text) for _, text, _ in rows}
    if one.text is not None:
        for ids, there in zip(one.text.ids, one.text.attention, strict=True):
            text = Text(ids[None], there[None])
            if there.any() and key_of(text) not in known:
                known.add(key_of(text))
                rows.append((" ".join(tokenizer.decode(text)), text, ()))
    if not rows:
        return None
    scores = work.scores([one], [text for _, text, _ in rows[:PANELS]], maps=True)
    if scores.sentences is None:
        return None
    panels = []
    for (sentence, _, places), values in zip(rows, _of_one_sentence(scores.sentences)[0], strict=False):
        true = grounding.true_regions(places, scores.grid)
        hit = float(grounding.hit_rates(values[None], true[None])[0]) if true.any() else None
        panels.append(Panel(sentence, values, places, hit))
    image = one.sample.inputs[work.images[0]]
    return DrawnCase(one.case.id, np.asarray(image).mean(axis=0), scores.grid, tuple(panels))
