"""Tokenizers of others: read as plain data, kept whole by a run, and refused where they do not know the words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.wordpieces import PIECES, write_encoder

from comodal.data.pieces import PieceTokenizer, check_known
from comodal.data.text import Tokenizer, load_tokenizer
from comodal.errors import ConfigError, DataError, RunError

tokenizers: Any = pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
CLS, SEP, UNK = (PIECES.index(mark) for mark in ("[CLS]", "[SEP]", "[UNK]"))


def ids_of(*pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


@pytest.fixture
def tokenizer(tmp_path: Path) -> PieceTokenizer:
    return PieceTokenizer.of(str(write_encoder(tmp_path / "encoder")), max_sentences=2, max_tokens=6)


def test_a_sentence_stands_between_its_marks_and_words_survive(tokenizer: PieceTokenizer) -> None:
    text = tokenizer.encode("No nodules. Effusion! The left")
    assert text.ids.tolist() == [[CLS, *ids_of("no", "nodule", "##s", "."), SEP], [CLS, *ids_of("effusion"), UNK, SEP, 0, 0]]
    assert text.attention.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert tokenizer.decode(text) == ["no nodules.", "effusion"]
    assert tokenizer.vocabulary == len(PIECES) and tokenizer.words == ()


def test_what_is_too_long_is_cut_and_still_has_its_end(tokenizer: PieceTokenizer) -> None:
    for said in ("no " * 10_000, "no. " * 10_000, "a" * 2**20):
        ids = tokenizer.encode(said).ids
        assert ids.shape[0] <= 2 and ids.shape[1] <= 6 and bool((ids[:, 0] == CLS).all()) and SEP in ids[-1]


@pytest.mark.parametrize("said", ["нет 肺", "\x00 no", "no 😀", "[SEP] no [CLS]"])
def test_strange_signs_are_unknown_and_no_marks(tokenizer: PieceTokenizer, said: str) -> None:
    inner = tokenizer.encode(said).ids[0, 1:-1].tolist()
    assert CLS not in inner and SEP not in inner
    with pytest.raises(DataError, match="report must hold at least one word"):
        tokenizer.encode("😀 .")


def test_lower_case_follows_the_settings_or_the_pieces(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    assert UNK not in PieceTokenizer.of(str(folder)).encode("NO EFFUSION").ids
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert UNK in PieceTokenizer.of(str(folder)).encode("NO EFFUSION").ids
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.txt").write_text("\n".join([*PIECES, "NO"]))
    assert PieceTokenizer.of(str(folder)).encode("NO Effusion").ids.tolist() == [[CLS, len(PIECES), UNK, SEP]]


def test_a_piece_that_is_a_line_end_of_unicode_shifts_no_id(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    (folder / "vocab.txt").write_text("\n".join([*PIECES[:5], "\u2028", "\x85", "no", "mass"]) + "\n", encoding="utf-8")
    tokenizer = PieceTokenizer.of(str(folder))
    assert tokenizer.encode("no mass").ids.tolist() == [[CLS, 7, 8, SEP]] and tokenizer.vocabulary == 9


def test_tokenizer_json_is_taken_without_its_padding(tmp_path: Path) -> None:
    built = tokenizers.Tokenizer(
        tokenizers.models.BPE({"<s>": 0, "<pad>": 1, "</s>": 2, "n": 3, "o": 4, "no": 5}, [("n", "o")])
    )
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    built.add_special_tokens(["<s>", "<pad>", "</s>"])
    built.enable_padding(length=9)
    built.enable_truncation(3)
    built.save(str(tmp_path / "tokenizer.json"))
    text = PieceTokenizer.of(str(tmp_path)).encode("no no no on. o")
    assert text.ids.tolist() == [[0, 5, 5, 5, 4, 3, 2], [0, 4, 2, 0, 0, 0, 0]]  # its begin has the id 0, which is no padding
    assert text.attention.sum(dim=1).tolist() == [7, 3]


def test_a_run_keeps_it_whole(tokenizer: PieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "run")
    for again in (load_tokenizer(tmp_path / "run"), copy.deepcopy(tokenizer)):  # as for another process
        assert again == tokenizer
        assert torch.equal(again.encode("No nodules seen.").ids, tokenizer.encode("No nodules seen.").ids)
    Tokenizer.fit(["a a"]).save(tmp_path / "other")
    assert isinstance(load_tokenizer(tmp_path / "other"), Tokenizer)


@pytest.mark.parametrize("name", ["tokenizer.json", "pieces.json"])
@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"version": 2}', "\x00", '{"model": {"type": "os.system"}}'])
def test_a_damaged_one_is_refused(tokenizer: PieceTokenizer, tmp_path: Path, name: str, content: str | None) -> None:
    tokenizer.save(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    if content is not None:
        (tmp_path / "run" / name).write_text(content)
    with pytest.raises(RunError, match=r"must be .* a trained run|hold the words of a trained run"):
        PieceTokenizer.load(tmp_path / "run")


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.tokenizer must name a folder with .*; got 'bert-nowhere'"):
        PieceTokenizer.of("bert-nowhere")
    with pytest.raises(ConfigError, match=r"data.tokenizer must be a folder with vocab.txt"):
        PieceTokenizer.of(str(tmp_path))
    (tmp_path / "vocab.txt").write_text("one\ntwo\n")
    with pytest.raises(ConfigError, match=r"must have \[UNK\], \[CLS\] and \[SEP\] among its pieces; got 2 lines without"):
        PieceTokenizer.of(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ConfigError, match=r"must be an intact tokenizer.json"):
        PieceTokenizer.of(str(tmp_path))
    with pytest.raises(ConfigError, match=r"data.max_tokens must be at least 3"):
        PieceTokenizer.of(str(write_encoder(tmp_path / "small")), max_tokens=2)


def test_a_flood_of_unknown_pieces_is_refused(tokenizer: PieceTokenizer) -> None:
    assert tokenizer.unknown(["No nodule. Pneumothorax"]) == 0.25 and tokenizer.unknown([]) == 0.0
    check_known(tokenizer, ["No effusion seen.", "нет выпота"])
    with pytest.raises(ConfigError, match=r"know at least half of the pieces of the training reports; got 29% with .*encoder"):
        check_known(tokenizer, ["нет выпота в правой зоне.", "a"])
