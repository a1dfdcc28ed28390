"""`comodal mi` as a user types it: what it prints for people and for machines, and the text of every refusal."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from comodal.cli.main import main
from comodal.information import fit, fold
from comodal.information.closed import correlated_gaussians
from comodal.information.estimators import ESTIMATORS

Array = NDArray[Any]
NAMES = [name for name in ESTIMATORS if name != "mine"]
IN_NATS = ("dv", "nwj", "info_nce", "smile", "demi")
N = 200


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few steps, small networks, one thread: what is printed does not depend on how good the numbers are."""

    class Quick(fold.FitSettings):
        hidden: tuple[int, int] = (16, 16)
        steps: int = 60
        rate: float = 1e-2
        averaging: float = 0.9

    monkeypatch.setattr(fold, "FitSettings", Quick)
    monkeypatch.setattr(fit, "FitSettings", Quick)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    x, y = (values.double().numpy() for values in correlated_gaussians(N, 1.0, 2, generator=torch.Generator().manual_seed(0)))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    return tmp_path


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Standard output of a command that works, in one line."""
    assert main(["mi", *words]) == 0
    return " ".join(capsys.readouterr().out.split())


def document(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["mi", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that ends with exit code 2."""
    assert main(["mi", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("Error: ")
    return captured.err.removeprefix("Error: ").removesuffix("\n")


def xy(folder: Path) -> list[str]:
    return [str(folder / "x.npy"), str(folder / "y.npy")]


# ---------------------------------------------------------------------------------------------------------------- output


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["--help"], capsys)
    for word in ("X", "Y", "--groups", "--id", "--categories", "--scaling", "--folds", "--seed", "--no-control", "--device"):
        assert word in text, word
    assert "--json" in text and "held-out pairs" in text


def test_json_is_one_document(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document([*xy(files), "--folds", "2"], capsys)
    assert list(found) == ["estimates", "control", "n", "groups", "notes"]
    assert found["n"] == found["groups"] == N and list(found["control"]) == ["about_zero", "estimates"]
    assert isinstance(found["control"]["about_zero"], bool)
    for estimates in (found["estimates"], found["control"]["estimates"]):
        assert [estimate["name"] for estimate in estimates] == NAMES
        for estimate in estimates:
            kind = ESTIMATORS[estimate["name"]]
            assert set(estimate) == {"name", "kind", "value", "ci95", "ceiling", "bias", "n"}
            assert (estimate["kind"], estimate["bias"], estimate["n"]) == (kind.kind, kind.bias, N)
            assert math.isfinite(estimate["value"]) and estimate["ci95"][0] <= estimate["ci95"][1]
            assert estimate["ceiling"] == (None if kind.ceiling(N // 2) is None else pytest.approx(kind.ceiling(N // 2)))


def test_json_without_a_control(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert document([*xy(files), "--folds", "2", "--no-control"], capsys)["control"] is None


def test_the_table_names_every_estimator_with_kind_and_ceiling_and_the_control(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mi", *xy(files), "--folds", "2"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert f"Information between X and Y, {N} pairs" in text
    assert all(name in text for name in ("estimator", "nats", "95 % interval", "control", "kind", "ceiling", "errs"))
    for name in NAMES:
        kind = ESTIMATORS[name]
        (row,) = [line for line in lines if line.startswith(f"│ {kind.label} ")]
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        ceiling = kind.ceiling(N // 2)
        assert cells[4:6] == [kind.kind, "none" if ceiling is None else f"{ceiling:.2f}"], row
        assert float(cells[1]) is not None and cells[2].startswith("[") and float(cells[3]) is not None
    assert "The control, with the rows of Y shuffled, " in text
    flat = " ".join(text.split())
    assert "X and Y share at least about " in flat and " bits), the lower end of InfoNCE " in flat and "n 200)" in flat


def test_without_a_control_the_table_says_so(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said([*xy(files), "--folds", "2", "--no-control"], capsys)
    assert "The shuffled control was not run." in text and text.count("│ not run │") == len(NAMES)


def test_where_nothing_is_found_nothing_is_claimed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(files / "y.npy", np.random.default_rng(1).normal(size=(N, 1)))
    text = said([*xy(files), "--folds", "2", "--no-control"], capsys)
    assert "No information was found; that is not a proof that there is none: InfoNCE " in text


def test_the_seed_decides(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*xy(files), "--folds", "2", "--no-control"]
    found = [document([*words, *more], capsys) for more in ([], ["--seed", "0"], ["--seed", "1"])]
    assert found[0] == found[1] != found[2]


def write_tables(folder: Path) -> list[str]:
    """Two tables of the same patients, and two rows of each."""
    x, y = (np.load(folder / f"{name}.npy") for name in "xy")
    ids = [f"scan-{row:04d}" for row in range(N)]
    lines = {"x": ["case,a,b"], "y": ["case,c,colour"], "groups": ["case,patient"]}
    for row in range(N):
        lines["x"].append(f"{ids[row]},{x[row, 0]},{x[row, 1]}")
        lines["y"].insert(1, f"{ids[row]},{y[row, 0]},{'red' if y[row, 1] > 0 else 'blue'}")
        lines["groups"].append(f"{ids[row]},Mueller-{row // 2:04d}")
    for name, text in lines.items():
        (folder / f"{name}.csv").write_text("\n".join(text) + "\n")
    return [str(folder / "x.csv"), str(folder / "y.csv"), "--id", "case", "--categories", "colour"]


def test_tables_with_ids_and_groups_name_no_patient(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*write_tables(files), "--groups", str(files / "groups.csv"), "--folds", "2", "--no-control"]
    assert main(["mi", *words]) == 0
    captured = capsys.readouterr()
    text = " ".join(captured.out.split())
    assert f"{N} pairs in {N // 2} groups" in text and "95 % intervals over groups" in text
    assert "note: Y: one-hot: colour (2 values)" in text and "rows put in the order of X by their ids" in text
    assert main(["mi", *words, "--json"]) == 0
    machine = capsys.readouterr()
    assert json.loads(machine.out)["groups"] == N // 2
    for stream in (captured.out, captured.err, machine.out, machine.err):
        assert "scan-" not in stream and "Mueller" not in stream


# -------------------------------------------------------------------------------------------------------------- refusals


def text_of(files: Path, name: str, array: Array | None, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    if array is not None:
        np.save(files / f"{name}.npy", array)
    return refused([*xy(files), "--folds", "2", "--no-control", *more], capsys)


def test_constant_input(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(files, "y", np.full((N, 3), 7.0), capsys)
    do = "Give other columns or more rows: a constant carries no information."
    assert text == f"Y must vary from row to row; got 3 constant columns in {N} rows [file {files / 'y.npy'}]. {do}"


def test_too_few_rows(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(files / "x.npy", np.load(files / "x.npy")[:49])
    text = text_of(files, "y", np.load(files / "y.npy")[:49], capsys)
    assert text == "X and Y must have at least 50 rows; got 49. Collect more: from fewer nothing can be learned and held out."


def test_too_few_groups(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(files / "groups.npy", np.arange(N) % 49)
    text = text_of(files, "y", None, capsys, "--groups", str(files / "groups.npy"))
    assert text == "X and Y must have at least 50 groups; got 49. Collect more: from fewer nothing can be learned and held out."


def test_rows_that_do_not_match(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(files, "y", np.load(files / "y.npy")[:-1], capsys)
    do = "Give both one row for each case, in the same order."
    assert text == f"X and Y must have the same number of rows; got {N} in X, {N - 1} in Y. {do}"


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_an_array_of_objects_is_refused_and_not_unpickled(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trap = np.empty(N, dtype=object)
    trap[:] = [Trap(files / "sprung")] * N
    np.save(files / "y.npy", trap, allow_pickle=True)
    text = refused(xy(files), capsys)
    assert text.startswith("Y must ") and "object" in text and str(files / "y.npy") in text, text
    (files / "y.npy").write_bytes(trap.dumps())
    assert refused(xy(files), capsys).startswith("Y must ")
    assert not (files / "sprung").exists()


def test_a_gap_is_no_zero(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    y = np.load(files / "y.npy")
    y[[5, 9], 1] = np.nan
    text = text_of(files, "y", y, capsys)
    got = "2 values of NaN or infinity, the first in row 5 (from 0), column x1"
    where = f"[file {files / 'y.npy'}]"
    assert text == f"Y must hold finite numbers: a gap never becomes zeros; got {got} {where}. Fill it, or drop the row."


def test_a_column_of_text(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y, *_ = write_tables(files)
    text = refused([x, y, "--id", "case"], capsys)
    assert text.startswith("Y must hold numbers in column colour; got '") and f"file {files / 'y.csv'}]" in text
    assert text.endswith("Fill it, drop the row, or, if it holds categories, name it in --categories.")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--scaling", "none"], "--scaling must be rank or standard; got 'none'. Use rank unless in doubt about ties."),
        (["--folds", "1"], "--folds must lie between 2 and 20; got 1. Use 5."),
        (["--folds", "21"], "--folds must lie between 2 and 20; got 21. Use 5."),
        (["--seed", "-1"], "--seed must lie between 0 and 2^31 - 1; got -1. Use 0."),
        (["--device", "gpu"], "--device must be auto, cpu or cuda; got 'gpu'. Use auto for a GPU where there is one."),
        (["--id", "case"], "--id must name columns of the CSV files; got 'case'. Known: (none)."),
        (["--categories", "a,a"], "--categories must be distinct names separated by commas; got 'a,a'. Type --use flair,t1ce."),
    ],
)
def test_options_are_checked(words: list[str], text: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = refused([*xy(files), *words], capsys)
    assert found == text if "--categories" not in words else found.startswith(text.partition(" Type ")[0])


def test_a_missing_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused([str(files / "x.npy"), str(files / "z.npy")], capsys)
    assert text == f"Y must be a file; got no such file [file {files / 'z.npy'}]. Check the path."
    text = refused([str(files / "x.npy"), str(files / "y.npy"), "--groups", str(files / "g.csv")], capsys)
    assert text == f"--groups must be a file; got no such file [file {files / 'g.csv'}]. Check the path."


def test_a_mistake_is_one_document_for_machines(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mi", *xy(files), "--folds", "1", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit_code"] == 2 and error["message"] == "--folds must lie between 2 and 20; got 1. Use 5."


# ------------------------------------------------------------------------------------------------------------ processes


def comodal(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "comodal", *words], capture_output=True, text=True, check=False, timeout=600)


def test_a_process_of_its_own(files: Path) -> None:
    for name in "xy":
        np.save(files / f"{name}.npy", np.load(files / f"{name}.npy")[:60])
    done = comodal("mi", *xy(files), "--folds", "2", "--no-control", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [estimate["name"] for estimate in found["estimates"]] == NAMES and found["n"] == 60
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize(("information", "dimensions", "tolerance"), [(0.5, 2, 0.1), (2.0, 8, 0.3)])
def test_known_information_is_found(information: float, dimensions: int, tolerance: float, cubic: bool, tmp_path: Path) -> None:
    """6 000 pairs that nobody has seen before; a map of y leaves the information as it is."""
    seed = int.from_bytes(os.urandom(4), "little")
    generator = torch.Generator().manual_seed(seed)
    for name, values in zip(
        "xy", correlated_gaussians(6000, information, dimensions, generator=generator, cubic=cubic), strict=True
    ):
        np.save(tmp_path / f"{name}.npy", values.numpy())
    done = comodal("mi", *xy(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    read = {estimate["name"]: estimate["value"] for estimate in found["estimates"]}
    control = {estimate["name"]: estimate["value"] for estimate in found["control"]["estimates"]}
    told = f"seed {seed}, {information} nats in {dimensions}, cubic {cubic}: {read}; control {control}"
    for name in IN_NATS:
        assert abs(read[name] - information) < tolerance, f"{name}: {told}"
        assert abs(control[name]) < 0.05, f"control of {name}: {told}"
    assert found["control"]["about_zero"] is True, told
