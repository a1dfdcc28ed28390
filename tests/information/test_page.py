"""docs/information.md says what the code computes: the exact table is that of the enumeration, the certificate holds its rules.

`python tests/information/test_page.py` writes the exact table anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from comodal.information.estimators import ESTIMATORS
from comodal.information.local_cases import theory_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "information.md"
NUMBERS = ("sum", "mean", "maximum", "global", "selected per image")
HEADINGS = ("Σ I(z_n; s_f(n))", "mean", "largest", "I(z; s)", "Eq. (5)")
THEORY = re.compile(r"(<!-- theory: begin -->\n).*?(<!-- theory: end -->)", re.DOTALL)


def theory() -> str:
    lines = [f"| case | what it shows | {' | '.join(HEADINGS)} | the sum is |", "| --- " * (len(HEADINGS) + 3) + "|"]
    for row in theory_table():
        numbers = " | ".join(f"{row[name] + 0.0:.3f}" for name in NUMBERS if not isinstance(row[name], str))  # type: ignore[operator]
        lines.append(f"| {row['case']} | {row['about']} | {numbers} | {row['the sum is']} |")
    return "\n".join(lines) + "\n"


def test_the_exact_table_is_that_of_the_enumeration() -> None:
    found = THEORY.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == f"{found[1]}{theory()}{found[2]}", "run this file to write it anew"


def test_every_estimator_stands_on_the_page_as_what_it_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, estimator in ESTIMATORS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        assert f"| {estimator.kind} |" in row
        assert ("log K" in row.rsplit("|", 2)[1]) == estimator.limited


def test_the_certificate_has_been_run_and_holds() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("<!-- certificate: begin -->")[2].partition("<!-- certificate: end -->")[0]
    rules = [line for line in table.splitlines() if line.count("|") == 4][2:]
    assert len(rules) == 4
    assert all("| yes |" in rule for rule in rules), rules


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(THEORY.sub(lambda found: f"{found[1]}{theory()}{found[2]}", before), encoding="utf-8")
