"""Scores of images with reports: parts against the whole, levels taken off, places of a picture after resizing and cropping."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from comodal.batch import Batch, Sample, Text
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec
from comodal.data.phrases import Phrase, Place
from comodal.data.preprocessing import Preparer, PreprocessingConfig
from comodal.data.text import Tokenizer
from comodal.errors import ConfigError, DataError, UnsupportedSubset
from comodal.inference import matching
from comodal.inference.matching import images_and_text, levels_of, levels_of_sentences, require_matches, scores_of
from comodal.method import Matches, Method, MethodConfig, Problem, Requirements
from comodal.methods.convirt import ConVIRT, ConVIRTConfig
from comodal.methods.local_mi import LocalMI, LocalMIConfig
from comodal.modality import Modality, Target
from comodal.study.pointing import draw, point
from comodal.study.seen import Work

SIDES = (4, 5)
SOFT = pytest.mark.parametrize("temperature", [0.0, 2.0])
PROBLEM = Problem(
    (Modality("photo", spatial_dims=2, grid="photo"), Modality("report", "text", 0, grid="report")),
    (Target("dx", "class", ("a", "b")),),
    2,
    patches={"photo": (32, 40)},
    vocabulary=20,
)


def pooled(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """(..., N) to (...): the maximum, or t log mean exp of score / t."""
    return temperature * (scores / temperature).exp().mean(dim=-1).log() if temperature else scores.amax(dim=-1)


class Brightness(Method):
    """A sentence scores at a region as bright as that is, times the sum of its ids, plus a number of the region alone."""

    def __init__(self, problem: Problem = PROBLEM, *, regions: bool = True, temperature: float = 0.0) -> None:
        super().__init__(problem, MethodConfig())
        self.regions, self.temperature = regions, temperature
        self.own = nn.Parameter(torch.zeros(SIDES[0] * SIDES[1], dtype=torch.float64))

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("classification",), kinds=("image", "text"))

    def match(self, batch: Batch, text: Text) -> Matches:
        assert not self.training and not torch.is_grad_enabled()
        x = nn.functional.adaptive_avg_pool2d(batch.image("photo").double(), SIDES).flatten(1)
        weights = torch.where(text.attention, text.ids, 0).sum(dim=2).double()
        scores = x[:, None, None] * weights[None, :, :, None] + self.own
        scores = torch.where(text.attention.any(dim=2)[None, :, :, None], scores, torch.nan)
        reports = pooled(scores, self.temperature).nanmean(dim=2)
        return Matches(reports, scores, SIDES, self.temperature) if self.regions else Matches(reports)


def texts(seed: int, count: int) -> list[Text]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        lengths = rng.integers(1, 5, rng.integers(1, 4))
        ids = torch.zeros((len(lengths), 6), dtype=torch.long)
        for row, length in zip(ids, lengths, strict=True):
            row[:length] = torch.from_numpy(rng.integers(3, 9, length))
        found.append(Text(ids, ids != 0))
    return found


def samples(count: int) -> list[Sample]:
    torch.manual_seed(0)
    return [Sample(id=str(n), group=str(n), inputs={"photo": torch.rand(1, 32, 40)}) for n in range(count)]


def test_parts_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    method, images, reports = Brightness().train(), samples(7), texts(0, 9)
    whole = scores_of(method, images, reports, name="report", maps=True)
    monkeypatch.setattr(matching, "IMAGES", 3)
    monkeypatch.setattr(matching, "REPORTS", 4)
    parts = scores_of(method, images, reports, name="report", maps=True)
    assert whole.sentences is not None and parts.sentences is not None and whole.grid == SIDES and method.training
    assert whole.reports.shape == (7, 9) and whole.sentences.shape == (7, 9, 3, 20)
    np.testing.assert_array_equal(parts.reports, whole.reports)
    np.testing.assert_array_equal(parts.sentences, whole.sentences)
    alone = scores_of(method, [images[4]], [reports[2]], name="report").reports[0, 0]
    assert alone == whole.reports[4, 2]


@SOFT
def test_levels_against_a_loop_and_a_function_of_the_region_changes_nothing(temperature: float) -> None:
    method, images, reports = Brightness(temperature=temperature), samples(5), texts(1, 8)
    found = levels_of(method, images, reports, name="report")
    maps = scores_of(method, images, reports, name="report", maps=True).sentences
    assert maps is not None
    for b in range(5):
        for n in range(20):
            scores = [maps[b, r, s, n] for r, text in enumerate(reports) for s in range(3) if s < len(text.ids)]
            assert found[b, n] == pytest.approx(np.log(np.mean(np.exp(scores, dtype=np.float64))), rel=1e-5)
    before = scores_of(method, images, reports, name="report", levels=found, maps=True)
    with torch.no_grad():
        method.own.add_(30 * torch.rand(20, dtype=torch.float64))
    moved = levels_of(method, images, reports, name="report")
    after = scores_of(method, images, reports, name="report", levels=moved, maps=True)
    assert before.sentences is not None and after.sentences is not None
    np.testing.assert_allclose(after.sentences, before.sentences, atol=1e-4)
    np.testing.assert_allclose(after.reports, before.reports, atol=1e-4)
    by_hand = np.nanmean(pooled(torch.from_numpy(before.sentences), temperature).numpy(), axis=2)
    np.testing.assert_allclose(before.reports, by_hand, atol=1e-5)


def test_levels_of_a_method_without_regions_are_of_whole_reports() -> None:
    method, images, reports = Brightness(regions=False), samples(4), texts(2, 6)
    found, raw = levels_of(method, images, reports, name="report"), scores_of(method, images, reports, name="report")
    assert found.shape == (4, 1) and raw.sentences is None
    np.testing.assert_allclose(found[:, 0], np.log(np.exp(raw.reports).mean(axis=1)))
    off = scores_of(method, images, reports, name="report", levels=found).reports
    np.testing.assert_allclose(off, raw.reports - found)


class Wordy(Brightness):
    """As if it had learned by images as negatives: a number of the sentence alone is in its scores."""

    compared = "images"
    wordiness = 0.0

    def match(self, batch: Batch, text: Text) -> Matches:
        found = super().match(batch, text)
        alone = self.wordiness * torch.where(text.attention, text.ids**2, 0).sum(dim=2).double()
        if found.sentences is None:
            return Matches(found.reports + alone.sum(dim=1))
        scores = found.sentences + alone[None, :, :, None]
        return Matches(pooled(scores, self.temperature).nanmean(dim=2), scores, found.grid, self.temperature)


@SOFT
def test_levels_of_sentences_against_a_loop_and_a_function_of_the_sentence_changes_nothing(temperature: float) -> None:
    method, images, reports = Wordy(temperature=temperature), samples(5), texts(1, 8)
    found = levels_of_sentences(method, images, reports, name="report")
    maps = scores_of(method, images, reports, name="report", maps=True).sentences
    assert maps is not None and found.shape == (8, 3)
    for r, text in enumerate(reports):
        for s in range(3):
            if s < len(text.ids):
                best = [float(pooled(torch.from_numpy(maps[b, r, s]).double(), temperature)) for b in range(5)]
                assert found[r, s] == pytest.approx(np.log(np.mean(np.exp(best, dtype=np.float64))), rel=1e-5)
            else:
                assert np.isnan(found[r, s])
    before = scores_of(method, images, reports, name="report", spoken=found, maps=True)
    method.wordiness = 0.7
    raw = scores_of(method, images, reports, name="report").reports
    moved = levels_of_sentences(method, images, reports, name="report")
    after = scores_of(method, images, reports, name="report", spoken=moved, maps=True)
    assert before.sentences is not None and after.sentences is not None
    np.testing.assert_allclose(after.sentences, before.sentences, atol=1e-4)
    np.testing.assert_allclose(after.reports, before.reports, atol=1e-4)
    by_hand = np.nanmean(pooled(torch.from_numpy(before.sentences), temperature).numpy(), axis=2)
    np.testing.assert_allclose(before.reports, by_hand, atol=1e-4)
    assert np.abs(raw - after.reports).max() > 1
    few = levels_of_sentences(method, images, reports, name="report", most=1)  # by the first image alone
    np.testing.assert_allclose(few, levels_of_sentences(method, images[:1], reports, name="report"))


def test_levels_of_reports_of_a_method_without_regions() -> None:
    method, images, reports = Wordy(regions=False), samples(4), texts(2, 6)
    found, raw = levels_of_sentences(method, images, reports, name="report"), scores_of(method, images, reports, name="report")
    np.testing.assert_allclose(found[:, 0], np.log(np.exp(raw.reports).mean(axis=0)))
    off = scores_of(method, images, reports, name="report", spoken=found).reports
    np.testing.assert_allclose(off, raw.reports - found.T)


def test_parts_are_the_whole_without_levels_of_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    method, images, reports = Wordy(), samples(7), texts(0, 9)
    regions, spoken = (levels(method, images, reports, name="report") for levels in (levels_of, levels_of_sentences))
    whole = scores_of(method, images, reports, name="report", levels=regions, spoken=spoken, maps=True)
    monkeypatch.setattr(matching, "IMAGES", 3)
    monkeypatch.setattr(matching, "REPORTS", 4)
    parts = scores_of(method, images, reports, name="report", levels=regions, spoken=spoken, maps=True)
    np.testing.assert_array_equal(parts.reports, whole.reports)
    assert whole.sentences is not None and parts.sentences is not None
    np.testing.assert_array_equal(parts.sentences, whole.sentences)


@pytest.mark.parametrize(
    ("settings", "compared"),
    [
        ({}, "sentences"),
        ({"against": "images"}, "images"),
        ({"against": "images", "bound": "mine"}, "both"),
        ({"bound": "mine"}, "sentences"),  # a region is chosen by what exceeds its negatives, whatever the bound
        ({"level": "global"}, "sentences"),
        ({"level": "global", "against": "images"}, "sentences"),  # `against` is of regions
        ({"level": "global", "symmetric": True}, "both"),
        ({"level": "global", "bound": "jsd"}, "both"),
    ],
)
def test_what_local_mi_compares(settings: dict[str, Any], compared: str) -> None:
    own: Any = SimpleNamespace(config=LocalMIConfig(**settings))
    read: Any = LocalMI.compared
    assert read.fget(own) == compared


def test_what_convirt_compares() -> None:
    read: Any = ConVIRT.compared
    for share, compared in ((0.75, "both"), (1.0, "sentences"), (0.0, "images")):
        own: Any = SimpleNamespace(config=ConVIRTConfig(image_to_text=share))
        assert read.fget(own) == compared


class Mute(Brightness):
    """Has no match of its own."""

    match = Method.match


def test_who_does_not_match_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError) as caught:
        require_matches(Mute())
    text = str(caught.value)
    assert text.startswith("RUN's method must be one that scores how well an image and a report belong together; got Mute.")
    assert "local-mi" in text
    require_matches(Brightness())
    with pytest.raises(UnsupportedSubset, match="RUN must have an image and a text among its modalities; got photo"):
        images_and_text(Problem(PROBLEM.modalities[:1], PROBLEM.targets, 2, patches={"photo": (32, 40)}))


# Pictures on disk: the way of a place from the file to a region


def cohort(folder: Path, size: tuple[int, int], places: list[tuple[float, float]]) -> Cohort:
    """Dark pictures with a bright square around each place; subject 0, 1, ..."""
    rows = []
    for number, (x, y) in enumerate(places):
        picture = np.full((size[1], size[0]), 20, dtype=np.uint8)
        column, row = int(x * size[0]), int(y * size[1])
        picture[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 250
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("Bright spot. Nothing else.")
        rows.append(Case.build(str(number), cells={"photo": f"{number}.png", "report": f"{number}.txt"}))
    specs = [
        ModalitySpec(name="photo", spatial_dims=2, grid="photo"),
        ModalitySpec(name="report", kind="text", spatial_dims=0, grid="report"),
    ]
    return Cohort.build(CohortMeta(layout="csv", root=str(folder), modalities=specs, targets=[]), rows, folder)


def work_for(cohort: Cohort, *, resize: tuple[int, int] | None, regions: bool = True) -> Work:
    tokenizer = Tokenizer(words=("bright", "spot", "nothing", "else"))
    config = PreprocessingConfig.model_validate({"resize": resize})
    preparer = Preparer(cohort, config, modalities=["photo", "report"], tokenizer=tokenizer, spatial_dims=2)
    run: Any = SimpleNamespace(problem=PROBLEM, tokenizer=tokenizer)
    return Work(run, Brightness(regions=regions), preparer, "cpu", ("photo",), "report")


PLACES = [(0.2, 0.3), (0.8, 0.3), (0.5, 0.85), (0.31, 0.7)]


@pytest.mark.parametrize(
    ("size", "resize"),
    [
        ((32, 40), None),  # as it is
        ((90, 50), (32, 40)),  # resized, other proportions
        ((44, 52), None),  # the middle is cropped out
        ((24, 30), None),  # zeros around it
        ((120, 100), (40, 48)),  # resized, then cropped
    ],
)
def test_the_brightest_region_is_the_true_one(tmp_path: Path, size: tuple[int, int], resize: tuple[int, int] | None) -> None:
    work = work_for(cohort(tmp_path, size, PLACES), resize=resize)
    seen = [work.see(case) for case in work.preparer.cohort.cases]
    phrases = [Phrase(str(n), "Bright spot.", "spot", (Place(p, p),)) for n, p in enumerate(PLACES)]
    found = point(work, seen, phrases)
    assert found["grid"] == SIDES and found["grounding"]["all"].hits.value == 1.0
    assert found["grounding"]["all"].hits.chance == pytest.approx(1 / 20) and found["grounding"]["spot"].hits.n == 4
    turned = [Phrase(str(n), "Bright spot.", "", (Place((y, x), (y, x)),)) for n, (x, y) in enumerate(PLACES)]
    assert point(work, seen, turned)["grounding"]["all"].hits.value < 1.0  # rows and columns are not the same


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    work = work_for(cohort(tmp_path, (64, 80), PLACES), resize=None)
    seen = [work.see(case) for case in work.preparer.cohort.cases]
    corner, middle = Place((0.01, 0.01), (0.01, 0.01)), Place((0.5, 0.5), (0.5, 0.5))
    phrases = [Phrase("0", "Spot.", "", (corner,)), Phrase("1", "Spot.", "", (middle,)), Phrase("9", "Spot.", "", (middle,))]
    assert point(work, seen, phrases)["grounding"]["all"].hits.n == 1
    assert work.notes == [
        "1 phrases are about other cases than these.",
        "1 phrases are left out: their place was cropped away.",
    ]
    with pytest.raises(DataError, match="--phrases must name subjects of the split; got '9'"):
        point(work, seen, phrases[2:])


def test_a_method_without_regions_cannot_point(tmp_path: Path) -> None:
    work = work_for(cohort(tmp_path, (32, 40), PLACES), resize=None, regions=False)
    seen = [work.see(case) for case in work.preparer.cohort.cases]
    with pytest.raises(ConfigError, match="RUN must score sentences at regions, for phrases to be judged"):
        point(work, seen, [Phrase("0", "Bright.", "", (Place((0.5, 0.5), (0.5, 0.5)),))])
    assert draw(work, seen, []) == () and len(work.notes) == 1 and work.notes[0].startswith("No figures")


def test_what_is_taken_off_follows_from_the_method_unless_somebody_says_so(tmp_path: Path) -> None:
    work = work_for(cohort(tmp_path, (32, 40), PLACES), resize=None)
    seen = [work.see(case) for case in work.preparer.cohort.cases]
    spoken = work.encode(["Bright spot.", "Nothing else."], "prompts")
    raw = work.scores(seen, spoken).reports
    found = {}
    for compared in ("sentences", "images", "both"):
        work.method.__class__ = type("Other", (Brightness,), {"compared": compared})
        work.levels, work.pool = {}, ()
        work.level(seen)
        assert (bool(work.levels), bool(work.pool)) == (compared == "sentences", compared == "images")
        found[compared] = work.scores(seen, spoken).reports
    np.testing.assert_array_equal(found["both"], raw)
    np.testing.assert_allclose(raw - found["images"], (raw - found["images"])[[0, 0, 0, 0]])  # one number for each sentence
    np.testing.assert_allclose(np.exp(found["images"]).mean(axis=0), 1.0)
    assert not np.allclose(found["sentences"], raw)
    work.level(seen, compared="sentences")
    np.testing.assert_array_equal(work.scores(seen, spoken).reports, found["sentences"])


def test_drawn_cases_have_phrases_first_and_no_sentence_twice(tmp_path: Path) -> None:
    work = work_for(cohort(tmp_path, (32, 40), PLACES), resize=None)
    seen = [work.see(case) for case in work.preparer.cohort.cases]
    phrases = [Phrase("2", "Bright spot!", "", (Place(PLACES[2], PLACES[2]),))]
    (case,) = draw(work, seen, phrases)
    assert case.subject == "2" and case.image.shape == (32, 40) and case.grid == SIDES
    assert [panel.sentence for panel in case.panels] == ["Bright spot!", "nothing else"]
    assert [panel.hit for panel in case.panels] == [1.0, None]
    named = draw(work, seen, phrases, subjects=["0", "2"])
    assert [one.subject for one in named] == ["0", "2"] and [p.places for p in named[0].panels] == [(), ()]
    assert [one.subject for one in draw(work, seen, [])] == ["0", "1", "2", "3"]


def test_unknown_words_are_told(tmp_path: Path) -> None:
    work = work_for(cohort(tmp_path, (32, 40), PLACES), resize=None)
    work.encode(["Bright mass.", "Nothing."], "prompts")
    assert work.notes == ["prompts: 1 of 3 words are not known to the run (mass)."]


def test_nothing_of_a_report_is_read_where_there_is_none(tmp_path: Path) -> None:
    made = cohort(tmp_path, (32, 40), PLACES)
    bare = [Case.build(case.id, cells={"photo": case.cells["photo"]}) for case in made.cases]
    work = work_for(Cohort.build(made.meta, bare, tmp_path), resize=None)
    assert all(work.see(case).text is None for case in work.preparer.cohort.cases)
    work.level([work.see(case) for case in work.preparer.cohort.cases])
    assert work.levels == {} and "No case has a report" in work.notes[0]
