"""Every method of METHODS keeps every promise, and `check_method` finds out who does not."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract import broken
from tests.contract.classified import CLASSIFIED, classified

from comodal.errors import ConfigError
from comodal.method import Method, Problem
from comodal.methods import METHODS, load_method
from comodal.modality import Modality, Target
from comodal.testing import check_method, make_batch
from comodal.testing.method import CHECKS
from comodal.testing.subject import Subject

SEQUENCES = ("flair", "t1", "t1ce")
REGIONS = Target("seg", "regions", ("WT", "TC"), ((1, 2), (1,)), (2, 1))
LABELS = Target("organs", "labels", ("background", "liver", "spleen"), ((0,), (1,), (2,)), (0, 1, 2))

# Small enough for a few hundred steps in a second; a method that is not here is not checked, hence the first test.
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"width": 4, "levels": 2},
    "moddrop": {"width": 4, "levels": 2},
    "unet-experts": {"width": 4, "levels": 2},
    "mlp-fill": {"width": 4, "levels": 2, "hidden": (16,)},
    "hemis": {"width": 4, "front_width": 4},
    "u-hemis": {"width": 4, "levels": 2},
    "cmim-seg": {"width": 4, "levels": 2, "critic": (8, 8), "positions": 4},
    "ciml": {"width": 4, "levels": 1, "rate": 5e-3},
    "ciml-shapes": {"width": 4, "levels": 2},
}
FLAT = {"hemis"}

# {method: {check: reason}}: what a paper's method cannot keep. A line that is no longer true fails.
KNOWN: dict[str, dict[str, str]] = {}


def problem(patch: tuple[int, ...], target: Target) -> Problem:
    return Problem(tuple(Modality(n) for n in SEQUENCES), (target,), len(patch), patch)


def test_every_method_is_in_the_table() -> None:
    assert SMALL.keys() == {name for name, entry in METHODS.items() if "segmentation" in entry.tasks}
    assert CLASSIFIED.keys() == {name for name, entry in METHODS.items() if "classification" in entry.tasks}
    assert KNOWN.keys() <= METHODS.keys()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("patch", "target"), [((8, 8), LABELS), ((8, 4, 8), REGIONS)], ids=["2-D labels", "3-D regions"])
def test_a_method_keeps_every_promise(name: str, patch: tuple[int, ...], target: Target) -> None:
    cls = load_method(name)
    if name in FLAT and len(patch) == 3:
        pytest.skip(f"{name} is 2-D, as published")
    check_method(cls, problem(patch, target), cls.Config(**SMALL[name]), known=KNOWN.get(name))


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, cases in CLASSIFIED.items() for what in cases])
def test_a_method_that_classifies_keeps_every_promise(name: str, what: str) -> None:
    check_method(load_method(name), *classified(name, what), known=KNOWN.get(name))


def test_the_other_network_of_the_baselines_keeps_them_too() -> None:
    cls = load_method("unet")
    check_method(cls, problem((8, 8), REGIONS), cls.Config.model_validate({"width": 4, "levels": 3, "network": "nnunet"}))


# ------------------------------------------------------------------------------------- it finds out
def test_a_sound_method_passes() -> None:
    check_method(broken.Sound, broken.PROBLEM)
    check_method(broken.Sound, broken.TWO_TARGETS)


BOTH = Problem((*broken.REPORTS.modalities, Modality("blood", "features", 0, 2)), broken.REPORTS.targets, 2, vocabulary=8)


@pytest.mark.parametrize(
    ("cls", "check", "says"),
    [
        (broken.WritesBadConfigs, "config_survives", "Config must survive"),
        (broken.HidesState, "config_survives", "weights must carry the whole prediction"),
        (broken.DrawsItsOwnNoise, "same_seed_same_loss", "must give the same loss for the same seed"),
        (broken.IsNotANumber, "same_seed_same_loss", "loss balance of stage first must be a finite scalar"),
        (broken.IsNotAScalar, "same_seed_same_loss", "must be a finite scalar"),
        (broken.NeverFreezes, "gradients_follow_stages", "encoders.t1.weight must get no gradient in stage second"),
        (broken.HasDeadWeights, "gradients_follow_stages", "dead.weight must get a gradient in stage first"),
        (broken.FrozenInTrainingMode, "gradients_follow_stages", "is frozen in stage second and must keep its value"),
        (broken.GivesLogits, "shapes", r"must lie in \[0, 1\]"),
        (broken.ClaimsTooMuch, "shapes", "used must be a subset of present"),
        (broken.ForgetsTheBatchAxis, "shapes", r"the extra mean must have the batch axis first; got \(1, 6, 6\) of 3 rows"),
        (broken.UsesWhatItsNeighboursHave, "rows_are_independent", "used of rows .* must not depend on the batch"),
        (broken.LooksAtNeighbours, "rows_are_independent", "must not depend on the batch"),
        (broken.Multiplies, "poison_changes_nothing", "gradient of encoders.* reads an absent modality in stage first"),
        (broken.KnowsWhatIsAbsent, "poison_changes_nothing", "predict reads an absent modality"),
        (broken.Pollutes, "poison_changes_nothing", "reads an absent modality in stage first|must be finite"),
        (broken.TrustsAbsentFeatures, "encode_decode", "decode differs from predict: "),
        (broken.MultipliesFeatures, "encode_decode", "decode differs from predict: poisoned features"),
        (broken.EncodesTogether, "encode_decode", "decode differs from predict: encode of each modality by itself"),
        (broken.DecodesOtherwise, "encode_decode", "decode differs from predict: encode"),
        (broken.WritesIntoTheBatch, "input_is_untouched", "the batch must not be modified by losses of stage first"),
        (broken.SupportsNothingness, "refusals", r"supports\(\(\)\) must be False"),
        (broken.TakesAnything, "refusals", r"predict must refuse the unsupported subset \('t2',\)"),
        (broken.LooksAtTheFirstRow, "refusals", r"predict must refuse the unsupported subset \('t2',\)"),
        (broken.GoesUphill, "loss_falls", "must fall on four samples"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_promise_is_found_by_its_check(cls: type[Method], check: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        CHECKS[check](Subject(cls, broken.PROBLEM, cls.Config()))
    with pytest.raises(AssertionError, match=f"^{cls.__name__} fails "):
        check_method(cls, broken.PROBLEM)


def test_a_target_that_is_not_predicted_is_found() -> None:
    with pytest.raises(
        AssertionError, match=r"ForgetsATarget fails shapes: all of \['rim', 'seg'\] must be predicted; got \['seg'\]"
    ):
        check_method(broken.ForgetsATarget, broken.TWO_TARGETS)


def test_learning_from_rows_without_label_is_found_where_there_may_be_some() -> None:
    check_method(broken.LearnsFromBlanks, broken.PROBLEM)  # one target, and each case must have it
    with pytest.raises(AssertionError, match="fails unlabelled_changes_nothing: stage first reads seg"):
        check_method(broken.LearnsFromBlanks, broken.TWO_TARGETS)


def test_a_mean_over_no_words_is_found() -> None:
    with pytest.raises(AssertionError, match=r"must be finite in stage train|reads an absent modality"):
        CHECKS["poison_changes_nothing"](Subject(broken.MeanOfNothing, BOTH, broken.MeanOfNothing.Config()))


def test_reading_the_padding_of_a_text_is_found() -> None:
    with pytest.raises(AssertionError, match="must not depend on how far texts and bags are padded"):
        CHECKS["rows_are_independent"](Subject(broken.ReadsPadding, broken.REPORTS, broken.ReadsPadding.Config()))


def test_an_optimiser_that_is_missing_is_found() -> None:
    with pytest.raises(ConfigError, match=r"an optimiser for every trained parameter; got encoders.t1.weight") as caught:
        check_method(broken.LacksAnOptimiser, broken.PROBLEM)
    assert caught.value.__notes__ == ["LacksAnOptimiser fails gradients_follow_stages"]


# ------------------------------------------------------------------------------------- known exceptions
def test_a_known_exception_is_let_pass() -> None:
    check_method(broken.GoesUphill, broken.PROBLEM, known={"loss_falls": "its sign is wrong on purpose"})


def test_an_exception_that_no_longer_exists_fails() -> None:
    with pytest.raises(AssertionError, match=r"Sound no longer fails shapes; take it out of the table of exceptions \(old\)"):
        check_method(broken.Sound, broken.PROBLEM, known={"shapes": "old"})


def test_an_exception_for_a_check_that_does_not_exist_fails() -> None:
    with pytest.raises(AssertionError, match=r"known must name checks; got \['shape'\]. Did you mean shapes\?"):
        check_method(broken.Sound, broken.PROBLEM, known={"shape": "typo"})


def test_a_vocabulary_too_small_for_a_made_up_report_is_refused() -> None:
    small = Problem(broken.REPORTS.modalities, broken.REPORTS.targets, 2, vocabulary=4)
    with pytest.raises(
        ConfigError, match=r"Problem.vocabulary must be at least 5 where a modality is text; got 4 \[modality report\]"
    ):
        make_batch(small)
