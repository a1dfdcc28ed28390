"""The one form of every message, and the classes that the command line tells apart."""

from __future__ import annotations

import pytest

from comodal.errors import (
    ComodalError,
    ConfigError,
    DataError,
    RunError,
    TrainingFailed,
    UnsupportedSubset,
    UserError,
    message,
    nearest,
)


def test_a_message_has_owner_rule_value_place_and_one_thing_to_do() -> None:
    text = message("image", "be finite", "NaN", do="Remove the file", subject="007", modality="t1", file="a.nii")
    assert text == "image must be finite; got NaN [subject 007, modality t1, file a.nii]. Remove the file."


def test_a_place_that_is_not_known_is_left_out() -> None:
    assert message("a", "be b", 3, do="Do c", modality="t1", subject="") == "a must be b; got 3 [modality t1]. Do c."
    assert message("a", "be b", 3, do="Do c") == "a must be b; got 3. Do c."


@pytest.mark.parametrize("end", [".", "?", "!"])
def test_what_ends_a_sentence_is_not_doubled(end: str) -> None:
    assert message("a", "be b", 3, do=f"Do c{end}").endswith(f"Do c{end}")


def test_nearest_names_close_words_first_and_then_all_in_order() -> None:
    assert nearest("flar", ["t1", "flair"]) == "Did you mean flair? Known: flair, t1"
    assert nearest("zzz", ["t1", "flair"]) == "Known: flair, t1"
    assert nearest("t1", []) == "Known: (none)"


def test_nearest_names_at_most_two_close_words() -> None:
    assert nearest("t1c", ["t1", "t1ce", "t1cd", "t2"]).startswith("Did you mean t1c")
    assert nearest("t1c", ["t1", "t1ce", "t1cd", "t2"]).count(" or ") == 1


def test_mistakes_of_the_user_are_told_from_broken_trainings() -> None:
    assert all(issubclass(e, UserError) for e in (ConfigError, DataError, UnsupportedSubset, RunError))
    assert not issubclass(TrainingFailed, UserError)
    assert issubclass(TrainingFailed, ComodalError)
