from __future__ import annotations

import io
import json

import pytest

from comodal.cli.answer import Answer
from comodal.cli.console import Console, duration, table
from comodal.training.events import Progress, Said, Table


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def console(**changes: object) -> tuple[Console, io.StringIO, io.StringIO, Seconds]:
    out, err, clock = io.StringIO(), io.StringIO(), Seconds()
    return Console(**{"out": out, "err": err, "clock": clock, **changes}), out, err, clock  # type: ignore[arg-type]


def test_plain_progress_speaks_every_few_seconds_and_at_the_end() -> None:
    screen, out, err, clock = console()
    for step in range(1, 101):
        screen.on_event(Progress("train", step, 100, seconds_left=100.0 - step, text=f"loss {step}"))
        clock.now += 1
    lines = err.getvalue().splitlines()
    steps = [int(line.split()[1].split("/")[0]) for line in lines]
    assert steps == [*range(9, 100, 8), 100]
    assert lines[0] == "train: 9/100, 1 min 31 s left  loss 9"
    assert lines[-1] == "train: 100/100  loss 100"
    assert out.getvalue() == ""


def test_two_pieces_of_work_have_their_own_pace() -> None:
    screen, _, err, clock = console()
    screen.on_event(Progress("a", 1, 9))
    clock.now += 7
    screen.on_event(Progress("b", 1, 9))
    clock.now += 2
    screen.on_event(Progress("a", 2, 9))
    screen.on_event(Progress("b", 2, 9))
    assert err.getvalue() == "a: 2/9\n"


def test_work_that_is_done_may_start_again() -> None:
    screen, _, err, _ = console()
    for _ in range(2):
        screen.on_event(Progress("a", 1, 2))
        screen.on_event(Progress("a", 2, 2))
    assert err.getvalue() == "a: 2/2\na: 2/2\n"


def test_a_warning_is_said_aloud_and_markup_in_it_is_text() -> None:
    screen, out, err, _ = console()
    screen.on_event(Said("warning", "empty predictions [bold] in [t1]"))
    screen.on_event(Said("info", "stage [1/2]"))
    assert err.getvalue() == "warning: empty predictions [bold] in [t1]\nstage [1/2]\n"
    assert out.getvalue() == ""


def test_a_bar_shows_count_time_left_and_text_and_ends_as_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    err = Terminal()
    screen, _, _, clock = console(err=err)
    screen.on_event(Progress("train", 1, 3, seconds_left=75, text="loss 0.4"))
    clock.now += 1
    screen.on_event(Progress("train", 2, 3, seconds_left=30, text="loss 0.3"))
    during = err.getvalue()
    assert "1/3" in during and "1 min 15 s left" in during and "loss 0.3" in during
    screen.on_event(Said("warning", "the loss never falls"))
    screen.on_event(Progress("train", 3, 3, text="loss 0.2"))
    screen.close()
    assert "the loss never falls" in err.getvalue()
    assert "train: 3/3  loss 0.2" in err.getvalue()


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    err = Terminal()
    screen, _, _, _ = console(err=err)
    screen.on_event(Progress("train", 1, 2))
    screen.on_event(Progress("train", 2, 2))
    assert err.getvalue() == "train: 2/2\n"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    err = Terminal()
    screen, _, _, _ = console(err=err)
    screen.warn("x")
    assert "\x1b[33m" not in err.getvalue() and "33m" not in err.getvalue()


def test_an_answer_for_people_and_for_machines() -> None:
    said = Answer(
        {"value": float("nan"), "run": "é"}, show=["Best [x]: 0.5", table("T", ("a", "b"), [("x", 1)])], next="comodal y"
    )
    screen, out, err, _ = console()
    screen.answer(said)
    lines = out.getvalue().splitlines()
    assert lines[0] == "Best [x]: 0.5" and lines[-1] == "Next: comodal y" and "x" in out.getvalue()
    screen, out, err, _ = console(as_json=True)
    screen.answer(said)
    assert json.loads(out.getvalue()) == {"value": None, "run": "é"}
    assert out.getvalue().isascii()
    assert err.getvalue() == ""


def test_a_table_event_goes_where_machines_do_not_read() -> None:
    event = Table("DSC", ("subset", "WT"), [("flair", "0.81")])
    screen, out, err, _ = console()
    screen.on_event(event)
    assert "0.81" in out.getvalue() and err.getvalue() == ""
    screen, out, err, _ = console(as_json=True)
    screen.on_event(event)
    assert "0.81" in err.getvalue() and out.getvalue() == ""


def test_a_long_text_is_not_broken_into_lines() -> None:
    screen, out, _, _ = console()
    path = "/".join(["folder"] * 60)
    screen.answer(Answer({}, show=[path], next=path))
    assert out.getvalue() == f"{path}\nNext: {path}\n"


def test_an_error_is_one_message_and_a_traceback_only_when_asked() -> None:
    try:
        raise ValueError("deep")
    except ValueError as error:
        caught = error
    screen, out, err, _ = console()
    screen.error("a [b]", caught)
    assert err.getvalue() == "Error: a [b]\n" and out.getvalue() == ""
    screen, out, err, _ = console(debug=True, as_json=True)
    screen.error("a", caught, code=2)
    assert "Traceback" in err.getvalue() and err.getvalue().endswith("Error: a\n")
    assert json.loads(out.getvalue()) == {"error": {"kind": "ValueError", "message": "a", "exit_code": 2}}


def test_further_processes_of_a_training_are_quiet() -> None:
    screen, out, err, _ = console(quiet=True, as_json=True)
    screen.on_event(Said("warning", "x"))
    screen.on_event(Progress("a", 1, 1))
    screen.answer(Answer({}))
    assert out.getvalue() == "" and err.getvalue() == ""
    screen.error("broken", ValueError())
    assert err.getvalue() == "Error: broken\n" and out.getvalue() == ""


def test_a_terminal_that_is_not_utf_8_shows_something() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    screen, _, _, _ = console(out=stream)
    screen.answer(Answer({}, show=["naïve", table("", ("flair", "t1"), [("●", "○")])]))
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "na?ve" in text and "|   x   | .  |" in text


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (7260, "2 h 01 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_columns_of_numbers_stand_to_the_right() -> None:
    grid = table("", ("name", "n", "empty"), [("1a", "12", ""), ("b", "-3", "")])
    assert [column.justify for column in grid.columns] == ["left", "right", "right"]
