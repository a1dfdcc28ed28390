"""A network that writes and reads reports while it looks at an image, and what it makes of both: AETE and SW-GAP of TieNet.

Wang et al. (2018), TieNet, CVPR; the writer is that of Xu et al. (2015), Show, Attend and Tell. A report is one sequence of
token ids in which sentences keep their start; id 0, which elsewhere is padding, stands before its first token and after its
last. The state after each token is what the report says up to there; padding comes after every state that counts, so that no
state depends on it.

Axis letters: B cases, S sentences, L tokens of a sentence, N places of the image, C channels, T tokens of a report, V ids,
D units, R rows of the attention over time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from comodal.batch import Text
from comodal.errors import ConfigError, message
from comodal.networks.texts import WordVectors

EDGE = 0  # before a report and after it
UNKNOWN = 1  # of comodal.data.text: read, never written


@dataclass(frozen=True)
class Reports:
    """Reports as sequences.

    Attributes:
        words: (B, T) ids, 0 after the last.
        count: (B,) how many tokens there are; 0 where there is no report.
        whole: (B,) whether the end of the report is among them.
    """

    words: Tensor
    count: Tensor
    whole: Tensor

    @classmethod
    def of(cls, text: Text, longest: int) -> Reports:
        """The first `longest` tokens of each report.

        Args:
            text: (B, S, L).
            longest: T at most.

        Raises:
            ConfigError: 0 is a token of its tokenizer, which here is none.

        >>> text = Text(torch.tensor([[[2, 5, 0], [2, 6, 7]]]), torch.tensor([[[True, True, False], [True, True, True]]]))
        >>> Reports.of(text, 4).words.tolist()
        [[2, 5, 2, 6]]
        """
        ids, kept = text.ids.flatten(1), text.attention.flatten(1)
        if bool((kept & (ids == EDGE)).any()):
            rule, do = "leave 0 to padding for a network that writes reports", "Set data.tokenizer to words"
            raise ConfigError(message("token ids", rule, "a token 0", do=do))
        full = kept.sum(dim=1)
        wide = min(int(full.max()), longest) if len(full) else 0
        order = torch.argsort((~kept).long(), dim=1, stable=True)[:, :wide]
        words = torch.where(kept.gather(1, order), ids.gather(1, order), EDGE)
        return cls(words, full.clamp(max=wide), full <= wide)

    @classmethod
    def written(cls, words: Tensor) -> Reports:
        """What `AttentionLSTM.write` returned."""
        count = (words != EDGE).sum(dim=1)
        wide = int(count.max()) if len(count) else 0
        return cls(words[:, :wide], count, count < words.shape[1])

    def replaced(self, rows: Tensor, by: Reports) -> Reports:
        """These, with those of `by`, one for each True of `rows` (B,), in the place of others."""
        wide = max(self.words.shape[1], by.words.shape[1])
        words, other = (nn.functional.pad(r.words, (0, wide - r.words.shape[1])) for r in (self, by))
        return Reports(*(a.index_put((rows,), b) for a, b in ((words, other), (self.count, by.count), (self.whole, by.whole))))

    @property
    def steps(self) -> Tensor:
        """(B, T + 1) bool: states that count, that before the first token among them."""
        return torch.arange(self.words.shape[1] + 1, device=self.count.device) <= self.count[:, None]

    @property
    def inputs(self) -> Tensor:
        """(B, T + 1) ids, the edge first."""
        return nn.functional.pad(self.words, (1, 0), value=EDGE)

    @property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """(B, T + 1) ids, an edge after the last, and (B, T + 1) bool: those that there are; a report cut off has no end."""
        last = torch.arange(self.words.shape[1] + 1, device=self.count.device) == self.count[:, None]
        return nn.functional.pad(self.words, (0, 1), value=EDGE), self.steps & ~(last & ~self.whole[:, None])


class AttentionLSTM(nn.Module):
    """Reads or writes a report, looking at one weighted mean of the places of the image before each token.

    e_k = w tanh(W_x x_k + W_h h), a = softmax over places, z = sum_k a_k x_k, and the next state is LSTM([word; sigmoid(W_g h)
    z], state); the first state is linear in the mean of the places. Sizes besides those of the sheet of TieNet are Xu et al.'s.

    Args:
        vocabulary: V.
        channels: C.
        vectors: Of words, (...) ids to (..., size); that of id 0 stands before the first word.
        units: D.
        attention: Units of the attention over places.
    """

    def __init__(self, vocabulary: int, channels: int, *, vectors: WordVectors, units: int, attention: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.begin = nn.Linear(channels, 2 * units)
        self.of_place = nn.Linear(channels, attention)
        self.of_state = nn.Linear(units, attention, bias=False)
        self.score = nn.Linear(attention, 1, bias=False)
        self.gate = nn.Linear(units, channels)
        self.cell = nn.LSTMCell(vectors.weight.shape[1] + channels, units)
        self.output = nn.Linear(units, vocabulary)

    def forward(self, places: Tensor, reports: Reports) -> tuple[Tensor, Tensor]:
        """Reads reports.

        Args:
            places: (B, N, C).
            reports: B of them.

        Returns:
            States (B, T + 1, D), each after its token, and the weights of places (B, T + 1, N), each before it. Where
            `Reports.steps` is False they mean nothing.
        """
        keys, state = self.of_place(places), self._begin(places)
        states, seen = [], []
        for vectors in self.vectors(reports.inputs).unbind(dim=1):
            state, weights = self._step(vectors, places, keys, state=state)
            states.append(state[0])
            seen.append(weights)
        return torch.stack(states, dim=1), torch.stack(seen, dim=1)

    def log_loss(self, states: Tensor, reports: Reports, *, dropout: nn.Module) -> tuple[Tensor, int]:
        """The mean of -log p of each token, and of the end, given those before it; and how many that are.

        Args:
            states: Of `forward`.
            reports: Those that were read.
            dropout: On the states.

        Returns:
            Scalar, 0 where there is no token; and the number of tokens.
        """
        words, there = reports.outputs
        logits = self.output(dropout(states[there])).float()
        total = cross_entropy(logits, words[there], reduction="sum")
        return total / max(len(logits), 1), len(logits)

    @torch.no_grad()
    def write(self, places: Tensor, *, longest: int, beam: int = 1) -> Tensor:
        """Writes a report for each image: the likeliest token at each step, or the likeliest report of a beam search.

        A report ends where the edge is the likeliest, at the latest after `longest` tokens. The unknown word is not written.

        Args:
            places: (B, N, C).
            longest: T.
            beam: Reports that are pursued at a time; 1 is greedy. The highest sum of log probabilities wins.

        Returns:
            (B, T) ids, 0 after the last token.
        """
        size = len(places)
        wide = places.repeat_interleave(beam, dim=0)
        keys, state = self.of_place(wide), self._begin(wide)
        written = torch.full((size * beam, longest), EDGE, device=places.device)
        last, ended = written.new_full((size * beam,), EDGE), written.new_zeros(size * beam, dtype=torch.bool)
        score = state[0].new_full((size, beam), -torch.inf, dtype=torch.float32)
        score[:, 0] = 0.0  # at first all are the same
        first = torch.arange(size, device=places.device)[:, None] * beam
        for step in range(longest):
            if bool(ended.all()):
                break
            state, _ = self._step(self.vectors(last), wide, keys, state=state)
            found = self.output(state[0]).float().log_softmax(dim=1)
            found[:, UNKNOWN] = -torch.inf
            found[ended] = -torch.inf
            found[ended, EDGE] = 0.0  # what has ended stays as it is
            vocabulary = found.shape[1]
            score, best = (score.reshape(-1, 1) + found).view(size, -1).topk(beam, dim=1)
            rows, last = (first + best // vocabulary).flatten(), (best % vocabulary).flatten()
            state, written = (state[0][rows], state[1][rows]), written[rows]
            written[:, step] = last
            ended = ended[rows] | (last == EDGE)
        return written[::beam]  # of each image the best comes first

    def _begin(self, places: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = self.begin(places.mean(dim=1)).chunk(2, dim=1)
        return hidden, cell

    def _step(
        self, vectors: Tensor, places: Tensor, keys: Tensor, *, state: tuple[Tensor, Tensor]
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The next state, and the weights (B, N) of the places that it looked at."""
        hidden = state[0]
        weights = self.score(torch.tanh(keys + self.of_state(hidden)[:, None]))[..., 0].softmax(dim=1)
        seen = (weights[:, None] @ places)[:, 0] * self.gate(hidden).sigmoid()
        found: tuple[Tensor, Tensor] = self.cell(torch.cat([vectors, seen], dim=1), state)
        return found, weights


class TextAndPlaces(nn.Module):
    """AETE and SW-GAP: what a report says, and the places of the image at which it was said.

    G = softmax over time of W_2 tanh(W_1 H'), R rows; AETE is the maximum over rows of G H. g_t = max_r G_rt; a place weighs
    sum_t g_t a_tk, and SW-GAP is the weighted sum of the places.

    Args:
        units: D.
        hidden: Units of the attention over time.
        rows: R.
    """

    def __init__(self, units: int, *, hidden: int, rows: int) -> None:
        super().__init__()
        self.first = nn.Linear(units, hidden, bias=False)
        self.second = nn.Linear(hidden, rows, bias=False)

    def attention(self, states: Tensor, steps: Tensor) -> Tensor:
        """G: (B, T, D) and (B, T) bool to (B, R, T), whose rows sum to 1 over the steps that count and are 0 elsewhere."""
        found: Tensor = self.second(torch.tanh(self.first(states))).transpose(1, 2)
        return found.masked_fill(~steps[:, None], -torch.inf).softmax(dim=2)

    def forward(self, states: Tensor, seen: Tensor, *, places: Tensor, steps: Tensor) -> Tensor:
        """Both, side by side.

        Args:
            states: (B, T, D).
            seen: (B, T, N) weights of places at each step.
            places: (B, N, C).
            steps: (B, T) bool: those that count, at least one in each row.

        Returns:
            (B, D + C).
        """
        over_time = self.attention(states, steps)
        text = (over_time @ states).amax(dim=1)
        weights = over_time.amax(dim=1)[:, None] @ seen  # (B, 1, N)
        return torch.cat([text, (weights @ places)[:, 0]], dim=1)
