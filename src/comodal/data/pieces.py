"""Tokenizers of others: pieces of words, as the published encoders of reports were trained with.

A tokenizer is plain data, tokenizer.json or vocab.txt, and is read by the library `tokenizers`, which comes with transformers
and runs no code of a file. A run keeps it whole.

Axis letters: S sentences, L tokens of a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from comodal.batch import Text
from comodal.data.atomic import replacing
from comodal.data.sentences import KEPT_SENTENCES, KEPT_TOKENS, sentences
from comodal.data.sources import find_file, read_settings
from comodal.errors import ConfigError, DataError, RunError, message

OWNER = "data.tokenizer"
FILE, SETTINGS = "tokenizer.json", "pieces.json"
MARKS = (("[CLS]", "[SEP]"), ("<s>", "</s>"))  # begin and end of a sequence, as BERT and its relatives call them
MAX_BYTES = 64 * 1024**2


class PieceSettings(BaseModel):
    """What a run keeps beside tokenizer.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(1, ge=1, le=1)
    source: str
    max_sentences: int = Field(KEPT_SENTENCES, ge=1)
    max_tokens: int = Field(KEPT_TOKENS, ge=3)


@dataclass(frozen=True)
class PieceTokenizer:
    """A tokenizer of somebody else: each sentence is [CLS] pieces [SEP].

    Attributes:
        content: Of tokenizer.json.
        settings: Its source, and what is beyond is cut off; the marks of begin and end count.
        words: None, as pieces are no words (`Problem.words`).
    """

    content: str
    settings: PieceSettings
    words: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, source: str, *, max_sentences: int = KEPT_SENTENCES, max_tokens: int = KEPT_TOKENS) -> PieceTokenizer:
        """The tokenizer of a published encoder.

        Args:
            source: A folder with tokenizer.json or vocab.txt, a name of `PACKAGED`, or owner/name on the hub.
            max_sentences: Kept of a report.
            max_tokens: Kept of a sentence.

        Raises:
            ConfigError: There is none, it is damaged, or it does not mark where a sequence begins.
        """
        file = find_file(source, FILE, owner=OWNER, needed=False)
        if file is None:
            file = find_file(source, "vocab.txt", owner=OWNER)
            assert file is not None
            settings = find_file(source, "tokenizer_config.json", owner=OWNER, needed=False)
            lower = None if settings is None else read_settings(settings, owner=OWNER).get("do_lower_case")
            built = _from_vocabulary(file, lower)
        else:
            built = _read(file.read_text(encoding="utf-8", errors="replace") if _fits(file) else "", str(file))
        built.no_padding()
        built.no_truncation()
        _mark(built, str(file))
        if max_tokens < 3:
            rule = "leave room for begin, end and a piece"
            raise ConfigError(message("data.max_tokens", f"be at least 3 and {rule}", max_tokens, do="Raise it"))
        return cls(built.to_str(), PieceSettings(source=source, max_sentences=max_sentences, max_tokens=max_tokens))

    @property
    def vocabulary(self) -> int:
        """Number of ids: `Problem.vocabulary`."""
        ids: dict[str, int] = self._built.get_vocab(with_added_tokens=True)
        return max(ids.values()) + 1

    def encode(self, text: str, *, subject: str = "", modality: str = "text", file: str = "") -> Text:
        """A report as ids.

        Args:
            text: The whole report.
            subject: For the error message.
            modality: For the error message.
            file: For the error message.

        Returns:
            `Text` with ids and attention of shape (S, L): S sentences with begin and end, padded with 0.

        Raises:
            DataError: The report has no word in it; an absent report must be a blank cell, not an empty file.
        """
        most = self.settings.max_tokens
        rows = []
        for sentence in sentences(text)[: self.settings.max_sentences]:
            ids = self._built.encode(sentence).ids
            rows.append(ids if len(ids) <= most else [*ids[: most - 1], ids[-1]])
        if not rows:
            do = "Leave it out where there is no report; in cohort.csv blank the cell"
            rule, got = "hold at least one word", repr(text[:40])
            raise DataError(message("report", rule, got, subject=subject, modality=modality, file=file, do=do))
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.long)
        return Text(ids, torch.arange(length) < torch.tensor([[len(row)] for row in rows]))

    def decode(self, text: Text) -> list[str]:
        """What `encode` kept, a string for each sentence, put together from its pieces. For looking at."""
        kept = [row[there].tolist() for row, there in zip(text.ids, text.attention, strict=True) if bool(there.any())]
        return [str(self._built.decode(row, skip_special_tokens=True)) for row in kept]

    def unknown(self, texts: Iterable[str]) -> float:
        """Share of the pieces of some texts that the tokenizer does not know, of begin and end none.

        Args:
            texts: Reports.
        """
        marks = {self._built.token_to_id(name) for name in ("[UNK]", "<unk>")} - {None}
        every = missing = 0
        for text in texts:
            for sentence in sentences(text)[: self.settings.max_sentences]:
                found = self._built.encode(sentence)
                inner = found.ids[1:-1]
                every += len(inner)
                missing += sum(i in marks for i in inner)
        return missing / every if every else 0.0

    def save(self, folder: Path | str) -> Path:
        """Writes tokenizer.json and pieces.json into a folder (RUN/tokenizer), each whole or not at all."""
        for name, content in ((FILE, self.content), (SETTINGS, self.settings.model_dump_json(indent=1))):
            with replacing(Path(folder) / name) as file:
                file.write(content.encode())
        return Path(folder) / FILE

    @classmethod
    def load(cls, folder: Path | str) -> PieceTokenizer:
        """The way back from `save`.

        Raises:
            RunError: A file is missing or damaged.
        """
        folder = Path(folder)
        do = "Take the run folder from where it was trained, whole"
        try:
            settings = PieceSettings.model_validate_json((folder / SETTINGS).read_bytes())
            content = (folder / FILE).read_text(encoding="utf-8") if _fits(folder / FILE) else ""
            _mark(_read(content, str(folder / FILE)), str(folder / FILE))
        except (OSError, UnicodeDecodeError, ValidationError, ConfigError) as error:
            got = str(error).splitlines()[0][:120]
            raise RunError(message("tokenizer", "be that of a trained run", got, file=str(folder), do=do)) from None
        return cls(content, settings)

    @cached_property
    def _built(self) -> Any:
        return _read(self.content, FILE)


def check_known(tokenizer: PieceTokenizer, texts: Sequence[str]) -> None:
    """Refuses a tokenizer that knows less than half of the training reports.

    Args:
        tokenizer: Of somebody else.
        texts: Some training reports.

    Raises:
        ConfigError: It does not; the encoder would see nothing but [UNK].
    """
    share = tokenizer.unknown(texts)
    if share > 0.5:
        rule = "know at least half of the pieces of the training reports"
        got = f"{1 - share:.0%} with {tokenizer.settings.source}"
        do = "Choose an encoder of the language of the reports, or data.tokenizer: words with an encoder of ours"
        raise ConfigError(message(OWNER, rule, got, do=do))


def _fits(file: Path) -> bool:
    return file.stat().st_size <= MAX_BYTES


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        got, do = "that of others without the library tokenizers", "Install comodal[text], or set data.tokenizer to words"
        raise ConfigError(message(OWNER, "be one that can be read", got, do=do)) from None
    return tokenizers


def _read(content: str, file: str) -> Any:
    library = _library()
    try:
        built = library.Tokenizer.from_str(content)
        built.encode_special_tokens = True  # "[SEP]" in a report is text
        return built
    except Exception as error:  # noqa: BLE001  it raises nothing more precise
        got = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        do = "Take the file again from where the encoder comes from"
        raise ConfigError(message(OWNER, f"be an intact {FILE}", got, file=file, do=do)) from None


def _from_vocabulary(file: Path, lower: object) -> Any:
    """A tokenizer of BERT from its list of pieces; where nothing says so, lower case is what a list without capitals wants."""
    content = file.read_text(encoding="utf-8", errors="replace") if _fits(file) else ""
    pieces = content.removesuffix("\n").split("\n")  # a piece may be a sign at which `splitlines` would split, and shift ids
    ids = {piece: number for number, piece in enumerate(pieces)}
    if "[UNK]" not in ids or "[CLS]" not in ids or "[SEP]" not in ids:
        rule, do = "have [UNK], [CLS] and [SEP] among its pieces", "Take the file again from where the encoder comes from"
        raise ConfigError(message(OWNER, rule, f"{len(pieces)} lines without", file=str(file), do=do))
    plain = [piece for piece in ids if not piece.startswith("[")]
    uncased = lower if isinstance(lower, bool) else not any(piece != piece.lower() for piece in plain)
    library = _library()
    built = library.Tokenizer(library.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    built.normalizer = library.normalizers.BertNormalizer(lowercase=uncased)
    built.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    built.decoder = library.decoders.WordPiece()
    built.add_special_tokens([mark for mark in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if mark in ids])
    return built


def _mark(built: Any, file: str) -> None:
    """Sees to it that a sequence has a mark at its begin and its end."""
    found = built.encode("a")
    if len(found.ids) >= 2 and found.special_tokens_mask[0] and found.special_tokens_mask[-1]:
        return
    for begin, end in MARKS:
        if built.token_to_id(begin) is not None and built.token_to_id(end) is not None:
            special = [(begin, built.token_to_id(begin)), (end, built.token_to_id(end))]
            built.post_processor = _library().processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=special)
            return
    rule, do = "mark begin and end of a sequence, as BERT does", "Choose an encoder of the BERT kind"
    raise ConfigError(message(OWNER, rule, "a tokenizer without", file=file, do=do))
