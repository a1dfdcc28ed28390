"""What `comodal match` reads of a case, and what it asks the method: shared by retrieval, prompts and phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from comodal.batch import Sample, Text
from comodal.data.cohort import Case
from comodal.data.grid import Grid
from comodal.data.preprocessing import PreparedCase, Preparer
from comodal.data.reading import read_header
from comodal.data.text import words
from comodal.inference.matching import Floats, Scores, levels_of, levels_of_sentences, scores_of
from comodal.inference.predictor import Device, sample_of
from comodal.method import Method
from comodal.run import Run

SHOWN = 8  # words in a note
Key: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Seen:
    """A case as the method sees it.

    Attributes:
        case: Its row of the cohort.
        sample: Its image.
        text: Its report, None where it has none.
        targets, labelled: As `PreparedCase` has them.
        window: The pixels of the sample's first image.
    """

    case: Case
    sample: Sample
    text: Text | None
    targets: Mapping[str, Any]
    labelled: Mapping[str, Any]
    window: Grid


@dataclass(eq=False)
class Work:
    """What holds for a whole call; notes grow.

    Attributes:
        levels: {case: what is taken off the scores of its image or regions}, see `levels_of`; empty takes off nothing.
        pool: Images by which the level of a sentence is taken off, see `levels_of_sentences`; empty takes off nothing.
    """

    run: Run
    method: Method
    preparer: Preparer
    device: Device
    images: tuple[str, ...]
    text: str
    notes: list[str] = field(default_factory=list)
    levels: dict[str, Floats] = field(default_factory=dict)
    pool: tuple[Sample, ...] = ()

    def see(self, case: Case) -> Seen:
        """Reads the image and, where there is one, the report; both as in training."""
        both = (*self.images, self.text) if self.text in case.cells else self.images
        prepared: PreparedCase = self.preparer.case(case, use=both)
        sample = sample_of(self.run.problem, prepared, self.images)
        first = self.run.problem.modality(self.images[0])
        size = self.run.problem.patch_of(first.name)
        window = Grid((size[0], size[1], size[2] if len(size) == 3 else 1), sample.affines[first.grid])
        text = prepared.values.get(self.text)
        assert text is None or isinstance(text, Text)
        return Seen(case, sample, text, prepared.targets, prepared.labelled, window)

    def native(self, case: Case) -> Grid:
        """The pixels of the file of the first image; only its header is read."""
        cohort, name = self.preparer.cohort, self.images[0]
        spec = cohort.spec(name)
        header = read_header(cohort.file(case, name), files=spec.files, channel=spec.channel, subject=case.id, modality=name)
        return Grid(header.shape, header.affine)

    def encode(self, sentences: Sequence[str], owner: str) -> list[Text]:
        """Sentences as the run's tokenizer has them; says which words it does not know."""
        tokenizer = self.run.tokenizer
        assert tokenizer is not None  # the run has a text
        if tokenizer.words:
            every = dict.fromkeys(word for sentence in sentences for word in words(sentence))
            missing = [word for word in every if word not in set(tokenizer.words)]
            some = ", ".join(missing[:SHOWN]) + (" ..." if len(missing) > SHOWN else "")
            if missing:
                self.notes.append(f"{owner}: {len(missing)} of {len(every)} words are not known to the run ({some}).")
        return [tokenizer.encode(sentence, modality=owner) for sentence in sentences]

    def scores(self, seen: Sequence[Seen], texts: Sequence[Text], *, maps: bool = False) -> Scores:
        """Scores of images with texts."""
        samples = [one.sample for one in seen]
        levels = np.stack([self.levels[one.case.id] for one in seen]) if self.levels else None
        settings: dict[str, Any] = {"name": self.text, "device": self.device}
        spoken = levels_of_sentences(self.method, self.pool, texts, **settings) if self.pool else None
        return scores_of(self.method, samples, texts, levels=levels, spoken=spoken, maps=maps, **settings)

    def level(self, seen: Sequence[Seen], *, compared: str | None = None) -> None:
        """Takes off from now on what the training leaves free, by the images and sentences of these very cases.

        Args:
            seen: All cases.
            compared: As `Method.compared`; None asks the method.
        """
        compared = compared or self.method.compared
        if compared != "sentences":
            self.pool = tuple(one.sample for one in seen) if compared == "images" else ()
            return
        reports = [one.text for one in seen if one.text is not None]
        if not reports:
            self.notes.append("No case has a report: scores are as the method says, see --raw.")
            return
        found = levels_of(self.method, [one.sample for one in seen], reports, name=self.text, device=self.device)
        self.levels = {one.case.id: row for one, row in zip(seen, found, strict=True)}


def key_of(text: Text) -> Key:
    """What a report says: equal for reports with the same tokens, however they are padded."""
    rows = zip(text.ids.tolist(), text.attention.tolist(), strict=True)
    return tuple(tuple(i for i, there in zip(ids, seen, strict=True) if there) for ids, seen in rows if any(seen))
