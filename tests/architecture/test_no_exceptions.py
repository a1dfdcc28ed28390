"""The checks have no way round: no ignored import, no file that mypy skips, no blanket ignore of an error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def tools(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    return found


def test_layers_are_exhaustive_and_have_no_exception(tools: dict[str, Any]) -> None:
    contracts = tools["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["type"] == "layers")
    assert layers["exhaustive"] is True
    assert not [contract["name"] for contract in contracts if {"ignore_imports", "exhaustive_ignores"} & set(contract)]


def test_mypy_is_strict_and_skips_no_file(tools: dict[str, Any]) -> None:
    mypy = tools["mypy"]
    assert mypy["strict"] is True and "exclude" not in mypy and "src" in mypy["files"]
    for override in mypy["overrides"]:
        assert "ignore_errors" not in override
        assert not [name for name in override["module"] if name.startswith(("comodal", "*"))]


def test_warnings_are_errors_and_exceptions_name_a_module(tools: dict[str, Any]) -> None:
    first, *rest = tools["pytest"]["ini_options"]["filterwarnings"]
    assert first == "error"
    for line in rest:
        action, text, *_ = line.split(":")
        assert action in ("ignore", "default") and text, f"A warning that is let through is named by its text: {line}"
