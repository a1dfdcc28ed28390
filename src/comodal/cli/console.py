"""`Console`: progress, warnings and errors on standard error; answers on standard output.

On a terminal progress is a bar with the time left; elsewhere (a file, a pipe, continuous integration) it is a plain line every
few seconds. Machines read standard output: with `--json` it holds one document and nothing else, whatever the libraries print.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table as RichTable

from comodal.cli.answer import Answer, plain

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from comodal.training.events import Event, Progress, Said, Table

SECONDS_BETWEEN_LINES = 8.0
SECONDS_BETWEEN_REFRESHES = 0.25
WIDTH_OF_FILES = 160  # columns where there is no terminal: tables in logs and pipes must not be cut


# What a terminal that is not UTF-8 shows instead, one character for one, so that tables stay in line.
IN_ASCII = {"●": "x", "○": ".", "◐": "o", "–": "-", "−": "-", "×": "x", "±": "~", "…": "~"}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(IN_ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("comodal.in_ascii", _in_ascii)


def duration(seconds: float) -> str:
    """A time as one says it.

    >>> [duration(s) for s in (4.2, 75, 3720)]
    ['4 s', '1 min 15 s', '1 h 02 min']
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RichTable:
    """A rich table of plain texts; columns of numbers stand to the right, columns of circles in the middle.

    Args:
        title: Heading, empty for none.
        columns: Names of the columns.
        rows: Sequences of as many values as there are columns.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    grid = RichTable(title=escape(title) or None, title_justify="left", header_style="bold")
    for place, name in enumerate(columns):
        grid.add_column(escape(str(name)), justify=_justify({row[place] for row in cells}), overflow="fold")
    for row in cells:
        grid.add_row(*(escape(cell) for cell in row))
    return grid


def _justify(cells: set[str]) -> Literal["left", "center", "right"]:
    if cells & {"●", "○", "◐"}:
        return "center"
    return "right" if cells and all(cell[:1].isdigit() or cell[:1] in "-–" for cell in cells) else "left"


class Console:
    """Says what happens. Hand `on_event` to the functions of `comodal.api`.

    Args:
        as_json: Print the answer as one JSON document.
        debug: Print tracebacks.
        quiet: Say nothing but errors: the further processes of one training.
        out, err: Streams, for tests; standard output and standard error otherwise.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        debug: bool = False,
        quiet: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.as_json, self.debug, self.quiet = as_json, debug, quiet
        self._stdout = out if out is not None else sys.stdout
        self._out = _rich(self._stdout)
        self._err = _rich(err if err is not None else sys.stderr)
        self._clock = clock
        self._spoken: dict[str, float] = {}  # when each piece of work last had a line
        self._live: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._refreshed = 0.0

    def on_event(self, event: Event) -> None:
        """Shows one event of the API: progress, something said, or a table."""
        from comodal.training import events

        if self.quiet:
            return
        if isinstance(event, events.Progress):
            self._progress(event)
        elif isinstance(event, events.Said):
            self._said(event)
        else:
            self._table(event)

    def warn(self, text: str) -> None:
        """Says a warning aloud, above any progress bar."""
        self._line(f"[bold yellow]warning:[/] {escape(text)}")

    def info(self, text: str) -> None:
        """Says what is being done, on standard error."""
        self._line(escape(text))

    def error(self, text: str, error: BaseException | None = None, *, kind: str = "", code: int = 1) -> None:
        """Says what went wrong: one message, the traceback only with `--debug`, and a document for machines.

        Args:
            text: The message.
            error: What was raised; None where nobody made a mistake (an interruption).
            kind: For machines; the class of `error` by default.
            code: The exit code, for machines.
        """
        self.close()
        if self.debug and error is not None:
            self._err.file.write("".join(traceback.format_exception(error)))
        label = "" if error is None else "[bold red]Error:[/] "
        self._err.print(f"{label}{escape(text)}", soft_wrap=True, highlight=False)
        if self.as_json and not self.quiet:
            kind = kind or type(error).__name__
            self._document({"error": {"kind": kind, "message": text, "exit_code": code}})

    def answer(self, answer: Answer) -> None:
        """Prints a command's answer on standard output."""
        self.close()
        if self.quiet:
            return
        if self.as_json:
            self._document(answer.document)
            return
        for item in answer.show:
            if isinstance(item, str):
                self._out.print(item, soft_wrap=True, highlight=False, markup=False)
            else:
                self._out.print(item)
        if answer.next:
            self._out.print(f"[bold]Next:[/] {escape(answer.next)}", soft_wrap=True, highlight=False)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """With `--json`, sends to standard error what anything below, C++ included, prints on standard output meanwhile."""
        if not self.as_json or self._stdout is not sys.stdout:
            yield
            return
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)

    def close(self) -> None:
        """Takes a running progress bar off the terminal."""
        if self._live is not None:
            self._live.stop()
        self._live, self._tasks = None, {}

    def _document(self, document: object) -> None:
        # ASCII only, so that no terminal or locale can break it.
        self._stdout.write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")
        self._stdout.flush()

    def _line(self, text: str) -> None:
        if not self.quiet:
            self._err.print(text, soft_wrap=True, highlight=False)

    def _said(self, event: Said) -> None:
        if event.level == "warning":
            self.warn(event.text)
        else:
            self.info(event.text)

    def _table(self, event: Table) -> None:
        grid = table(event.title, event.columns, event.rows)
        if self.as_json:
            self._err.print(grid)
            return
        self.close()  # a bar on standard error would be drawn into a table on standard output
        self._out.print(grid)

    def _progress(self, event: Progress) -> None:
        finished = event.done >= event.total
        if self._err.is_terminal and not self._err.is_dumb_terminal:
            self._bar(event, finished)
        else:
            self._plain_progress(event, finished)

    def _plain_progress(self, event: Progress, finished: bool) -> None:
        now = self._clock()
        since = self._spoken.setdefault(event.what, now)
        if not finished and now - since < SECONDS_BETWEEN_LINES:
            return
        self._spoken[event.what] = now
        if finished:
            del self._spoken[event.what]
        self._line(escape(_progress_text(event)))

    def _bar(self, event: Progress, finished: bool) -> None:
        live = self._bars()
        if event.what not in self._tasks:
            self._tasks[event.what] = live.add_task(event.what, total=event.total, left="", note="")
        left = "" if event.seconds_left is None else f"{duration(event.seconds_left)} left"
        task = self._tasks[event.what]
        live.update(task, completed=event.done, total=event.total, left=left, note=event.text)
        if finished:  # its last state stays as a plain line, so that a study of many runs does not fill the screen with bars
            live.remove_task(task)
            del self._tasks[event.what]
            self.info(_progress_text(event))
        if finished or self._clock() - self._refreshed >= SECONDS_BETWEEN_REFRESHES:
            self._refreshed = self._clock()
            live.refresh()

    def _bars(self) -> RichProgress:
        if self._live is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns: list[Any] = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
            columns += [TextColumn("{task.fields[left]}", markup=False), TextColumn("{task.fields[note]}", markup=False)]
            # No refreshing thread: the loaders of a training fork, and a thread that holds a lock then would not survive it.
            self._live = Progress(*columns, console=self._err, auto_refresh=False, transient=True)
            self._live.start()
        return self._live


def _progress_text(event: Progress) -> str:
    over = event.seconds_left is None or event.done >= event.total
    left = "" if event.seconds_left is None or over else f", {duration(event.seconds_left)} left"
    return f"{event.what}: {event.done}/{event.total}{left}" + (f"  {event.text}" if event.text else "")


def _rich(stream: TextIO) -> RichConsole:
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="comodal.in_ascii")
    terminal = stream.isatty()
    return RichConsole(file=stream, width=None if terminal else WIDTH_OF_FILES, markup=True, emoji=False)
