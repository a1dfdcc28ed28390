"""`main()`: finds the command, runs it, prints its answer, and turns errors into one message and an exit code.

Exit codes: 0 done, 1 the work failed, 2 the user's input was wrong, 130 interrupted. Nothing heavy is imported here: a command
imports `comodal.api` when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_type_hints

import typer

from comodal import __version__
from comodal.cli.answer import Answer
from comodal.cli.check import check
from comodal.cli.console import Console
from comodal.cli.convert import convert
from comodal.cli.demo import demo
from comodal.cli.evaluate import evaluate
from comodal.cli.explain import explain
from comodal.cli.index import index
from comodal.cli.init import init
from comodal.cli.join import join
from comodal.cli.layouts import layouts
from comodal.cli.match import match
from comodal.cli.methods import methods
from comodal.cli.mi import mi
from comodal.cli.options import Debug, Json, known_name
from comodal.cli.phantom import phantom
from comodal.cli.predict import predict
from comodal.cli.report import report
from comodal.cli.reproduce import reproduce
from comodal.cli.study import study
from comodal.cli.train import train
from comodal.errors import ComodalError, UserError

COMMANDS: dict[str, tuple[Callable[..., Answer], str]] = {
    "demo": (demo, "Begin"),
    "phantom": (phantom, "Data"),
    "index": (index, "Data"),
    "join": (join, "Data"),
    "check": (check, "Data"),
    "convert": (convert, "Data"),
    "layouts": (layouts, "Data"),
    "methods": (methods, "Learn and predict"),
    "init": (init, "Learn and predict"),
    "train": (train, "Learn and predict"),
    "evaluate": (evaluate, "Learn and predict"),
    "predict": (predict, "Learn and predict"),
    "explain": (explain, "Compare and show"),
    "match": (match, "Compare and show"),
    "report": (report, "Compare and show"),
    "study": (study, "Compare and show"),
    "reproduce": (reproduce, "Compare and show"),
    "mi": (mi, "Compare and show"),
}

# What to type after Ctrl-C; the other commands start afresh.
_AGAIN = "the same command continues it"
CONTINUE = {"train": "continue with --resume", "study": _AGAIN, "reproduce": _AGAIN}

# typer.UsageError is not public; typer.BadParameter is, and that is its base in every version.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: What follows the word `comodal`; None takes it from the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Read before parsing, so that a mistake in the other words is answered in the form that was asked for.
    console = Console(as_json="--json" in words, debug="--debug" in words, quiet=not _first_process())
    try:
        with warnings.catch_warnings():
            _route_warnings(console)
            return _run(words, console)
    except BrokenPipeError:  # the reader has gone (`comodal methods | head`): nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        console.close()


def _run(words: list[str], console: Console) -> int:
    try:
        command = next((word for word in words if not word.startswith("-")), None)
        if command is not None:
            known_name(command, COMMANDS, owner="COMMAND", kind="command")
        with console.guard():
            result = app()(words, prog_name="comodal", standalone_mode=False, obj=console)
        if isinstance(result, Answer):
            console.answer(result)
            return result.code
        return _interrupted(words, console) if result == 130 else int(result or 0)  # --help and --version give a number
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(words, console)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one message and an exit code
        return _failed(error, console)


def _failed(error: Exception, console: Console) -> int:
    if isinstance(error, UsageError):
        path = getattr(getattr(error, "ctx", None), "command_path", "comodal")
        text = error.format_message()  # type: ignore[attr-defined]
        console.error(f"{text} Type `{path} --help` to see what it takes.", error, kind="UsageError", code=2)
        return 2
    if isinstance(error, ComodalError):
        code = 2 if isinstance(error, UserError) else 1
        console.error(str(error), error, code=code)
        return code
    hint = "" if console.debug else " Add --debug to see where."
    console.error(f"{type(error).__name__}: {error}.{hint}", error, code=1)
    return 1


def _interrupted(words: list[str], console: Console) -> int:
    how = CONTINUE.get(next((word for word in words if not word.startswith("-")), ""), "")
    console.error("interrupted" + (f"; {how}" if how else ""), kind="KeyboardInterrupt", code=130)
    return 130


def _first_process() -> bool:
    """False in the further processes of a training on several devices, which run this same command line."""
    return all(os.environ.get(name, "0") in ("", "0") for name in ("RANK", "LOCAL_RANK"))


def _route_warnings(console: Console) -> None:
    def show(text: Warning | str, *_: object, **__: object) -> None:
        console.warn(str(text))

    warnings.showwarning = show  # type: ignore[assignment]
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # libraries telling their programmers, not our users


def app() -> typer.Typer:
    """The typer application with all commands."""
    built = typer.Typer(
        name="comodal",
        help="Learn with every modality you have; predict with the ones you get.",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    built.callback(invoke_without_command=True)(_root)
    for name, (function, panel) in COMMANDS.items():
        built.command(name, rich_help_panel=panel)(_with_console(function))
    return built


def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Learn with every modality you have; predict with the ones you get."""
    if version:
        typer.echo(f"comodal {__version__}")
        raise typer.Exit(0)
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(0)


def _with_console(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Gives a command the options that all have, and the console of this call where it has a parameter `console`."""
    wanted = inspect.signature(function).parameters

    @functools.wraps(function)
    def run(ctx: typer.Context, **values: Any) -> Answer:
        del values["as_json"], values["debug"]  # main() has read them
        return function(**values, **({"console": ctx.obj} if "console" in wanted else {}))

    keyword = inspect.Parameter.KEYWORD_ONLY
    hints = {name: hint for name, hint in get_type_hints(function, include_extras=True).items() if name != "console"}
    hints |= {"ctx": typer.Context, "as_json": Json, "debug": Debug}
    given = [p for name, p in wanted.items() if name != "console"]
    shared = [inspect.Parameter("ctx", keyword)]
    shared += [inspect.Parameter(name, keyword, default=False) for name in ("as_json", "debug")]
    parameters = [p.replace(kind=keyword, annotation=hints[p.name]) for p in given + shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = hints
    del run.__wrapped__  # typer follows it and would see the parameter `console`
    return run
