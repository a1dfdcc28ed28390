"""Encoders of reports: from `Text` to a feature of each sentence, of the whole report, and of each word.

A sequence is a sentence, or a whole report with its sentences one after the other. Padding never reaches a network's result:
sequences without a token are not put through it, convolutions see zeros beyond the end as they would without padding, attention
is masked, and no statistic is taken over a batch.

Axis letters: B cases, S sentences, L tokens of a sentence, N sequences, T tokens of a sequence, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from comodal.batch import Text
from comodal.errors import ConfigError, message, nearest
from comodal.method import MethodConfig
from comodal.networks.published_texts import build_network, sizes_of

Pool = Literal["max", "mean"]
Output = Literal["cls", "pooler", "mean"]

# {name: sizes of a BERT}; the keys are those of transformers' configurations.
BERTS: dict[str, dict[str, Any]] = {
    "bert-128x2": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "bert-256x4": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
TEXTS = ("cnn", *BERTS)


class TextConfig(MethodConfig):
    """Settings of encoders of reports that several methods share."""

    text: str = Field(
        "cnn",
        description="encoder of reports: cnn, bert-128x2, bert-256x4, bert-base, minilm, a folder, owner/name on the hub; see "
        "docs/texts.md",
    )
    text_sizes: dict[str, Any] = Field({}, description="of a published encoder: read from its config.json, nothing to fill in")
    text_output: Output = Field("cls", description="of a BERT: its first token, that through the pooler, or the mean of tokens")
    text_pool: Pool = Field("max", description="of the cnn: over the words of a sequence")
    words: int = Field(300, ge=1, description="size of the cnn's word vectors")
    vectors: str | None = Field(None, description="file of word vectors for the cnn, in the text format of GloVe")
    tune_vectors: bool = Field(False, description="train the word vectors of that file further; false keeps them as they are")
    text_channels: int = Field(512, ge=1, description="channels of the cnn")
    text_blocks: int = Field(2, ge=0, description="residual blocks of the cnn")
    text_dropout: float = Field(0.1, ge=0, lt=1, description="within the encoder of reports")


def is_published(config: TextConfig) -> bool:
    """Whether the encoder of reports is somebody's: a folder, an id on the hub, or one that a package ships."""
    return config.text not in TEXTS


class TextEncoder(nn.Module):
    """Base: a subclass gives `forward` on sequences that each have a token.

    Attributes:
        features: F of a sequence.
        local_features: F' of a token.
        longest: Most tokens of a sequence; what is beyond is not read.
        nonnegative: Whether no feature can be negative.
    """

    features: int
    local_features: int
    longest: int = 512
    nonnegative: bool = False

    def forward(self, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences to features.

        Args:
            ids: (N, T) int64; every sequence has a token and all its tokens stand before its padding.
            attention: (N, T) bool.

        Returns:
            (N, F) of the sequences, and (N, T, F') of their tokens, zeros in padding.
        """
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def sentences(self, text: Text) -> tuple[Tensor, Tensor]:
        """Features of each sentence: (B, S, F), zeros where there is none, and (B, S) bool where there is one."""
        there = text.attention.any(dim=2)
        found, _ = self._encoded(text.ids[there], text.attention[there])
        return found.new_zeros(*there.shape, self.features).index_put((there,), found), there

    def report(self, text: Text) -> tuple[Tensor, Tensor]:
        """Features of each report: (B, F), zeros where there is none, and (B,) bool where there is one."""
        found, _, _, rows = self.words(text)
        return found, rows

    def words(self, text: Text) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of each report and of its tokens.

        Returns:
            (B, F) and (B, T, F'), zeros where there is nothing; (B, T) bool which tokens there are; (B,) bool which reports.
        """
        ids, attention = as_one(text)
        rows = attention.any(dim=1)
        whole, each = self._encoded(ids[rows], attention[rows])
        wide = each.new_zeros(*ids.shape, self.local_features)
        wide[rows, : each.shape[1]] = each
        seen = attention & (torch.arange(ids.shape[1], device=ids.device) < self.longest)
        return whole.new_zeros(len(rows), self.features).index_put((rows,), whole), wide, seen, rows

    def _encoded(self, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` on what fits, without columns that are padding alone."""
        if not len(ids):
            like = next(self.parameters())
            return like.new_zeros(0, self.features), like.new_zeros(0, 1, self.local_features)
        wide = min(int(attention.sum(dim=1).max()), self.longest)
        found: tuple[Tensor, Tensor] = self(ids[:, :wide], attention[:, :wide])
        return found


def as_one(text: Text) -> tuple[Tensor, Tensor]:
    """A report as one sequence: its sentences one after the other, the start token of the first one alone.

    Args:
        text: (B, S, L); tokens of a sentence stand before its padding.

    Returns:
        ids (B, T) and attention (B, T), tokens before padding; T is the length of the longest, at least 1.

    >>> text = Text(torch.tensor([[[2, 5, 0], [2, 6, 7]]]), torch.tensor([[[True, True, False], [True, True, True]]]))
    >>> as_one(text)[0].tolist()
    [[2, 5, 6, 7]]
    """
    kept = text.attention.clone()
    first = text.attention.any(dim=2).long().cumsum(dim=1) <= 1  # up to the first sentence that there is
    kept[:, :, 0] &= first
    ids, kept = text.ids.flatten(1), kept.flatten(1)
    longest = max(kept.sum(dim=1).tolist(), default=1)
    order = torch.argsort((~kept).long(), dim=1, stable=True)[:, : max(longest, 1)]
    attention = kept.gather(1, order)
    return torch.where(attention, ids.gather(1, order), 0), attention


class WordVectors(nn.Module):
    """A table of word vectors. What stays as it is, is a buffer: no stage trains it, and weights of a run hold it all the same.

    Args:
        vocabulary: Number of token ids.
        size: Of a vector.
        frozen: Whether the vectors stay as they are.
    """

    def __init__(self, vocabulary: int, size: int, *, frozen: bool = False) -> None:
        super().__init__()
        weight = torch.randn(vocabulary, size)
        weight[0] = 0.0  # padding
        self.weight: Tensor
        if frozen:
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int64 to (..., F)."""
        found: Tensor = F.embedding(ids, self.weight, padding_idx=0)
        return found


class TextCNN(TextEncoder):
    """Word vectors, a layer on each word, residual blocks of convolutions along the words, and a maximum or mean over them.

    The residual text CNN of CMIM, Sylvain et al. (2021), whose reference is very probably Zhang et al. (2017), Deconvolutional
    Paragraph Representation Learning; layers and sizes are not published. Word vectors of a file stay as they are, as in the
    paper (`config.vectors`); without a file they are learned. Deviation: layer normalisation of each word in the place of batch
    normalisation, so that neither padding nor the other reports of a batch change a result.

    Args:
        vocabulary: Number of token ids.
        config: Sizes.
    """

    nonnegative = True

    def __init__(self, vocabulary: int, config: TextConfig) -> None:
        super().__init__()
        self.features = self.local_features = size = config.text_channels
        self.pool = config.text_pool
        frozen = config.vectors is not None and not config.tune_vectors
        self.vectors = WordVectors(vocabulary, config.words, frozen=frozen)
        self.first = nn.Linear(config.words, size)
        self.blocks = nn.ModuleList(_Block(size, config.text_dropout) for _ in range(config.text_blocks))

    def forward(self, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """See `TextEncoder.forward`."""
        there = attention[..., None]
        hidden = torch.where(there, self.first(self.vectors(ids)).relu(), 0.0)
        for block in self.blocks:
            hidden = block(hidden, there)
        if self.pool == "mean":
            return hidden.sum(dim=1) / attention.sum(dim=1, keepdim=True), hidden
        return torch.where(there, hidden, -torch.inf).amax(dim=1), hidden


class _Block(nn.Module):
    """Convolution over 5 words, norm, ReLU, the same again without ReLU, plus the input, ReLU; zeros beyond the end."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(size, size, 5, padding=2) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, there: Tensor) -> Tensor:
        """(N, T, C) and (N, T, 1) to (N, T, C)."""
        hidden = words
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            hidden = norm(convolution(hidden.transpose(1, 2)).transpose(1, 2))
            hidden = torch.where(there, hidden if place else hidden.relu(), 0.0)
        added: Tensor = words + self.dropout(hidden)
        return added.relu()


class Bert(TextEncoder):
    """A BERT of transformers or a relative of it, with random weights until a stage trains it or weights are loaded.

    Args:
        vocabulary: Number of token ids.
        sizes: "family" (bert where it is not said; see `comodal.networks.published_texts`) and what makes it; of "vocab_size"
            there may be more than ids.
        output: What stands for a sequence: the state of its first token (the [CLS] of Liao et al. 2021), that through the
            pooler (as their code has it), or the mean over tokens.
        dropout: Within.

    Raises:
        ConfigError: transformers is not installed, the family has no pooler, or fewer vectors than ids.
    """

    def __init__(self, vocabulary: int, sizes: Mapping[str, Any], *, output: Output = "cls", dropout: float = 0.1) -> None:
        super().__init__()
        known = int(sizes.get("vocab_size", vocabulary))
        if vocabulary > known:
            rule, do = f"be those of the tokenizer of this encoder, at most {known}", "Leave data.tokenizer at auto"
            raise ConfigError(message("method.text: token ids", rule, vocabulary, do=do))
        built = build_network({**sizes, "vocab_size": known}, pooler=output == "pooler", dropout=dropout)
        self.output = output
        self.model: Any = built[0]
        self.features = self.local_features = built[1]
        self.longest = built[2]

    def forward(self, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """See `TextEncoder.forward`."""
        found = self.model(input_ids=ids, attention_mask=attention.long())
        states = torch.where(attention[..., None], found.last_hidden_state, 0.0)
        if self.output == "pooler":
            pooled: Tensor = found.pooler_output
            return pooled, states
        if self.output == "mean":
            return states.sum(dim=1) / attention.sum(dim=1, keepdim=True), states
        return states[:, 0], states


def text_encoder(vocabulary: int, config: TextConfig) -> TextEncoder:
    """The encoder that a configuration asks for.

    Args:
        vocabulary: `Problem.vocabulary`.
        config: Has the name and the sizes.

    Raises:
        ConfigError: No such encoder, or transformers is not installed.
    """
    if config.vectors is not None and config.text != "cnn":
        do = "Leave method.vectors out, or set method.text to cnn"
        raise ConfigError(message("method.vectors", "be given with the encoder that has word vectors, cnn", config.text, do=do))
    if config.text == "cnn":
        return TextCNN(vocabulary, config)
    if config.text in BERTS:
        return Bert(vocabulary, BERTS[config.text], output=config.text_output, dropout=config.text_dropout)
    if config.text_sizes.get("source") != config.text:
        raise ConfigError(message("method.text", "be a known encoder", repr(config.text), do=nearest(config.text, TEXTS)))
    sizes = sizes_of(config.text_sizes, config.text)
    return Bert(vocabulary, sizes, output=config.text_output, dropout=config.text_dropout)


def text_pretrained(config: TextConfig, prefix: str) -> dict[str, str]:
    """What `Method.pretrained` says of an encoder of reports.

    Args:
        config: The one that it was built from.
        prefix: Its name in the method, "text".

    Returns:
        {prefix of the network of a published encoder, or of the table of word vectors: where the weights are}; {} without.
    """
    if is_published(config):
        return {f"{prefix}.model": config.text}
    return {} if config.vectors is None else {f"{prefix}.vectors": config.vectors}
