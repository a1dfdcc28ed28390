"""The public names of every public module are those of tests/public_names.json. `make public-names` accepts a change."""

from __future__ import annotations

import ast
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "tests" / "public_names.json"


def names_of(tree: ast.Module) -> list[str]:
    """`__all__` where there is one; otherwise what the module itself defines at its top without a leading underscore."""
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if names == ["__all__"] and node.value is not None:
                return sorted(ast.literal_eval(node.value))
            found.extend(names)
    return sorted({name for name in found if not name.startswith("_")})


def public_names() -> dict[str, list[str]]:
    """{module: names} of every module whose path has no leading underscore."""
    source = ROOT / "src"
    record = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        names = names_of(ast.parse(path.read_text(encoding="utf-8")))
        if names and not any(part.startswith("_") for part in parts):
            record[".".join(parts)] = names
    return dict(sorted(record.items()))


def test_public_names_are_the_recorded_ones() -> None:
    recorded, now = json.loads(RECORD.read_text(encoding="utf-8")), public_names()
    gone = [f"{m}.{n}" for m, names in recorded.items() for n in names if n not in now.get(m, [])]
    new = [f"{m}.{n}" for m, names in now.items() for n in names if n not in recorded.get(m, [])]
    advice = "If this is meant, run `make public-names` and say it in CHANGELOG.md; otherwise give the name an underscore."
    assert not gone and not new, f"Public names that disappeared: {gone}; that are new: {new}. {advice}"


if __name__ == "__main__":
    RECORD.write_text(json.dumps(public_names(), indent=1) + "\n", encoding="utf-8")
