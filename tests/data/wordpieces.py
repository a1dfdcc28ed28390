"""A small published encoder of reports on disk, in the form of the hub, without its network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PIECES: tuple[str, ...] = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    ".",
    "a",
    "no",
    "nodule",
    "is",
    "seen",
    "in",
    "the",
    "left",
    "right",
)
PIECES += ("upper", "zone", "there", "effusion", "comparison", "made", "with", "prior", "study", "##s", "##ab", "e", "##f")
BERT: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": len(PIECES) + 4,  # tables are often padded
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
}


def write_encoder(folder: Path, **changes: Any) -> Path:
    """vocab.txt and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({**BERT, **changes}), encoding="utf-8")
    return folder
