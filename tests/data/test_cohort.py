"""Cohorts: what a table may say, and that loading one touches no image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec, label_indices
from comodal.data.tables import read_table
from comodal.errors import ConfigError, DataError
from comodal.modality import Modality, Target

META: dict[str, Any] = {
    "schema": 1,
    "layout": "csv",
    "root": "images",
    "modalities": [{"name": "t1"}, {"name": "flair", "unit": "SUV"}, {"name": "report", "kind": "text", "spatial_dims": 0}],
    "targets": [
        {"name": "seg", "kind": "regions", "classes": ["WT", "ET"], "codes": [[1, 4], [4]], "paint": [1, 4]},
        {"name": "grade", "kind": "ordinal", "classes": ["low", "high"]},
        {"name": "findings", "kind": "multilabel", "classes": ["edema", "mass"]},
    ],
}
TABLE = """subject,session,group,site,split,t1,flair,report,seg,grade,findings
007,1,,A,train,a/t1.nii.gz,,a/r.txt,a/seg.nii.gz,low,edema; mass
007,2,,A,train,b/t1.nii.gz,b/flair.nii.gz,,,high,-
8,,p8,B,test,,c/flair.nii.gz,,,,
"""


def write(folder: Path, table: str | bytes = TABLE, **meta: Any) -> Path:
    (folder / "c.yaml").write_text(yaml.safe_dump({**META, **meta}))
    (folder / "c.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    return folder / "c.csv"


def test_a_cohort_is_what_its_files_say_and_no_image_is_needed(tmp_path: Path) -> None:
    cohort = Cohort.load(write(tmp_path))
    assert cohort.ids == ("007_1", "007_2", "8")
    assert [case.group for case in cohort.cases] == ["007", "007", "p8"]
    assert cohort.case("8") == Case("8", "8", "", "p8", "B", "test", {"flair": "c/flair.nii.gz"})
    assert cohort.modalities == (
        Modality("t1"),
        Modality("flair", unit="SUV"),
        Modality("report", kind="text", spatial_dims=0),
    )
    assert cohort.targets[0] == Target("seg", "regions", ("WT", "ET"), ((1, 4), (4,)), (1, 4))
    assert cohort.root == tmp_path / "images"
    assert not cohort.root.exists()
    presence = cohort.presence()
    assert presence.columns.tolist() == ["t1", "flair", "report"]
    assert presence.to_numpy().tolist() == [[True, False, True], [True, True, False], [False, True, False]]
    assert presence.index.tolist() == list(cohort.ids)
    assert [cohort.holds_files(name) for name in ("t1", "report", "seg", "grade")] == [True, True, True, False]


def test_a_cohort_saves_and_loads_back_equal(tmp_path: Path) -> None:
    cohort = Cohort.load(write(tmp_path))
    for path in (tmp_path / "again.csv", tmp_path / "runs" / "x" / "cohort.csv"):
        assert cohort.save(path) == path
        assert Cohort.load(path) == cohort
    text = (tmp_path / "again.yaml").read_text()
    assert yaml.safe_load(text)["schema"] == 1
    assert yaml.safe_load(text)["root"] == "images"  # the data lie below: both can be moved together
    assert yaml.safe_load((tmp_path / "runs" / "x" / "cohort.yaml").read_text())["root"] == str(tmp_path / "images")
    with pytest.raises(ConfigError, match=r"must be saved as .csv; got c.json. Use c.csv."):
        cohort.save(tmp_path / "c.json")


def test_a_cohort_and_its_data_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    Cohort.load(write(tmp_path / "old")).save(tmp_path / "old" / "c.csv")
    (tmp_path / "old").rename(tmp_path / "new")
    assert Cohort.load(tmp_path / "new" / "c.csv").root == tmp_path / "new" / "images"


def test_select(tmp_path: Path) -> None:
    cohort = Cohort.load(write(tmp_path))
    assert cohort.select(["8", "007_1", "8"]).ids == ("8", "007_1")
    with pytest.raises(DataError, match=r"subject must be one of the cohort; got '007_3'. Did you mean 007_\d or 007_\d"):
        cohort.select(["007_3"])
    with pytest.raises(ConfigError, match=r"modality or target must be one of the cohort; got 'flare'. Did you mean flair"):
        cohort.spec("flare")


# ------------------------------------------------------------------------------------------------------------------- table


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, bom: bytes, end: str, delimiter: str) -> None:
    lines = ['subject,"t1"', '001,"a, b\n.nii"', " 1e5 , NA ", ",", "-1,"]
    if delimiter == ";":
        lines = [line.replace(",", ";") for line in lines]
    path = tmp_path / "t.csv"
    path.write_bytes(bom + end.join(lines).encode())
    columns, rows = read_table(path)
    assert columns == ["subject", "t1"]
    text = "a, b\n.nii" if delimiter == "," else "a; b\n.nii"
    assert rows == [{"subject": "001", "t1": text}, {"subject": "1e5", "t1": "NA"}, {"subject": "-1", "t1": ""}]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "table must have a line of column names; got an empty file"),
        ("subject,t1\n1,a\n".encode("utf-16"), "table must be CSV in UTF-8; got UTF-16 .*Save it as 'CSV UTF-8'"),
        (b"subject,t1,t1\n1,a,b\n", "table must name each column once; got 't1'"),
        (b"subject,,t1\n1,a,b\n", "table must name each column once; got a column without a name"),
        (b"subject,t1\n1,a\n\n2,b,c\n", "table must have 2 cells in each row; got 3 in row 4"),
        (b'subject,t1\n1,"a\n', "table must be CSV; got unexpected end of data"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=text):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("8,,p8", "007,2,p8"), r"c.csv must have one row for each subject and session; got two \[subject 007_2\]"),
        (("8,,p8", "007_2,,p8"), r"must have one row for each subject and session; got two \[subject 007_2\]"),
        (("flair,", "flare,"), "cohort must have only columns that its yaml describes; got 'flare' .*Did you mean flair"),
        ((",flair,", ",site2,"), "only columns that its yaml describes; got 'site2' .*Did you mean site"),
        (("8,,p8", ",,p8"), "subject must be usable as a file name; got ''"),
        (("8,,p8", "../8,,p8"), "subject must be usable as a file name; got '../8'"),
        (("8,,p8", "..,,p8"), "subject must be usable as a file name; got '..'"),
        (("test", "tset"), r"split must be one of train, val, test or blank; got 'tset' \[subject 8\]. Did you mean test"),
        (("low", "medium"), r"must name a class of its yaml; got 'medium' \[subject 007_1, modality grade\]. Known: high, low"),
        (("edema; mass", "edema; msas"), "must name a class of its yaml; got 'msas' .*Did you mean mass"),
        (("c/flair", "../flair"), r"paths that stay below its root; got '../flair.nii.gz' \[subject 8, modality flair\]"),
        (("c/flair", "c/../../flair"), "must list paths that stay below its root"),
        (("c/flair", "/etc/passwd"), "must list paths that stay below its root.* with forward slashes and without '..'"),
        (("c/flair", "C:/flair"), "must list paths that stay below its root"),
        (("c/flair", "c\\flair"), "must list paths that stay below its root"),
    ],
)
def test_wrong_rows_are_refused(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    assert change[0] in TABLE
    with pytest.raises(DataError, match=text):
        Cohort.load(write(tmp_path, TABLE.replace(*change, 1)))


def test_a_column_of_the_yaml_that_the_table_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must have the column 't1'; got subject .*remove t1 from c.yaml"):
        Cohort.load(write(tmp_path, "subject\n1\n"))


# -------------------------------------------------------------------------------------------------------------------- yaml


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        ({"schema": 2}, "schema must be 1; got 2"),
        ({"modalities": []}, "modalities must have at least 1 item"),
        ({"modalities": [{"kind": "image"}]}, r"modalities.0.name must be there; got nothing"),
        ({"extra": 1}, "extra must be one of the keys of cohorts; got 1"),
        ({"modalities": [{"name": "t1"}, {"name": "t1"}]}, "the name 't1' must be used once"),
        ({"modalities": [{"name": "site"}]}, "the name 'site' must be used once and be none of subject"),
        ({"modalities": [{"name": "t1", "files": "../*.tif"}]}, "files of t1 must be a pattern of names, not of paths"),
        ({"modalities": [{"name": "t1", "spatial_dims": 4}]}, "Modality.spatial_dims must be 2 or 3"),
        ({"targets": [{"name": "seg", "kind": "regions", "classes": ["a"]}]}, "codes of seg must name the label values"),
        ({"targets": [{"name": "d", "kind": "class", "classes": ["a", "a"]}]}, "Target.classes must be distinct"),
    ],
)
def test_a_wrong_yaml_is_refused(tmp_path: Path, meta: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Cohort.load(write(tmp_path, **meta))


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = write(tmp_path)
    marker = tmp_path / "ran"
    for hostile in (f"!!python/object/apply:os.mkdir ['{marker}']", "[" * 5000, "a: [", "- 1", ""):
        path.with_suffix(".yaml").write_text(hostile)
        with pytest.raises(ConfigError, match=r"c\.yaml"):
            Cohort.load(path)
    assert not marker.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cohort must be a .csv file; got c.yaml .*Give the .csv"):
        Cohort.load(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"table must be a readable CSV file; got No such file or directory .*c.csv"):
        Cohort.load(tmp_path / "c.csv")
    write(tmp_path).with_suffix(".yaml").unlink()
    with pytest.raises(ConfigError, match=r"cohort must have a yaml beside its csv; got none .*comodal index"):
        Cohort.load(tmp_path / "c.csv")


# ------------------------------------------------------------------------------------------------------------------- files


def images(root: Path) -> Cohort:
    specs = [ModalitySpec(name="t1", spatial_dims=2), ModalitySpec(name="flair", spatial_dims=2)]
    meta = CohortMeta(layout="csv", root="", modalities=specs)
    (root / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).save(root / "a" / "t1.png")
    return Cohort.build(meta, [Case.build("s", cells={"t1": "a/t1.png", "flair": ""})], root)


def test_file_gives_existing_files_below_the_root(tmp_path: Path) -> None:
    cohort = images(tmp_path / "root")
    (case,) = cohort.cases
    assert cohort.file(case, "t1") == tmp_path / "root" / "a" / "t1.png"
    with pytest.raises(DataError, match=r"list the file; got a blank cell \[subject s, modality flair\]. This case has t1"):
        cohort.file(case, "flair")
    (tmp_path / "root" / "a" / "t1.png").unlink()
    with pytest.raises(
        DataError,
        match=r"must list files that exist; got none \[subject s, modality t1, file .*t1.png\]. "
        r"Correct the path, or blank the cell if this sequence is absent",
    ):
        cohort.file(case, "t1")


def test_links_may_lead_around_below_the_root_but_not_out_of_it(tmp_path: Path) -> None:
    cohort = images(tmp_path / "root")
    (case,) = cohort.cases
    path = tmp_path / "root" / "a" / "t1.png"
    path.rename(tmp_path / "root" / "real.png")
    path.symlink_to(tmp_path / "root" / "real.png")
    assert cohort.file(case, "t1") == path
    path.unlink()
    (tmp_path / "secret.png").write_bytes(b"secret")
    path.symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"must list files below its root .*; got a link out of it \[subject s, modality t1"):
        cohort.file(case, "t1")
    path.unlink()
    os.rmdir(path.parent)
    path.parent.symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "t1.png").write_bytes(b"secret")
    with pytest.raises(
        DataError, match=r"got a link out of it \[subject s, modality t1, file .*a/t1.png\]. Copy the file there"
    ):
        cohort.file(case, "t1")


def test_a_root_that_is_a_link_is_fine(tmp_path: Path) -> None:
    images(tmp_path / "disk")
    (tmp_path / "root").symlink_to(tmp_path / "disk", target_is_directory=True)
    meta = CohortMeta(layout="csv", root="", modalities=[ModalitySpec(name="t1", spatial_dims=2)])
    cohort = Cohort.build(meta, [Case.build("s", cells={"t1": "a/t1.png"})], tmp_path / "root")
    assert cohort.file(cohort.cases[0], "t1").exists()


# ------------------------------------------------------------------------------------------------------------------- cells


def test_label_indices() -> None:
    many = TargetSpec(name="f", kind="multilabel", classes=["a", "b", "c"])
    assert label_indices(many, "c;a") == (0, 2)
    assert label_indices(many, "-") == ()
    one = TargetSpec(name="d", kind="class", classes=["a;b", "c"])
    assert label_indices(one, "a;b") == (0,)
    with pytest.raises(DataError, match=r"got '-' \[subject s, modality d\]"):
        label_indices(one, "-", subject="s")
