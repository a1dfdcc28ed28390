"""Encoders of reports: what padding, neighbours and absent sentences may change is nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from comodal.batch import Text
from comodal.errors import ConfigError
from comodal.networks.published_texts import FAMILIES, sizes_of
from comodal.networks.texts import (
    TextCNN,
    TextConfig,
    TextEncoder,
    WordVectors,
    as_one,
    is_published,
    text_encoder,
    text_pretrained,
)

VOCABULARY = 20
SMALL: dict[str, Any] = {"words": 6, "text_channels": 8}
COMMON = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
SIZES: dict[str, dict[str, Any]] = {
    "bert": {**COMMON, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    "roberta": {**COMMON, "type_vocab_size": 1, "pad_token_id": 1},
    "mpnet": {**COMMON, "pad_token_id": 1},
    "electra": {**COMMON, "embedding_size": 4},
    "distilbert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 12},
}


def published(family: str, **settings: Any) -> TextConfig:
    sizes = sizes_of({"model_type": family, "vocab_size": 24, "max_position_embeddings": 18, **SIZES[family]}, "a/b")
    return TextConfig(text="a/b", text_sizes=sizes, **settings)


CONFIGS = {
    "cnn": TextConfig(**SMALL),
    "cnn, mean": TextConfig(**SMALL, text_pool="mean"),
    "bert, pooler": TextConfig(text="bert-128x2", text_output="pooler"),
    **{f"{family}, cls": published(family) for family in FAMILIES},
    "roberta, mean": published("roberta", text_output="mean"),
}
every = pytest.mark.parametrize("what", CONFIGS)


def built(what: str) -> TextEncoder:
    if not what.startswith("cnn"):
        pytest.importorskip("transformers", reason="the extra `text` is not installed")
    torch.manual_seed(0)
    return text_encoder(VOCABULARY, CONFIGS[what]).eval()


def text_of(*reports: tuple[int, ...], tokens: int = 0, sentences: int = 0, seed: int = 0) -> Text:
    """Reports whose sentences have these numbers of tokens; random ids everywhere, also in padding."""
    generator = torch.Generator().manual_seed(seed)
    most, longest = max(sentences, *map(len, reports)), max(tokens, 1, *(n for report in reports for n in report))
    drawn = torch.randint(3, VOCABULARY, (6, 4, 24), generator=torch.Generator().manual_seed(7))
    ids = torch.randint(0, VOCABULARY, (len(reports), most, longest), generator=generator)
    attention = torch.zeros_like(ids, dtype=torch.bool)
    for row, report in enumerate(reports):
        for place, length in enumerate(report):
            ids[row, place, :length] = drawn[row, place, :length]
            attention[row, place, :length] = True
    return Text(ids, attention)


ROWS = ((3, 5), (2,), (0, 4, 1), (0,))


# ------------------------------------------------------------------------------------------------------------ padding
@every
def test_padding_changes_nothing(what: str) -> None:
    encoder = built(what)
    plain, wide = text_of(*ROWS), text_of(*ROWS, tokens=9, sentences=4, seed=1)
    with torch.no_grad():
        sentences, there = encoder.sentences(plain)
        others, seen = encoder.sentences(wide)
        assert torch.equal(others[:, :3], sentences) and torch.equal(seen[:, :3], there) and not bool(others[:, 3:].any())
        for one, other in zip(encoder.words(plain), encoder.words(wide), strict=True):
            assert torch.equal(one, other)  # columns that are padding alone are left out


@every
def test_neighbours_change_nothing(what: str) -> None:
    encoder = built(what)
    with torch.no_grad():
        among, _ = encoder.report(text_of(*ROWS))
        for row in range(len(ROWS)):
            both = text_of(*ROWS)
            alone, rows = encoder.report(Text(both.ids[row : row + 1], both.attention[row : row + 1]))
            torch.testing.assert_close(alone[0], among[row], atol=1e-6, rtol=0)
            assert bool(rows[0]) == bool(both.attention[row].any())
    assert not bool(among[3].any()), "an empty report has a feature of zeros"


@every
def test_longer_neighbours_change_nothing(what: str) -> None:
    """Here the sequences themselves are padded up to the longest."""
    encoder = built(what)
    with torch.no_grad():
        short, long = encoder.sentences(text_of((3,), (2,)))[0], encoder.sentences(text_of((3,), (2,), (15,)))[0]
    torch.testing.assert_close(short[:2], long[:2], atol=1e-6, rtol=2e-6)


def test_what_is_in_padding_gets_no_gradient() -> None:
    encoder = TextCNN(VOCABULARY, TextConfig(**SMALL))
    text = Text(torch.tensor([[[3, 4, 9]]]), torch.tensor([[[True, True, False]]]))
    encoder.report(text)[0].sum().backward()
    assert isinstance(encoder.vectors.weight.grad, Tensor) and not bool(encoder.vectors.weight.grad[9].any())


def test_nothing_at_all_is_zeros_without_a_network() -> None:
    for what in ("cnn", "bert, pooler"):
        encoder = built(what)
        found, wide, seen, rows = encoder.words(text_of((0,), (0, 0)))
        assert not bool(found.any()) and not bool(wide.any()) and not bool(seen.any()) and not bool(rows.any())
        none = Text(torch.zeros(0, 1, 1, dtype=torch.long), torch.zeros(0, 1, 1, dtype=torch.bool))
        assert encoder.report(none)[0].shape == (0, encoder.features) and encoder.sentences(none)[0].shape[:2] == (0, 1)


# ------------------------------------------------------------------------------------------------------------- shapes
@every
def test_words_are_local_features_of_the_report(what: str) -> None:
    encoder = built(what)
    with torch.no_grad():
        found, wide, seen, _ = encoder.words(text_of(*ROWS))
    assert found.shape == (4, encoder.features) and wide.shape == (4, 7, encoder.local_features)
    assert seen.sum(dim=1).tolist() == [7, 2, 4, 0] and not bool(wide[~seen].any())
    if what == "cnn":
        torch.testing.assert_close(found[0], wide[0].amax(dim=0))
    if what in ("cnn, mean", "roberta, mean"):
        torch.testing.assert_close(found[0], wide[0].mean(dim=0), atol=1e-6, rtol=0)
    if what == "bert, cls":
        assert torch.equal(found[:3], wide[:3, 0])
    assert encoder.nonnegative == what.startswith("cnn") and (not encoder.nonnegative or bool((found >= 0).all()))


@every
def test_what_is_longer_than_an_encoder_reads_is_cut(what: str) -> None:
    encoder = built(what)
    encoder.longest = min(encoder.longest, 18)
    with torch.no_grad():
        found, wide, seen, _ = encoder.words(text_of((24, 24)))
        assert bool(torch.isfinite(found).all()) and wide.shape[1] == 47 and int(seen.sum()) == encoder.longest


def test_a_report_is_one_sequence_with_one_start() -> None:
    text = Text(
        torch.tensor([[[9, 9, 9], [2, 5, 0], [2, 6, 7]]]), torch.tensor([[[False] * 3, [True, True, False], [True] * 3]])
    )
    ids, attention = as_one(text)
    assert ids.tolist() == [[2, 5, 6, 7]] and bool(attention.all())
    ids, attention = as_one(Text(text.ids, torch.zeros_like(text.attention)))
    assert ids.tolist() == [[0]] and not bool(attention.any())


def test_the_text_cnn_is_what_it_says() -> None:
    """One sequence through its layers, written out."""
    torch.manual_seed(0)
    encoder = TextCNN(VOCABULARY, TextConfig(**SMALL, text_blocks=1)).eval()
    ids = torch.tensor([[2, 7, 11]])
    first: Any = encoder.first
    block: Any = encoder.blocks[0]
    hidden = F.relu(first(encoder.vectors.weight[ids]))
    more = block.norms[0](block.convolutions[0](hidden.transpose(1, 2)).transpose(1, 2)).relu()
    more = block.norms[1](block.convolutions[1](more.transpose(1, 2)).transpose(1, 2))
    wanted = (hidden + more).relu()
    found, each = encoder(ids, torch.ones_like(ids, dtype=torch.bool))
    torch.testing.assert_close(each, wanted)
    torch.testing.assert_close(found, wanted.amax(dim=1))


# ------------------------------------------------------------------------------------------------- frozen, published
def test_frozen_vectors_are_no_parameter_and_still_part_of_the_weights() -> None:
    frozen, tuned = (TextCNN(VOCABULARY, TextConfig(**SMALL, vectors="f", tune_vectors=tune)) for tune in (False, True))
    names = {name for name, _ in frozen.named_parameters()}
    assert "vectors.weight" not in names and "vectors.weight" in dict(tuned.named_parameters())
    assert frozen.state_dict().keys() == tuned.state_dict().keys()
    table = WordVectors(5, 3)
    assert not bool(table(torch.zeros(2, 2, dtype=torch.long)).any()), "padding is zero"
    assert text_pretrained(TextConfig(**SMALL, vectors="f"), "text") == {"text.vectors": "f"}
    with pytest.raises(ConfigError, match=r"method\.vectors must be given with the encoder .*, cnn; got bert-"):
        text_encoder(VOCABULARY, TextConfig(text="bert-128x2", vectors="f"))


def test_a_published_encoder_is_built_from_plain_sizes() -> None:
    config = published("bert")
    assert is_published(config) and text_pretrained(config, "a.text") == {"a.text.model": "a/b"}
    assert not is_published(TextConfig()) and text_pretrained(TextConfig(), "text") == {}
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    assert text_encoder(VOCABULARY, config).state_dict()["model.embeddings.word_embeddings.weight"].shape == (24, 8)
    with pytest.raises(ConfigError, match=r"token ids must be those of the tokenizer of this encoder, at most 24; got 25"):
        text_encoder(25, config)
    with pytest.raises(ConfigError, match=r"be a known encoder; got 'a/b'"):
        text_encoder(VOCABULARY, TextConfig(text="a/b"))
    with pytest.raises(ConfigError, match=r"be a whole number from 1 to 8192; got 9000"):
        text_encoder(VOCABULARY, config.model_copy(update={"text_sizes": {**config.text_sizes, "hidden_size": 9000}}))
    with pytest.raises(ConfigError, match=r"method.text_output must be cls or mean; got pooler, which distilbert has not"):
        text_encoder(VOCABULARY, published("distilbert", text_output="pooler"))
    with pytest.raises(ConfigError, match=r"have a size that its heads divide; got 8 by 3"):
        text_encoder(VOCABULARY, config.model_copy(update={"text_sizes": {**config.text_sizes, "num_attention_heads": 3}}))
