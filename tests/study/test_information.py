from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from comodal import api
from comodal.errors import ConfigError, DataError
from comodal.information import fit
from comodal.information.fit import InformationReport
from comodal.information.fold import FitSettings
from comodal.study import information
from comodal.study.information import compare
from comodal.training.events import Event, Progress

Array = NDArray[Any]
CHEAP = FitSettings(folds=2, hidden=(16, 16), steps=60, rate=1e-2, averaging=0.9, upper=False, control=False)
N = 120
MEANT = "Did you mean colour? Known: a, b, c, case, colour, site."


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(fit, "FEW", 0)  # no note about the few rows of these tests
    yield
    torch.set_num_threads(before)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Array, Array, Any]]:
    """What reaches the estimation: x, y and groups."""
    seen: list[tuple[Array, Array, Any]] = []

    def spy(x: Array, y: Array, groups: Any = None, **options: Any) -> InformationReport:
        seen.append((x, y, groups))
        return fit.estimate_information(x, y, groups, **options)

    monkeypatch.setattr(information, "estimate_information", spy)
    return seen


def pairs() -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    x = random.normal(size=(N, 2))
    return x, 0.9 * x + 0.4 * random.normal(size=(N, 2))


def write_csv(path: Path, columns: dict[str, Any]) -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(str(cell) for cell in row) for row in rows)]) + "\n")
    return path


def two_tables(folder: Path) -> tuple[Path, Path]:
    """The same cases in another order; the second has a category and a constant."""
    x, y = pairs()
    ids = [f"case{row}" for row in range(N)]
    order = np.random.default_rng(1).permutation(N)
    first = write_csv(folder / "x.csv", {"case": ids, "a": x[:, 0].tolist(), "b": x[:, 1].tolist()})
    second = {
        "c": y[order, 0].tolist(),
        "case": [ids[row] for row in order],
        "colour": np.where(y[order, 1] > 0, "red", "blue").tolist(),
        "site": [1] * N,
    }
    return first, write_csv(folder / "y.csv", second)


def test_arrays(given: list[tuple[Array, Array, Any]]) -> None:
    x, y = pairs()
    found = compare(x, y, settings=CHEAP)
    assert found.n == found.groups == N and found.notes == () and found.estimate("dv").value > 0.2
    assert np.array_equal(given[0][0], x) and np.array_equal(given[0][1], y) and given[0][2] is None


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.uint8, np.bool_])
def test_arrays_of_one_axis_and_of_every_kind_of_number(kind: type[np.generic], given: list[tuple[Array, Array, Any]]) -> None:
    x, y = (np.abs(3 * values) for values in pairs())
    one = (x[:, 0] > 2) if kind is np.bool_ else x[:, 0].astype(kind)
    assert compare(one, y, settings=CHEAP).n == N
    assert given[0][0].dtype == np.float64 and np.array_equal(given[0][0], one[:, None].astype(np.float64))


def test_files_give_what_arrays_give(tmp_path: Path) -> None:
    x, y = pairs()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "both.npz", x=x, y=y)
    write_csv(tmp_path / "y.csv", {"a": y[:, 0].tolist(), "b": y[:, 1].tolist()})
    expected = compare(x, y, settings=CHEAP)
    assert compare(tmp_path / "x.npy", f"{tmp_path}/both.npz:y", settings=CHEAP) == expected
    assert compare(f"{tmp_path}/both.npz:x", tmp_path / "y.csv", settings=CHEAP) == expected
    assert compare(str(tmp_path / "x.npy"), y, settings=CHEAP) == expected
    assert api.mi(tmp_path / "x.npy", y, settings=CHEAP) == expected


def test_rows_are_matched_by_id_and_what_was_noticed_is_told(tmp_path: Path, given: list[tuple[Array, Array, Any]]) -> None:
    x, y = pairs()
    found = compare(*two_tables(tmp_path), id_column="case", categories=["colour"], settings=CHEAP)
    assert np.array_equal(given[0][0], x)
    red = y[:, 1] > 0
    assert np.array_equal(given[0][1], np.column_stack([y[:, 0], ~red, red]))
    assert found.notes == (
        "Y: one-hot: colour (2 values)",
        "Y: 1 constant column left out: site",
        f"Y: {N} rows put in the order of X by their ids",
    )
    assert found.estimate("dv").value > 0.2
    turned = compare(*reversed(two_tables(tmp_path)), id_column="case", categories=["colour"], settings=CHEAP)
    assert turned.notes[:2] == ("X: one-hot: colour (2 values)", "X: 1 constant column left out: site")


def test_notes_of_reading_come_before_those_of_the_fit(tmp_path: Path) -> None:
    x, _ = pairs()
    np.save(tmp_path / "x.npy", np.column_stack([x, np.ones(N)]))
    chosen = CHEAP.model_copy(update={"steps": 400, "hidden": (32, 32), "weight_decay": 0.1})
    found = compare(tmp_path / "x.npy", x + 1e-4 * pairs()[1], settings=chosen)
    assert found.notes[0] == "X: 1 constant column left out: x2"
    assert found.notes[1].startswith("values near log K") and len(found.notes) == 2


def test_one_table_with_ids_is_paired_by_position(tmp_path: Path) -> None:
    first, _ = two_tables(tmp_path)
    assert compare(first, pairs()[1], id_column="case", settings=CHEAP).notes == ("Y: paired by position: Y has no ids",)


def test_groups_from_a_file_and_as_labels(tmp_path: Path, given: list[tuple[Array, Array, Any]]) -> None:
    first, second = two_tables(tmp_path)
    labels = [f"patient{row // 2}" for row in range(N)]
    write_csv(tmp_path / "groups.csv", {"case": [f"case{row}" for row in reversed(range(N))], "patient": labels[::-1]})
    np.save(tmp_path / "groups.npy", np.array(labels))
    options: dict[str, Any] = {"id_column": "case", "categories": ["colour"], "settings": CHEAP}
    found = [
        compare(first, second, groups=groups, **options)
        for groups in (labels, tmp_path / "groups.csv", str(tmp_path / "groups.npy"))
    ]
    assert [list(groups) for _, _, groups in given] == [labels] * 3
    assert found[0].groups == N // 2 and found[0] == found[1] == found[2]


def test_progress_is_told_as_events() -> None:
    heard: list[Event] = []
    compare(*pairs(), settings=CHEAP, emit=heard.append)
    told = [event for event in heard if isinstance(event, Progress)]
    assert len(told) == len(heard) == 3
    assert [(event.done, event.total) for event in told] == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"id_column": "cas"},
            "--id must name columns of the CSV files; got 'cas'. Did you mean case? Known: a, b, c, case, colour, site.",
        ),
        (
            {"id_column": "case", "categories": ["colour", "coluor"]},
            f"--categories must name columns of the CSV files; got 'coluor'. {MEANT}",
        ),
    ],
)
def test_unknown_columns_are_refused(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compare(*two_tables(tmp_path), settings=CHEAP, **options)
    assert str(caught.value) == text


@pytest.mark.parametrize("option", [{"id_column": "case"}, {"categories": ["case"]}])
def test_arrays_have_no_columns(option: dict[str, Any]) -> None:
    name = "--id" if "id_column" in option else "--categories"
    with pytest.raises(ConfigError) as caught:
        compare(*pairs(), settings=CHEAP, **option)
    assert str(caught.value) == f"{name} must name columns of the CSV files; got 'case'. Known: (none)."


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((N, 2, 2)), f"float64 of shape ({N}, 2, 2)"),
        (np.array(["a"] * N), f"<U1 of shape ({N},)"),
        (np.zeros((N, 1), dtype=complex), f"complex128 of shape ({N}, 1)"),
        (np.array([None] * N), f"object of shape ({N},)"),
        (np.array(3.0), "float64 of shape ()"),
    ],
)
def test_other_arrays_are_refused(array: Array, got: str) -> None:
    with pytest.raises(DataError) as caught:
        compare(array, pairs()[1], settings=CHEAP)
    rule = "be an array of numbers, (n,) or (n, d)"
    assert str(caught.value) == f"X must {rule}; got {got}. Flatten or pool it to one row of features per case."


def test_numbers_of_rows_that_differ() -> None:
    x, y = pairs()
    with pytest.raises(DataError) as caught:
        compare(x, y[:-1], settings=CHEAP)
    got = f"{N} in X, {N - 1} in Y"
    do = "Give both one row for each case, in the same order"
    assert str(caught.value) == f"X and Y must have the same number of rows; got {got}. {do}."


@pytest.mark.parametrize("groups", [["a"] * (N - 1), ["a"] * (N + 1)])
def test_labels_of_another_number(groups: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        compare(*pairs(), groups=groups, settings=CHEAP)
    assert str(caught.value) == f"--groups must have one entry per row ({N}); got {len(groups)}. Check the file."


def test_a_column_that_both_have_is_no_feature(tmp_path: Path) -> None:
    """An id that stands in both tables and is taken for a feature would be found as information."""
    first, second = two_tables(tmp_path)
    with pytest.raises(ConfigError) as caught:
        compare(first, second, categories=["colour"], settings=CHEAP)
    do = "Give --id case to match the rows by it, or rename one of them"
    assert str(caught.value) == f"X and Y must have columns of different names; got 'case' in both. {do}."


def test_lists_and_tensors_are_arrays() -> None:
    x, y = pairs()
    given: Any = (x.tolist(), torch.from_numpy(y))
    assert compare(*given, settings=CHEAP) == compare(x, y, settings=CHEAP)
