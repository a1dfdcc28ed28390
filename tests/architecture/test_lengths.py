"""No file over 400 lines, no function over 80, at most three positional arguments in public, no room called utils."""

from __future__ import annotations

import ast
from pathlib import Path

MAX_FILE = 400
MAX_FUNCTION = 80
MAX_POSITIONAL = 3
VAGUE = {"utils", "util", "common", "helpers", "misc"}


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_no_file_is_over_400_lines(root: Path, trees: dict[str, ast.Module]) -> None:
    lengths = {path: len((root / path).read_text(encoding="utf-8").splitlines()) for path in trees}
    long = {path: lines for path, lines in lengths.items() if lines > MAX_FILE}
    assert not long, f"Split by subject: {long}"


def test_no_function_is_over_80_lines(trees: dict[str, ast.Module]) -> None:
    long = [
        f"{path}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path, tree in trees.items()
        for node in functions(tree)
        if node.end_lineno is not None and node.end_lineno - node.lineno >= MAX_FUNCTION
    ]
    assert not long, "Take a step out of: " + "; ".join(long)


def test_public_functions_take_at_most_three_positional_arguments(trees: dict[str, ast.Module]) -> None:
    many = []
    for path, tree in trees.items():
        for node in functions(tree):
            if node.name.startswith("_") and node.name != "__init__":
                continue
            names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args) if arg.arg not in ("self", "cls")]
            if len(names) > MAX_POSITIONAL:
                many.append(f"{path}:{node.lineno} {node.name}({', '.join(names)})")
    assert not many, "Put a `*` before the arguments that have names: " + "; ".join(many)


def test_no_module_has_a_vague_name(trees: dict[str, ast.Module]) -> None:
    assert not [path for path in trees if VAGUE & set(Path(path).with_suffix("").parts)]
