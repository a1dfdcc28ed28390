"""Word vectors of others, in the text format of GloVe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from comodal.data.vectors import read_vectors
from comodal.errors import ConfigError


def write(folder: Path, text: str | bytes) -> Path:
    (folder / "glove.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "glove.txt"


PLAIN = "no 1 2\neffusion 3 4\nfollow 5 6\nup 7 8\nis 1 0\nn't 0 1\n. . 9 9\n"


def test_words_take_theirs_parts_make_others_and_the_rest_is_drawn_by_the_word(tmp_path: Path) -> None:
    file = write(tmp_path, PLAIN)
    words = ("no", "effusion", "follow-up", "isn't", "xxxx", "yyyy")
    found, known = read_vectors(file, words, size=2)
    assert known == 2 and found[:4].tolist() == [[1, 2], [3, 4], [6, 7], [0.5, 0.5]]
    again, _ = read_vectors(file, ("xxxx", "effusion", "no"), size=2)
    assert torch.equal(again[0], found[4]) and not torch.equal(found[4], found[5]) and bool(torch.isfinite(found).all())
    assert read_vectors(write(tmp_path, "7 2\n" + PLAIN), ("no",), size=2)[0].tolist() == [[1, 2]]  # as word2vec writes


@pytest.mark.parametrize(("text", "says"), [
    ("no 1 2 3\n", r"must have 2 numbers for each word; got line 1 with 3 .*Set method.words"),
    ("no 1\n", r"have 2 numbers for each word; got line 1 with 1"),
    ("no 1 2\neffusion 3", r"have 2 numbers for each word; got line 2 with 1"),
    ("no 1 x\n", r"have a word and finite numbers in each line; got line 1"),
    ("no 1 nan\n", r"have a word and finite numbers in each line; got line 1"),
    (b"\x80\x04\x95" + bytes(range(256)) * 4, r"have 2 numbers for each word"),
    ("", r"know at least 10% of the words; got 0 of 12"),
    ("nein 1 2\nkein 3 4\n", r"know at least 10% of the words; got 0 of 12"),
    ("no 1 2\n", r"know at least 10% of the words; got 1 of 12"),
])  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    words = ("no", "effusion", *map(str, range(10)))
    with pytest.raises(ConfigError, match=says):
        read_vectors(write(tmp_path, text), words, size=2)


def test_there_must_be_a_file_and_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method.vectors must name a file of word vectors; got No such file"):
        read_vectors(tmp_path / "none.txt", ("no",), size=2)
    with pytest.raises(ConfigError, match=r"method.vectors must name a file of word vectors"):
        read_vectors(tmp_path, ("no",), size=2)
    with pytest.raises(ConfigError, match=r"be for a vocabulary of words; got pieces of words. Set data.tokenizer to words"):
        read_vectors(write(tmp_path, PLAIN), (), size=2)
