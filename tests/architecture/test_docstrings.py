"""Every public class and function says what it is, and the names in its docstring are those of its signature."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples|Note|Notes|References):\s*$")
ENTRY = re.compile(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def section(docstring: str, title: str) -> list[str] | None:
    """Names of the entries of one section, in order; None where there is no such section."""
    lines = iter(docstring.splitlines())
    if not any(line.strip() == f"{title}:" for line in lines):
        return None
    names: list[str] = []
    for line in lines:
        if SECTION.match(line) or (line and not line.startswith(" ")):
            break
        if match := ENTRY.match(line):
            names += [name.strip(" *") for name in match[1].split(",")]
    return names


def parameters(node: Function, *, bound: bool) -> list[str]:
    """Names of the arguments; those of a bound method without its first."""
    arguments = node.args
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    positional = [*arguments.posonlyargs, *arguments.args][1 if bound and not static else 0 :]
    every = [*positional, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [arg.arg for arg in every if arg is not None]


def constructor(node: ast.ClassDef) -> Function | None:
    """`__init__`, where the class writes it itself."""
    return next((inner for inner in node.body if isinstance(inner, ast.FunctionDef) and inner.name == "__init__"), None)


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef, ast.ClassDef | None]]:
    """(qualified name, node, its class) of what a module or class offers; magic methods speak for themselves."""
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            yield prefix + node.name, node, None
            if isinstance(node, ast.ClassDef):
                yield from ((name, inner, node) for name, inner, _ in public(node.body, f"{prefix}{node.name}."))


def is_override_or_overload(node: Function | ast.ClassDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id in ("override", "overload") for d in node.decorator_list)


def test_everything_public_has_a_docstring(trees: dict[str, ast.Module]) -> None:
    silent = [path for path, tree in trees.items() if not ast.get_docstring(tree)]
    for path, tree in trees.items():
        for name, node, _ in public(tree.body):
            if not ast.get_docstring(node) and not is_override_or_overload(node):
                silent.append(f"{path}:{node.lineno} {name}")
    assert not silent, f"Say in one line what it does: {silent}"


def test_documented_arguments_are_those_of_the_signature(trees: dict[str, ast.Module]) -> None:
    wrong = []
    for path, tree in trees.items():
        for name, node, owner in public(tree.body):
            told = section(ast.get_docstring(node) or "", "Args")
            function = constructor(node) if isinstance(node, ast.ClassDef) else node
            if told is None or function is None:
                continue
            real = parameters(function, bound=owner is not None or function is not node)
            if told != real:
                wrong.append(f"{path}:{node.lineno} {name}: Args {told}, signature {real}")
    assert not wrong, "\n".join(["List every argument, in order:", *wrong])


def test_documented_attributes_exist(trees: dict[str, ast.Module]) -> None:
    wrong = []
    for path, tree in trees.items():
        for name, node, _ in public(tree.body):
            if not isinstance(node, ast.ClassDef):
                continue
            fields = {
                item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
            properties = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            own = {
                item.attr
                for item in ast.walk(node)
                if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id == "self"
            }
            unknown = set(section(ast.get_docstring(node) or "", "Attributes") or ()) - fields - properties - own
            if unknown:
                wrong.append(f"{path}:{node.lineno} {name}: {sorted(unknown)}")
    assert not wrong, f"Attributes that the class does not have: {wrong}"


def test_the_reader_of_docstrings_reads() -> None:
    text = "Does.\n\nArgs:\n    a, b: Both\n        with: a colon.\n    *rest: All.\n\nReturns:\n    c: no argument.\n"
    assert section(text, "Args") == ["a", "b", "rest"]
    assert section(text, "Attributes") is None
