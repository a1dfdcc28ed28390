"""The exceptions that a user of comodal meets. This module imports nothing of ours.

Every message follows one form: `<owner>.<argument> must be <rule>; got <value> [subject, modality]. <One thing to do>.`
`message()` builds it, so that no raise site has to remember the order.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable


class ComodalError(Exception):
    """Base of all errors that comodal raises on purpose. The command line prints them without a traceback."""


class UserError(ComodalError):
    """The user's input was wrong (exit code 2)."""


class ConfigError(UserError):
    """A configuration, a name or a key was wrong."""


class DataError(UserError):
    """A cohort, a file or its content was wrong."""


class UnsupportedSubset(UserError):
    """A method was asked to predict from modalities from which it cannot predict."""


class RunError(UserError):
    """A run folder was incomplete, damaged or of another schema."""


class CacheError(ComodalError):
    """Prepared images could not be made or kept, for instance since the disk is full (exit code 1)."""


class TrainingFailed(ComodalError):
    """The training itself broke down, for instance by a loss that is not a number (exit code 1)."""


def message(
    owner: str,
    rule: str,
    got: object,
    *,
    do: str,
    subject: str | None = None,
    modality: str | None = None,
    file: str | None = None,
) -> str:
    """Builds an error text in the one form of the house.

    Args:
        owner: What is wrong, as the user knows it: "Batch.present", "cohort.csv", "--use".
        rule: What it must be, to follow the word "must".
        got: What was there instead.
        do: One thing to do, a full sentence without its final stop.
        subject: The subject concerned, if any.
        modality: The modality concerned, if any.
        file: The file concerned, if any.

    Returns:
        One line, for instance "--use must name modalities of the run; got 'flar'. Did you mean flair?".

    >>> message("--use", "name modalities of the run", "'flar'", do="Use one of: flair, t1")
    "--use must name modalities of the run; got 'flar'. Use one of: flair, t1."
    """
    where = [f"{kind} {value}" for kind, value in (("subject", subject), ("modality", modality), ("file", file)) if value]
    place = f" [{', '.join(where)}]" if where else ""
    end = "" if do.endswith(("?", ".", "!")) else "."
    return f"{owner} must {rule}; got {got}{place}. {do}{end}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Names the known words closest to an unknown one, as one thing to do.

    Args:
        name: The unknown word.
        known: All words that would have been right.

    Returns:
        "Did you mean moddrop? Known: moddrop, unet", or "Known: ..." when nothing is close.

    >>> nearest("modrop", ["unet", "moddrop"])
    'Did you mean moddrop? Known: moddrop, unet'
    """
    words = sorted(known)
    close = difflib.get_close_matches(name, words, n=2, cutoff=0.6)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}Known: {', '.join(words) if words else '(none)'}"


def short(value: object, most: int = 80) -> str:
    """A value as a few words, however long or deep it is: a file of 1 kB can describe one that would fill the memory.

    Args:
        value: What was read.
        most: Characters.

    Returns:
        Its `repr`, cut.

    >>> short([[1, 2], "x" * 100], 20)
    "[[1, 2], 'xxxxxxxxxx"
    """
    words = reprlib.Repr()
    words.maxlevel, words.maxstring, words.maxother = 3, 2 * most, 2 * most
    return words.repr(value)[:most]
