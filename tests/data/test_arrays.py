"""Rows of observations from each format, every refusal by its text, and the pairing of two inputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comodal.data.arrays import EXACT, Rows, matched, read_groups, read_rows
from comodal.errors import ConfigError, DataError, UserError

ONE_OF = "Save it in one of these; file.npz:KEY names one array of several."
PARTNER = "Drop the rows that have no partner, or correct their ids."
ONE_COLUMN = "Leave one column of labels, beside the column of ids if there is one."
OWN_ID = "Give each row its own id, and say by --groups which rows belong to one patient."
SAME_ORDER = "Give both one row for each case, in the same order."
MATRIX = np.array([[0.0, 1.5], [2.0, -3.0], [4.0, 1e-3]])
CHECK = "Check how it was made."
CATEGORIES = "Fill it, drop the row, or, if it holds categories, name it in --categories."


def refusal(source: Path, kind: type[UserError] = DataError, **options: Any) -> str:
    """Text of the error, with the folder left out."""
    read, owner = (read_groups, "--groups") if "rows" in options else (read_rows, "X")
    with pytest.raises(kind) as caught:
        read(source, owner=owner, **options)
    assert type(caught.value) is kind
    return str(caught.value).replace(f"{source.parent}{os.sep}", "")


def saved(folder: Path, array: Any) -> Path:
    np.save(folder / "x.npy", array)
    return folder / "x.npy"


def table(folder: Path, text: str, name: str = "x.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# --------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "i8", "f2", ">f4", "f8"])
def test_arrays_become_float64(tmp_path: Path, dtype: str) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]], dtype=dtype)
    rows = read_rows(saved(tmp_path, np.asfortranarray(array)), owner="X")
    assert rows.values.dtype == np.float64 and rows.values.flags.c_contiguous
    assert rows.values.tolist() == [[0, 1], [1, 0], [1, 1]]
    assert (rows.columns, rows.ids, rows.notes, rows.owner) == (("x0", "x1"), None, (), "X")


def test_one_axis_is_one_column(tmp_path: Path) -> None:
    assert read_rows(saved(tmp_path, np.arange(3)), owner="X").values.tolist() == [[0], [1], [2]]


def test_odd_bytes_of_bools_are_true(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array([True, False]))
    path.write_bytes(path.read_bytes()[:-2] + b"\x02\x00")
    assert read_rows(path, owner="X").values.tolist() == [[1], [0]]


def test_npz_with_and_without_a_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", MATRIX)
    assert np.array_equal(read_rows(tmp_path / "one.npz", owner="X").values, MATRIX)
    np.savez(tmp_path / "TWO.NPZ", image=MATRIX, text=MATRIX[:, :1])
    os.replace(tmp_path / "TWO.NPZ.npz", tmp_path / "TWO.NPZ")
    assert read_rows(f"{tmp_path / 'TWO.NPZ'}:text", owner="X").values.shape == (3, 1)
    assert refusal(tmp_path / "TWO.NPZ", ConfigError) == (
        "X must name one array of the file; got 2 arrays: image, text [file TWO.NPZ]. Write TWO.NPZ:KEY with one of these."
    )
    assert refusal(tmp_path / "TWO.NPZ:image2", ConfigError) == (
        "X must name an array of the file; got 'image2' [file TWO.NPZ:image2]. Did you mean image? Known: image, text."
    )


def test_a_file_may_be_named_like_a_key(tmp_path: Path) -> None:
    folder = tmp_path / "a.npz:b"
    folder.mkdir()
    assert np.array_equal(read_rows(saved(folder, MATRIX), owner="X").values, MATRIX)


@pytest.mark.parametrize(
    "text", ["case,a,b\n p1 ,0,+1.5\np2,2,-3.\np3,.4E1,1e-3\n", "case;a;b\np1;0;1.5\np2;2;-3\np3;4;.001\n\n"]
)
def test_csv_both_ways(tmp_path: Path, text: str) -> None:
    rows = read_rows(table(tmp_path, "\ufeff" + text), owner="X", id_column="case")
    assert np.array_equal(rows.values, MATRIX)
    assert (rows.columns, rows.ids, rows.notes) == (("a", "b"), ("p1", "p2", "p3"), ())


def test_categories_are_one_hot(tmp_path: Path) -> None:
    path = table(tmp_path, "a,colour,b,same\n1,red,4,u\n2,blue,5,u\n3,red,6,u\n")
    rows = read_rows(path, owner="X", categories=["same", "colour"])
    assert rows.columns == ("a", "colour=blue", "colour=red", "b")
    assert rows.values.tolist() == [[1, 0, 1, 4], [2, 1, 0, 5], [3, 0, 1, 6]]
    assert rows.notes == ("one-hot: colour (2 values)", "one-hot: same (1 value)", "1 constant column left out: same=u")


def test_at_most_64_levels(tmp_path: Path) -> None:
    text = "c\n" + "".join(f"{index}\n" for index in range(64))
    assert read_rows(table(tmp_path, text), owner="X", categories=["c"]).values.shape == (64, 64)
    assert refusal(table(tmp_path, text + "64\n"), categories=["c"]) == (
        "X must have at most 64 values in the category c; got 65 [file x.csv]. Merge rare values, or leave the column out."
    )


def test_constants_are_left_out_with_a_note(tmp_path: Path) -> None:
    array = np.tile(np.arange(9.0), (3, 1))
    array[:, 3] += MATRIX[:, 0]
    rows = read_rows(saved(tmp_path, array), owner="X")
    assert rows.columns == ("x3",) and rows.values.tolist() == [[3], [5], [7]]
    assert rows.notes == ("8 constant columns left out: x0, x1, x2, x4, x5 and 3 more",)


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no.npy", "be a file; got no such file [file no.npy]. Check the path."),
        ("no.npz:a", "be a file; got no such file [file no.npz:a]. Check the path."),
        ("folder.csv", "be a file; got a folder [file folder.csv]. Check the path."),
        ("pipe.csv", "be a file; got a device or pipe [file pipe.csv]. Check the path."),
        ("nul\0.npy", "be a file; got no such file [file nul\0.npy]. Check the path."),
        (
            "x.xlsx",
            f"be a file named .npy, .npz or .csv; got '.xlsx' [file x.xlsx]. {ONE_OF}",
        ),
        (
            "x",
            f"be a file named .npy, .npz or .csv; got '' [file x]. {ONE_OF}",
        ),
    ],
)
def test_what_is_no_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    assert refusal(tmp_path / name, ConfigError) == f"X must {text}"
    assert refusal(tmp_path / name, ConfigError, rows=3) == f"--groups must {text}"


@pytest.mark.parametrize("value", [EXACT, -EXACT])
def test_integers_beyond_float64(tmp_path: Path, value: int) -> None:
    assert read_rows(saved(tmp_path, np.array([0, value])), owner="X").values[1, 0] == value
    beyond = value + (1 if value > 0 else -1)
    assert refusal(saved(tmp_path, np.array([0, beyond]))) == (
        f"X must hold integers of at most 2**53, which float64 holds exactly; got {beyond} [file x.npy]. "
        "Check that it is no code or id; otherwise save it as float64."
    )


def test_gaps_never_become_zeros(tmp_path: Path) -> None:
    rule = "X must hold finite numbers: a gap never becomes zeros; got"
    do = "Fill it, or drop the row."
    array = MATRIX.copy()
    array[1, 1] = np.nan
    assert refusal(saved(tmp_path, array)) == (
        f"{rule} 1 value of NaN or infinity, the first in row 1 (from 0), column x1 [file x.npy]. {do}"
    )
    array[2] = np.inf, -np.inf
    assert refusal(saved(tmp_path, np.asfortranarray(array))) == (
        f"{rule} 3 values of NaN or infinity, the first in row 1 (from 0), column x1 [file x.npy]. {do}"
    )
    got = "1 value of NaN or infinity, the first in row 3, column a"
    for cell in ("1e400", "-inf", "NaN"):
        path = table(tmp_path, f"case,a\np1,1\np2,{cell}\n")
        assert refusal(path, id_column="case") == f"{rule} {got} [subject p2, file x.csv]. {do}"
    path = table(tmp_path, "a\n1\n1e400\n")
    assert refusal(path) == f"{rule} {got} [file x.csv]. {do}"


@pytest.mark.parametrize(
    ("array", "got"),
    [(np.ones((3, 2)), "2 constant columns in 3 rows"), (np.ones(3), "1 constant column in 3 rows"),
     (MATRIX[:1], "2 constant columns in 1 row")],
)  # fmt: skip
def test_only_constants(tmp_path: Path, array: Any, got: str) -> None:
    assert refusal(saved(tmp_path, array)) == (
        f"X must vary from row to row; got {got} [file x.npy]. "
        "Give other columns or more rows: a constant carries no information."
    )


@pytest.mark.parametrize(
    ("cells", "got", "do"),
    [
        (["1", "", ""], "a blank cell in row 3 and 1 more", CATEGORIES),
        (["red", "1", "2"], "'red' in row 2", CATEGORIES),
        (["1", "NA", "2"], "'NA' in row 3", CATEGORIES),
        (["1", "2", "1_000"], "'1_000' in row 4", CATEGORIES),
        (["1", "0x10", "2"], "'0x10' in row 3", CATEGORIES),
        (["1", "١", "2"], "'١' in row 3", CATEGORIES),
        (["1", ".", "2"], "'.' in row 3", CATEGORIES),
        (["1", "1e", "2"], "'1e' in row 3", CATEGORIES),
        (["1", "2;3", "2"], "'2;3' in row 3", CATEGORIES),
        (["1", "9" * 100_000 + "x", "2"], f"'{'9' * 37}.. in row 3", CATEGORIES),  # at once, and not quoted whole
        (["1", "1,5", "2"], "'1,5' in row 3", "Write a decimal point, and nothing between thousands."),
        (["1.234,5", "1,5", "2"], "'1.234,5' in row 2 and 1 more", "Write a decimal point, and nothing between thousands."),
        (["1", "1,234.5e3", "2"], "'1,234.5e3' in row 3", "Write a decimal point, and nothing between thousands."),
    ],
)
def test_cells_that_are_no_numbers(tmp_path: Path, cells: list[str], got: str, do: str) -> None:
    lines = [f'p{row},"{cell}"' for row, cell in enumerate(cells, start=2)]
    path = table(tmp_path, "\n".join(["case,age", *lines]))
    row = got.partition(" in row ")[2][0]
    text = f"X must hold numbers in column age; got {got} [%sfile x.csv]. {do}"
    assert refusal(path, id_column="case") == text % f"subject p{row}, "
    lines = [f'{row},"{cell}"' for row, cell in enumerate(cells)]
    assert refusal(table(tmp_path, "\n".join(["b,age", *lines]))) == text % ""


def test_columns_are_known(tmp_path: Path) -> None:
    path = table(tmp_path, "case,colour,size\np1,red,1\np2,,2\n")
    assert refusal(path, ConfigError, id_column="cases") == (
        "X must have the column of ids; got no 'cases' [file x.csv]. Did you mean case? Known: case, colour, size."
    )
    assert refusal(path, ConfigError, id_column="case", categories=["colour", "color"]) == (
        "X must have the columns named as categories; got no 'color' [file x.csv]. Did you mean colour? Known: colour, size."
    )
    assert refusal(path, id_column="case", categories=["colour"]) == (
        "X must hold a category in each row of column colour; got a blank cell in row 3 [subject p2, file x.csv]. "
        "Fill it, or drop the row."
    )
    assert refusal(path, id_column="colour") == (
        "X must have an id in each row of column colour; got a blank cell in row 3 [file x.csv]. Fill it, or drop the row."
    )


def test_csv_without_values(tmp_path: Path) -> None:
    rule = "X must have at least one row and one column of values; got"
    assert refusal(table(tmp_path, "a,b\n")) == f"{rule} 0 rows and 2 columns [file x.csv]. {CHECK}"
    assert refusal(table(tmp_path, "a\n1\n"), id_column="a") == f"{rule} 1 row and 0 columns [file x.csv]. {CHECK}"
    assert refusal(table(tmp_path, "")) == "table must have a line of column names; got an empty file [file x.csv]. Fill it."


def test_arrays_have_no_columns_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, MATRIX)
    assert refusal(path, ConfigError, categories=["x0"]) == (
        "X must name categories of a CSV file only; got x0 for an array [file x.npy]. Save it as CSV with column names."
    )
    notes = read_rows(path, owner="X", id_column="case").notes
    assert notes == ("an array has no ids: its rows are taken in their order",)


# --------------------------------------------------------------------------------------------------------------- pairing


def rows(ids: str | None, owner: str = "X", n: int = 3) -> Rows:
    return Rows(MATRIX[:n], ("a", "b"), None if ids is None else tuple(ids), (), owner)


def test_pairs_by_id() -> None:
    x, y = matched(rows("pqr"), rows("rpq", "Y"))
    assert x.ids == y.ids == ("p", "q", "r") and np.array_equal(x.values, MATRIX)
    assert np.array_equal(y.values, MATRIX[[1, 2, 0]])
    assert (x.notes, y.notes, y.columns, y.owner) == ((), ("3 rows put in the order of X by their ids",), ("a", "b"), "Y")
    x, y = matched(rows("pqr"), rows("pqr", "Y"))
    assert x.notes == y.notes == () and np.array_equal(y.values, MATRIX)


def test_pairs_by_position() -> None:
    assert matched(rows(None), rows(None, "Y"))[1].notes == ()
    assert matched(rows("pqr"), rows(None, "Y"))[1].notes == ("paired by position: Y has no ids",)
    assert matched(rows(None), rows("pqr", "Y"))[1].notes == ("paired by position: X has no ids",)


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (
            rows(None),
            rows("pq", "Y", 2),
            f"X and Y must have the same number of rows; got 3 in X, 2 in Y. {SAME_ORDER}",
        ),
        (
            rows("pqr"),
            rows("ppq", "Y"),
            f"Y must have each id once; got 1 id more than once [subject p]. {OWN_ID}",
        ),
        (
            rows("pqr"),
            rows("sq", "Y", 2),
            f"X and Y must have the same ids; got 2 only in X, 1 only in Y [subject p]. {PARTNER}",
        ),
        (
            rows("pq", n=2),
            rows("pq\n", "Y"),
            f"X and Y must have the same ids; got 0 only in X, 1 only in Y [subject '\\n']. {PARTNER}",
        ),
    ],
)
def test_what_has_no_partner(x: Rows, y: Rows, text: str) -> None:
    with pytest.raises(DataError) as caught:
        matched(x, y)
    assert str(caught.value) == text


# ---------------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize(
    ("array", "labels"),
    [
        (np.array([7, 7, 8]), ["7", "7", "8"]),
        (np.array([[7], [7], [8]], dtype="u1"), ["7", "7", "8"]),
        (np.array([True, False, True]), ["True", "False", "True"]),
        (np.array(["é", " p ", "q"]), ["é", "p", "q"]),
        (np.array([b"a", "é".encode(), b"c"]), ["a", "é", "c"]),
    ],
)
def test_groups_from_arrays(tmp_path: Path, array: Any, labels: list[str]) -> None:
    assert read_groups(saved(tmp_path, array), owner="--groups", rows=3, ids=["a", "b", "c"], id_column="id") == labels
    np.savez(tmp_path / "x.npz", g=array, other=array)
    assert read_groups(f"{tmp_path / 'x.npz'}:g", owner="--groups", rows=3) == labels


def test_groups_from_csv(tmp_path: Path) -> None:
    path = table(tmp_path, "patient\np\np\nq\n")
    assert read_groups(path, owner="--groups", rows=3) == ["p", "p", "q"]
    assert read_groups(path, owner="--groups", rows=3, ids=["1", "2", "3"], id_column="case") == ["p", "p", "q"]
    path = table(tmp_path, "patient;case\np;3\np;1\nq;2\nq;4\n")
    assert read_groups(path, owner="--groups", rows=3, ids=["1", "2", "3"], id_column="case") == ["p", "q", "p"]


@pytest.mark.parametrize(
    ("text", "options", "refused"),
    [
        (
            "patient\np\nq\n",
            {"rows": 3},
            "have one label for each of the 3 rows; got 2 [file x.csv]. Give one label per row, in the order of the rows.",
        ),
        (
            "case,patient\n1,p\n2,\n3,\n",
            {"rows": 3, "ids": ["1", "2", "3"], "id_column": "case"},
            "have a label in each row; got 2 blank, the first in row 3 [subject 2, file x.csv]. Name the group of each row.",
        ),
        (
            "case,patient,site\n1,p,a\n",
            {"rows": 1, "ids": ["1"], "id_column": "case"},
            f"have one column of labels; got 2: patient, site [file x.csv]. {ONE_COLUMN}",
        ),
        (
            "case\n1\n",
            {"rows": 1, "ids": ["1"], "id_column": "case"},
            f"have one column of labels; got none [file x.csv]. {ONE_COLUMN}",
        ),
        (
            "case,patient\n1,p\n1,q\n2,q\n",
            {"rows": 2, "ids": ["1", "2"], "id_column": "case"},
            "have each id once; got 1 id more than once [subject 1, file x.csv]. Remove the repeated rows.",
        ),
        (
            "case,patient\n1,p\n",
            {"rows": 3, "ids": ["1", "2", "3"], "id_column": "case"},
            "have a label for the id of each row; got 2 of 3 without [subject 2, file x.csv]. Add these ids.",
        ),
    ],
)
def test_groups_that_do_not_fit(tmp_path: Path, text: str, options: dict[str, Any], refused: str) -> None:
    assert refusal(table(tmp_path, text), **options) == f"--groups must {refused}"


def test_groups_without_the_ids_that_they_need(tmp_path: Path) -> None:
    path = table(tmp_path, "case,patient\n1,p\n")
    assert refusal(path, ConfigError, rows=1, id_column="case") == (
        "--groups must be in the order of the rows where these have no ids; got a column of ids [file x.csv]. "
        "Remove that column."
    )
    assert refusal(path, ConfigError, rows=1, ids=["1"], id_column="Case") == (
        "--groups must have the column of ids; got no 'Case' [file x.csv]. Did you mean case? Known: case, patient."
    )


def test_group_arrays_that_do_not_fit(tmp_path: Path) -> None:
    assert refusal(saved(tmp_path, np.array([1.0, 2.0])), rows=2) == (
        "--groups must hold integers or text; got type float64 [file x.npy]. "
        "Save the labels as integers or text; objects are never unpickled."
    )
    assert refusal(saved(tmp_path, np.eye(2, dtype=int)), rows=2) == (
        "--groups must have one label per row; got shape (2, 2) [file x.npy]. Save an array of one axis."
    )
    assert refusal(saved(tmp_path, np.array(["a", " "])), rows=2) == (
        "--groups must have a label in each row; got 1 blank, the first in row 1 (from 0) [file x.npy]. "
        "Name the group of each row."
    )
    surrogate, beyond = np.array(["\ud800"]), np.array([0x110000], dtype="<u4").view("<U1")
    for array in (np.array([b"\xff"]), surrogate, beyond):
        assert refusal(saved(tmp_path, array), rows=1) == (
            "--groups must hold text in Unicode; got bytes that are not [file x.npy]. Save the labels as integers or text."
        )
