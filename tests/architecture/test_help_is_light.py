"""`comodal --help`, and that of every command, imports nothing that takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from comodal.cli.main import COMMANDS

HEAVY = {"torch", "monai", "lightning_fabric", "transformers", "matplotlib", "scipy", "sklearn", "statsmodels", "pandas"}

# One process for all commands: modules only ever come in, so that a heavy one would still be there at the end.
SCRIPT = """
import contextlib, io, json, runpy, sys
answers = {}
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    sys.argv = ["comodal", *words]
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_module("comodal", run_name="__main__")
    except SystemExit as stop:
        answers[" ".join(words)] = [stop.code or 0, out.getvalue(), sorted(m for m in sys.modules if "." not in m)]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[int, str, list[str]]]:
    """{words: exit code, text, modules imported so far}."""
    calls = [["--help"], ["--version"], *[[name, "--help"] for name in COMMANDS]]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(calls)], capture_output=True, text=True, check=True, timeout=60
    )
    return {words: (code, text, modules) for words, (code, text, modules) in json.loads(done.stdout).items()}


def test_help_imports_nothing_heavy(answers: dict[str, tuple[int, str, list[str]]]) -> None:
    for words, (_, _, modules) in answers.items():
        assert not HEAVY & set(modules), f"`comodal {words}` imports them; import them inside the function that needs them."


def test_every_command_is_in_the_help_and_explains_itself(answers: dict[str, tuple[int, str, list[str]]]) -> None:
    overview = answers["--help"][1]
    for name in COMMANDS:
        code, text, _ = answers[f"{name} --help"]
        assert code == 0
        assert f" {name} " in overview
        assert f"comodal {name}" in text


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "comodal", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("comodal ")
