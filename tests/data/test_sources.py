"""Files of published encoders: where they are looked for, and what is said where they are not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.data.wordpieces import write_encoder

from comodal.data import sources
from comodal.data.sources import find_file, packaged, with_sizes
from comodal.errors import ConfigError
from comodal.networks.texts import TextConfig


def test_sizes_come_from_the_folder_once(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder")
    config = with_sizes(TextConfig(text=str(folder)))
    assert config.text_sizes["source"] == str(folder) and config.text_sizes["hidden_size"] == 16
    (folder / "config.json").unlink()
    assert with_sizes(config) == config and with_sizes(config, look=False) == config
    assert with_sizes(config.model_copy(update={"text": "cnn"})).text_sizes == {}
    assert with_sizes(TextConfig(text="somewhere/else"), look=False).text_sizes == {}


@pytest.mark.parametrize(("content", "says"), [
    ("[]", r"must have a plain JSON mapping; got list"),
    ("{", r"must have a plain JSON mapping; got "),
    ('{"model_type": "gpt2"}', r"be of a family that fits; got 'gpt2'"),
    ("{}", r"be of a family that fits; got None"),
])  # fmt: skip
def test_another_config_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=says):
        with_sizes(TextConfig(text=str(tmp_path)))


@pytest.mark.parametrize("changes", [
    {"hidden_size": 0}, {"hidden_size": "16"}, {"hidden_size": True}, {"num_hidden_layers": 10**9}, {"vocab_size": None},
    {"hidden_act": "os.system"}, {"layer_norm_eps": 2}, {"position_embedding_type": "relative_key"},
])  # fmt: skip
def test_values_out_of_bounds_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"method.text.* must "):
        with_sizes(TextConfig(text=str(write_encoder(tmp_path, **changes))))


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"must be a known encoder of reports, .*got 'bert-128x3'. Did you mean bert-128x2"):
        with_sizes(TextConfig(text="bert-128x3"))


def test_pickles_are_to_be_converted(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"got .* Convert pytorch_model.bin once, as docs/texts.md shows"):
        find_file(str(tmp_path), "model.safetensors", owner="method.pretrained")


def test_a_package_that_ships_one_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.PACKAGED, "tiny", ("tiny_encoder_of_reports", "model"))
    with pytest.raises(
        ConfigError, match=r"be one that is installed; got tiny without tiny_encoder_of_reports. Install comodal.tiny."
    ):
        packaged("tiny", owner="method.text")
    write_encoder(tmp_path / "tiny_encoder_of_reports" / "model")
    (tmp_path / "tiny_encoder_of_reports" / "__init__.py").write_text("raise SystemExit(1)")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_file("tiny", "config.json", owner="x") == tmp_path / "tiny_encoder_of_reports" / "model" / "config.json"
    assert with_sizes(TextConfig(text="tiny")).text_sizes["family"] == "bert"


def test_what_the_hub_has_not_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    module, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    missing: type[OSError] = type("RemoteEntryNotFoundError", (OSError,), {})

    def download(name: str, file: str, revision: str | None = None) -> str:
        raise missing(f"404 {name} {file} {revision}")

    module.hf_hub_download = download  # type: ignore[attr-defined]
    errors.HfHubHTTPError = type("HfHubHTTPError", (OSError,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    assert find_file("owner/name@main", "tokenizer_config.json", owner="x", needed=False) is None
    with pytest.raises(ConfigError, match=r"x must have a config.json on the hub .*404 owner/name config.json main"):
        find_file("owner/name@main", "config.json", owner="x")
