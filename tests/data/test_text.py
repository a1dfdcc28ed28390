"""Sentences, words and the vocabulary, against texts read by eye."""

from __future__ import annotations

from pathlib import Path

import pytest

from comodal.data.text import Tokenizer, sentences, words
from comodal.errors import DataError, RunError


def test_sentences_and_words() -> None:
    assert sentences("Heart normal.No change... \n\n  Is it 3.5 cm? ; \r\nNo!") == [
        "Heart normal.",
        "No change...",
        "Is it 3.5 cm?",
        "No!",
    ]
    assert words("No pneumothorax; can't exclude follow-up, 3.5-cm X-ray T2.") == [
        "no", "pneumothorax", "can't", "exclude", "follow-up", "3.5", "cm", "x-ray", "t", "2",
    ]  # fmt: skip


def test_tokenizer_both_ways(tmp_path: Path) -> None:
    tokenizer = Tokenizer.fit(["b a", "a c", "d"], least=1, size=3, max_sentences=2, max_tokens=4)
    assert tokenizer.words == ("a", "b", "c") and tokenizer.vocabulary == 6
    assert tokenizer == Tokenizer.fit(["d", "a c", "b a"], least=1, size=3, max_sentences=2, max_tokens=4)
    text = tokenizer.encode("A d c b. B!\nC")
    assert text.ids.tolist() == [[2, 3, 1, 5], [2, 4, 0, 0]]  # cut to 4 tokens and 2 sentences
    assert text.attention.tolist() == [[True] * 4, [True, True, False, False]]
    assert tokenizer.decode(text) == ["a ? c", "b"]
    tokenizer.save(tmp_path / "tokenizer")
    assert Tokenizer.load(tmp_path / "tokenizer") == tokenizer
    with pytest.raises(DataError, match=r"report must hold at least one word; got ' \.' .*in cohort.csv blank the cell"):
        tokenizer.encode(" .")


@pytest.mark.parametrize(
    "content", [None, "{", '{"words": ["a", "a"]}', '{"words": ["a"], "code": "x"}', '{"version": 2, "words": []}']
)
def test_damaged_vocabulary_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(RunError, match=r"vocabulary.json must hold the words of a trained run; got "):
        Tokenizer.load(tmp_path)


def test_hostile_reports_are_cut_or_refused() -> None:
    tokenizer = Tokenizer.fit(["no effusion"], least=1, max_sentences=3, max_tokens=5)
    assert tokenizer.encode("нет 😀 肺").ids.tolist() == [[2, 1, 1]]  # no known word
    assert tokenizer.encode("no\x00effusion").ids.tolist() == [
        [2, 3 + tokenizer.words.index("no"), 3 + tokenizer.words.index("effusion")]
    ]
    for text in ("word " * 10_000, "no effusion. " * 10_000, "x" * 2**20):
        found = tokenizer.encode(text)
        assert found.ids.shape[0] <= 3 and found.ids.shape[1] <= 5 and bool(found.attention[:, 0].all())
    for text in ("", " \n ", "😀", "\x00", "___"):
        with pytest.raises(DataError, match="report must hold at least one word"):
            tokenizer.encode(text)
    assert tokenizer.unknown(["no effusion", "a mass"]) == 0.5 and tokenizer.unknown([]) == 0.0
