"""List F4: every bad input, the outcome that is due, and the code that runs it. It is also the table of `docs/data.md`.

`python -m tests.data.f4` writes that table anew, by running every entry.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from tests.data.f4_attack import ATTACKS
from tests.data.f4_content import SETS, TABLES, VALUES
from tests.data.f4_files import FILES, GEOMETRY, HEADERS
from tests.data.f4_scene import Entry, Outcome

F4: tuple[Entry, ...] = (*FILES, *HEADERS, *GEOMETRY, *VALUES, *TABLES, *SETS, *ATTACKS)
WORDS = {"E": "error", "W": "warning", "H": "handled", "n/a": "not applicable"}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
BEGIN, END = "<!-- list F4 begins -->\n", "<!-- list F4 ends -->\n"
MOST = 150  # characters of a remark


def run(entry: Entry) -> Outcome:
    """One entry, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = entry.run(Path(folder))
    return Outcome(outcome.level, outcome.text.replace(folder, "..."))


def table(outcomes: dict[str, Outcome]) -> str:
    """The entries by group, in Markdown. outcomes: {id: what came of it}."""
    parts = []
    for group in dict.fromkeys(entry.group for entry in F4):
        rows = [_row(entry, outcomes[entry.id]) for entry in F4 if entry.group == group]
        parts.append(f"### {group}\n\n| id | input | outcome | what is said |\n| --- | --- | --- | --- |\n" + "".join(rows))
    return "\n".join(parts)


def _row(entry: Entry, outcome: Outcome) -> str:
    said = " ".join(outcome.text.split())
    said = said if len(said) <= MOST else said[: MOST - 3].rsplit(" ", 1)[0] + " ..."
    cells = (f"`{entry.id}`", entry.what, WORDS[outcome.level], re.sub(r"([|\\<>*_`])", r"\\\1", said))
    return f"| {' | '.join(cells)} |\n"


def on_page() -> str:
    """The table as it stands in the documentation."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip("\n") + "\n"


def write() -> None:
    """Runs every entry and puts the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    made = table({entry.id: run(entry) for entry in F4})
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    write()
