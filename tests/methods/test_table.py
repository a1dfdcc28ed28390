"""METHODS: what the table says without importing anything is what the classes say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.classified import classified

from comodal.errors import ConfigError
from comodal.method import Method, MethodConfig, Problem
from comodal.methods import METHODS, load_method
from comodal.modality import Modality, Target

SEG = Target("seg", "regions", ("WT",))


@pytest.mark.parametrize("name", METHODS)
def test_the_entry_is_the_class(name: str) -> None:
    cls = load_method(name)
    assert issubclass(cls, Method)
    assert METHODS[name].citation == str(cls.paper)
    assert METHODS[name].path == f"comodal.methods.{name.replace('-', '_')}:{cls.__name__}"  # one method, one file, of its name


@pytest.mark.parametrize("name", METHODS)
def test_the_tasks_are_those_of_the_class(name: str) -> None:
    cls = load_method(name)
    if "classification" in METHODS[name].tasks:
        problem, config = classified(name)
    else:
        problem, config = Problem((Modality("t1"), Modality("t2")), (SEG,), 2, (64, 64)), cls.Config()
    assert cls(problem, config).requires.tasks == METHODS[name].tasks


@pytest.mark.parametrize("name", METHODS)
def test_the_summary_is_one_sentence(name: str) -> None:
    entry = METHODS[name]
    assert entry.summary[0].isupper() and entry.summary.endswith(".")
    assert ". " not in entry.summary
    assert len(entry.summary) <= 128
    assert entry.at_training and entry.at_test


@pytest.mark.parametrize("name", METHODS)
def test_the_configuration_is_plain_and_has_a_default_for_every_key(name: str) -> None:
    config = load_method(name).Config
    assert issubclass(config, MethodConfig)
    assert config.model_validate(config().model_dump(mode="json")) == config()
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        config.model_validate({"no-such-key": 1})


@pytest.mark.parametrize("name", ["unett", "os:system", "comodal.methods.unet:UNet", "", "../unet", "UNET"])
def test_only_names_of_the_table_are_imported(name: str) -> None:
    with pytest.raises(ConfigError, match=r"method.name must be a known method; got .*(Known: |Did you mean )"):
        load_method(name)


def test_a_misspelt_name_lists_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"got 'modrop'. Did you mean moddrop\?"):
        load_method("modrop")


def test_every_method_has_a_page() -> None:
    pages = Path(__file__).parents[2] / "docs" / "methods"
    assert {page.stem for page in pages.glob("*.md")} == set(METHODS)
