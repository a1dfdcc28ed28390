"""What the documents name exists: files behind links, commands and their options, targets of make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from comodal.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
IN_BLOCK = re.compile(r"^(?:\S*bin/)?comodal ([a-z][a-z-]*)([^#\n]*)", re.MULTILINE)
IN_LINE = re.compile(r"`comodal ([a-z][a-z-]*)([^`]*)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
TARGET = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@cache
def options() -> dict[str, set[str]]:
    """{command: its options}, as typer understands them."""
    commands = getattr(get_command(app()), "commands")  # noqa: B009
    return {name: {"--help", *(opt for param in command.params for opt in param.opts)} for name, command in commands.items()}


def named(text: str) -> Iterator[tuple[str, str]]:
    """(command, what follows it) of every call in a text, in blocks of code and within lines."""
    for block in BLOCK.findall(text):
        yield from IN_BLOCK.findall(block)
    yield from IN_LINE.findall(BLOCK.sub("", text))


@documents
def test_links_lead_somewhere(path: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(path.read_text(encoding="utf-8"))]
    missing = [link for link in links if link and "://" not in link and not (path.parent / link).exists()]
    assert not missing, f"{path.name} links to files that do not exist: {missing}"


@documents
def test_commands_and_options_exist(path: Path) -> None:
    calls = list(named(path.read_text(encoding="utf-8")))
    wrong = [command for command, _ in calls if command not in options()]
    wrong += [f"{name} {opt}" for name, rest in calls for opt in OPTION.findall(rest) if opt not in options().get(name, {opt})]
    assert not wrong, f"{path.name} names commands or options that do not exist: {wrong}"


@documents
def test_targets_of_make_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(TARGET.findall(path.read_text(encoding="utf-8")))
    assert not {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)}


def test_every_command_stands_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in options() if f"`comodal {name}" not in readme]
