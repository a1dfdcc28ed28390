"""Each command as a user types it, as far as no data are needed: help, exit codes, and the text of every refusal."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from comodal.cli import main as cli
from comodal.cli.answer import Answer
from comodal.cli.console import Console
from comodal.cli.main import COMMANDS, main
from comodal.errors import DataError, TrainingFailed
from comodal.methods import METHODS

EITHER = "comodal predict must get either --input or --cohort"
TYPE_ONE = "Type --input flair=a.nii.gz for one patient, or --cohort cohort.csv for many."


def comodal(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "comodal", *words], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["tran", "c.yaml"],
            f"COMMAND must be a known command; got 'tran'. Did you mean train? Known: {', '.join(sorted(COMMANDS))}.",
        ),
        (["init", "unett", "cohort.csv"], "METHOD must be a known method; got 'unett'. Did you mean unet"),
        (["index", "brat", "x", "--out", "c.csv"], "LAYOUT must be a known layout; got 'brat'. Did you mean brats"),
        (["phantom", "brian", "--out", "x"], "NAME must be a known phantom; got 'brian'. Did you mean brain? Known: "),
        (
            ["predict", "run", "--out", "x", "--input", "flair:a.nii"],
            "--input must be NAME=VALUE; got 'flair:a.nii'. Type --input flair=a.nii.gz.",
        ),
        (
            ["predict", "run", "--out", "x"],
            f"{EITHER}; got neither. {TYPE_ONE}",
        ),
        (
            ["predict", "run", "--out", "x", "--input", "t1=a.nii", "--cohort", "c.csv"],
            f"{EITHER}; got both. {TYPE_ONE}",
        ),
        (
            ["predict", "run", "--out", "x", "--cohort", "c.csv", "--use", "t1,t1"],
            "--use must be distinct names separated by commas; got 't1,t1'. Type --use flair,t1ce.",
        ),
        (["train", "c.yaml"], "Missing option '--out'. Type `comodal train --help` to see what it takes."),
        (
            ["train", "c.yaml", "--out", "x", "--device", "gpu"],
            "--device must be auto, cpu or cuda; got 'gpu'. Use auto for a GPU where there is one.",
        ),
        (["methods", "--jsn"], "No such option: --jsn"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"Error: {text}") and captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_mistake_in_a_process_of_its_own() -> None:
    done = comodal("init", "moddrp", "cohort.csv")
    assert done.returncode == 2
    known = ", ".join(sorted(METHODS))
    assert done.stderr == f"Error: METHOD must be a known method; got 'moddrp'. Did you mean moddrop? Known: {known}.\n"
    assert done.stdout == ""


def test_a_mistake_is_one_document_for_machines() -> None:
    done = comodal("evaluate", "--json")
    text = "Missing argument 'RUN'. Type `comodal evaluate --help` to see what it takes."
    assert done.returncode == 2
    assert json.loads(done.stdout) == {"error": {"kind": "UsageError", "message": text, "exit_code": 2}}
    assert done.stderr == f"Error: {text}\n"


def test_methods_for_people_and_for_machines() -> None:
    done = comodal("methods")
    assert done.returncode == 0 and done.stderr == ""
    assert all(name in done.stdout for name in METHODS)
    document = json.loads(comodal("methods", "--json").stdout)
    assert [item["name"] for item in document["methods"]] == list(METHODS)
    assert document["methods"][0]["citation"] == next(iter(METHODS.values())).citation


def test_layouts_for_people_and_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layouts"]) == 0
    assert "brats" in capsys.readouterr().out
    assert main(["layouts", "--json"]) == 0
    names = [item["name"] for item in json.loads(capsys.readouterr().out)["layouts"]]
    assert {"brats", "lgg-mri", "csv"} <= set(names)


def test_without_a_word_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f" {name} " in text for name in COMMANDS)


def test_every_command_takes_json_and_debug(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert "--json" in text and "--debug" in text, name


def use(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Puts a command `methods` in place that fails so."""

    def fails() -> Answer:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "methods", (fails, ""))
    monkeypatch.setitem(cli.COMMANDS, "train", (fails, ""))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("cohort.csv must be there."), 2, "Error: cohort.csv must be there.\n"),
        (TrainingFailed("The loss is not a number."), 1, "Error: The loss is not a number.\n"),
        (RuntimeError("deep"), 1, "Error: RuntimeError: deep. Add --debug to see where.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, error)
    assert main(["methods"]) == code
    assert capsys.readouterr().err == text


def test_an_interrupted_training_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use(monkeypatch, KeyboardInterrupt())
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "interrupted; continue with --resume\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use(monkeypatch, DataError("x must be y."))
    assert main(["methods", "--debug"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("Traceback") and text.endswith("Error: x must be y.\n")


def test_a_warning_of_a_library_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    def warns(*, console: Console) -> Answer:
        warnings.simplefilter("default")
        warnings.warn("the disk is nearly full", UserWarning, stacklevel=1)
        return Answer({"done": True})

    monkeypatch.setitem(cli.COMMANDS, "methods", (warns, ""))
    assert main(["methods"]) == 0
    assert capsys.readouterr().err == "warning: the disk is nearly full\n"


def test_what_libraries_print_does_not_reach_the_document() -> None:
    code = (
        "import os, sys\n"
        "from comodal.cli import main as cli\n"
        "from comodal.cli.answer import Answer\n"
        "def noisy():\n"
        "    print('python'); os.write(1, b'native\\n')\n"
        "    return Answer({'done': True})\n"
        "cli.COMMANDS['methods'] = (noisy, '')\n"
        "sys.exit(cli.main(['methods', '--json']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"done": True}
    assert sorted(done.stderr.split()) == ["native", "python"]


def test_further_processes_print_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["methods", "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m comodal methods | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
