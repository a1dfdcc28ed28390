"""Joining cohorts: who belongs to whom, and what may not be decided silently."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comodal import api
from comodal.data import index
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.joining import join
from comodal.data.reading import read_volume
from comodal.errors import ConfigError, DataError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FLAIR = ModalitySpec(name="flair", grid="brain")
TILES = ModalitySpec(name="tiles", kind="bag", spatial_dims=2, channels=3, grid="slides")
IDH = TargetSpec(name="idh", kind="class", classes=["no", "yes"])
SEG = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]])


def cohort_of(
    root: Path, cases: Iterable[Case], *columns: ModalitySpec | TargetSpec, layout: str = "", notes: Iterable[str] = ()
) -> Cohort:
    root.mkdir(parents=True, exist_ok=True)
    modalities = [one for one in columns if isinstance(one, ModalitySpec)]
    targets = [one for one in columns if isinstance(one, TargetSpec)]
    name = layout or root.name
    meta = CohortMeta(layout=name, root=str(root), modalities=modalities, targets=targets, notes=list(notes))
    return Cohort.build(meta, cases, root)


def scans(root: Path, *cases: Case) -> Cohort:
    return cohort_of(root / "mri", cases or [scan("a"), scan("b")], FLAIR, SEG, notes=["from MRI"])


def scan(subject: str, **columns: str) -> Case:
    return Case.build(subject, cells={"flair": f"{subject}.nii", "seg": f"{subject}_seg.nii"}, **columns)


def slides(root: Path, *cases: Case) -> Cohort:
    return cohort_of(root / "path", cases or [slide("b"), slide("c")], TILES, IDH, notes=["from pathology"])


def slide(subject: str, **columns: str) -> Case:
    return Case.build(subject, cells={"tiles": f"{subject}_1.png; x/{subject}_2.png", "idh": "yes"}, **columns)


def test_equal_ids_become_one_case(tmp_path: Path) -> None:
    joined = join([scans(tmp_path), slides(tmp_path)])
    assert joined.ids == ("b",) and joined.root == tmp_path
    assert joined.cases[0].cells == {
        "flair": "mri/b.nii",
        "seg": "mri/b_seg.nii",
        "tiles": "path/b_1.png;path/x/b_2.png",
        "idh": "yes",
    }
    assert [m.name for m in joined.modalities] == ["flair", "tiles"] and [t.name for t in joined.targets] == ["seg", "idh"]
    assert (joined.meta.layout, joined.path) == ("mri+path", None)
    note = "joined mri and path: 1 cases in both (0 by patient, others by id); left out: 1 of mri, 1 of path"
    assert joined.meta.notes == ["from MRI", "from pathology", note]


def test_all_cases_keep_blank_cells(tmp_path: Path) -> None:
    joined = join([scans(tmp_path), slides(tmp_path)], keep="all")
    assert joined.ids == ("a", "b", "c")
    assert [sorted(case.cells) for case in joined.cases] == [
        ["flair", "seg"],
        ["flair", "idh", "seg", "tiles"],
        ["idh", "tiles"],
    ]
    assert joined.presence().to_numpy().tolist() == [[True, False], [True, True], [False, True]]


def test_patients_with_one_case_on_each_side(tmp_path: Path) -> None:
    first = scans(tmp_path, scan("m1", group="p1"), scan("m2", group="p2"), scan("x", group="p3"))
    second = slides(tmp_path, slide("s2", group="p2"), slide("s1", group="p1"), slide("x", group="p3"))
    joined = join([first, second])
    assert joined.ids == ("m1", "m2", "x")
    assert [case.cells["tiles"].split("_")[0] for case in joined.cases] == ["path/s1", "path/s2", "path/x"]
    assert joined.meta.notes[-1].startswith("joined mri and path: 3 cases in both (2 by patient, others by id)")
    assert join([first, second], on="subject").ids == ("x",)
    assert join([first, second], on="group").ids == ("m1", "m2", "x")


@pytest.mark.parametrize("side", ["mri", "path"])
def test_two_cases_of_one_patient_are_named(tmp_path: Path, side: str) -> None:
    twice = [("m1", "p1"), ("m2", "p1")]
    first = scans(tmp_path, *(scan(i, group=g) for i, g in (twice if side == "mri" else twice[:1])))
    second = slides(tmp_path, *(slide(f"s{i}", group=g) for i, g in (twice if side == "path" else twice[:1])))
    names = "m1, m2" if side == "mri" else "sm1, sm2"
    text = (
        f"cohort {side} must have one case of patient p1, to whom the other cohort's case belongs; got {names}. .*--on subject"
    )
    with pytest.raises(DataError, match=text):
        join([first, second])
    # with an equal id there is nothing to guess, as long as no partner is sought for the other
    third = slides(tmp_path, slide("m2", group="p1"))
    assert join([scans(tmp_path, *(scan(i, group=g) for i, g in twice)), third]).ids == ("m2",)


def test_sessions_are_cases_of_their_own(tmp_path: Path) -> None:
    first = scans(tmp_path, scan("a", session="1"), scan("a", session="2"))
    joined = join([first, slides(tmp_path, slide("a", session="2"))])
    assert [(case.id, case.session) for case in joined.cases] == [("a_2", "2")]


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    first, second = scans(tmp_path), slides(tmp_path, slide("c"))
    with pytest.raises(DataError, match="cohort path must have a case of mri; got no id or group in common"):
        join([first, second])
    assert len(join([first, second], keep="all")) == 3
    with pytest.raises(ConfigError, match="join must be given two cohorts or more; got 1"):
        join([first])


def test_sites_splits_and_groups_agree_or_are_blank_on_one_side(tmp_path: Path) -> None:
    first = scans(tmp_path, scan("a", site="CS", split="train"), scan("b", group="p"))
    second = slides(tmp_path, slide("a", group="q"), slide("b", site="DU", split="test", group="p"))
    a, b = join([first, second]).cases
    assert (a.site, a.split, a.group) == ("CS", "train", "q") and (b.site, b.split, b.group) == ("DU", "test", "p")
    for name, mine, theirs in (("split", "train", "test"), ("site", "CS", "DU"), ("group", "p", "q")):
        pair = [scans(tmp_path, scan("a", **{name: mine})), slides(tmp_path, slide("a", **{name: theirs}))]
        with pytest.raises(
            DataError, match=rf"column {name} must agree in both cohorts; got {mine} and {theirs} \[subject a\]"
        ):
            join(pair)


def test_grids_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    first = scans(tmp_path)
    ct = ModalitySpec(name="ct", grid="brain")
    age = ModalitySpec(name="age", kind="features", spatial_dims=0, inline=True, grid="brain")
    second = cohort_of(tmp_path / "ct", [Case.build("b", cells={"ct": "b.nii", "age": "1;2"})], ct, age)
    joined = join([first, second])
    assert {m.name: m.grid for m in joined.modalities} == {"flair": "brain", "ct": "ct-brain", "age": "brain"}
    assert joined.cases[0].cells["age"] == "1;2"  # no path
    third = cohort_of(
        tmp_path / "pet", [Case.build("b", cells={"pet": "b"})], ModalitySpec(name="pet", grid="brain"), layout="ct"
    )
    assert [m.grid for m in join([first, second, third]).modalities if m.kind == "image"] == [
        "brain",
        "ct-brain",
        "ct-ct-brain",
    ]


def test_columns_of_one_name(tmp_path: Path) -> None:
    first = scans(tmp_path)
    with pytest.raises(DataError, match=r"column must be described alike in mri and two .*two descriptions \[modality flair\]"):
        join(
            [
                first,
                cohort_of(tmp_path / "two", [Case.build("b", cells={"flair": "b"})], FLAIR.model_copy(update={"channel": 1})),
            ]
        )
    text = (
        r"must be filled once for each case, or hold equal answers; got 'mri/b.nii' and 'two/b' \[subject b, modality flair\]"
    )
    with pytest.raises(DataError, match=text):
        join([first, cohort_of(tmp_path / "two", [Case.build("b", cells={"flair": "b"})], FLAIR)])
    # two hospitals with the same columns: one below the other, on one grid
    other = cohort_of(tmp_path / "two", [Case.build("z", cells={"flair": "z.nii", "seg": "z_seg.nii"})], FLAIR, SEG)
    joined = join([first, other], keep="all")
    assert joined.ids == ("a", "b", "z") and joined.cases[2].cells["seg"] == "two/z_seg.nii"
    assert [m.grid for m in joined.modalities] == ["brain"]
    # equal answers of both are no contradiction, different ones are
    answers = cohort_of(tmp_path / "t", [Case.build("b", cells={"tiles": "", "age": "1", "idh": "yes"})], IDH, age())
    assert join([slides(tmp_path), answers]).cases[0].cells["idh"] == "yes"
    answers = cohort_of(tmp_path / "t", [Case.build("b", cells={"age": "1", "idh": "no"})], IDH, age())
    with pytest.raises(DataError, match=r"got 'yes' and 'no' \[subject b, modality idh\]"):
        join([slides(tmp_path), answers])


def age() -> ModalitySpec:
    return ModalitySpec(name="age", kind="features", spatial_dims=0, inline=True)


def test_a_segmentation_stays_on_its_own_images(tmp_path: Path) -> None:
    ct = cohort_of(tmp_path / "ct", [Case.build("b", cells={"ct": "b.nii"})], ModalitySpec(name="ct", grid="body"))
    text = r"segmentation must lie on the first image of the joined cohort, which is ct; got one of mri .*Name mri before ct"
    with pytest.raises(DataError, match=text):
        join([ct, scans(tmp_path)])
    assert [m.name for m in join([scans(tmp_path), ct]).modalities] == ["flair", "ct"]
    assert [m.name for m in join([slides(tmp_path), scans(tmp_path)]).modalities] == ["tiles", "flair"]  # a bag has no voxels


def test_links_are_followed_to_a_common_folder(tmp_path: Path) -> None:
    """A root that is a link would lead out of the common folder, and its files would be refused."""
    far = tmp_path / "far" / "disk"
    far.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(far / "b.png")
    (tmp_path / "near" / "mri").mkdir(parents=True)
    Image.fromarray(np.ones((4, 4), dtype=np.uint8)).save(tmp_path / "near" / "mri" / "b.png")
    (tmp_path / "near" / "ct").symlink_to(far)
    pairs = []
    for name in ("mri", "ct"):
        spec = ModalitySpec(name=name, spatial_dims=2, grid=name)
        pairs.append(cohort_of(tmp_path / "near" / name, [Case.build("b", cells={name: "b.png"})], spec))
    joined = join(pairs)
    assert [int(read_volume(joined.file(joined.cases[0], name)).array.max()) for name in ("mri", "ct")] == [1, 0]


def test_joining_a_cohort_of_a_run_is_refused(tmp_path: Path) -> None:
    run = scans(tmp_path)
    kept = Cohort.build(run.meta.model_copy(update={"withheld": {"flair": {"a": "a.nii"}}}), run.cases, run.root)
    with pytest.raises(ConfigError, match="join must be given cohorts and no copy of a run"):
        join([kept, slides(tmp_path)])


def test_the_function_of_the_api(tmp_path: Path) -> None:
    first, second = scans(tmp_path), slides(tmp_path)
    written = api.join([first.save(tmp_path / "mri.csv"), second], tmp_path / "out" / "pairs.csv")
    assert written == join([first, second]) and Cohort.load(tmp_path / "out" / "pairs.csv") == written
    with pytest.raises(ConfigError, match=r"--out must be a new file"):
        api.join([first, second], tmp_path / "out" / "pairs.csv")
    assert len(api.join([first, second], tmp_path / "out" / "pairs.csv", keep="all", overwrite=True)) == 3
    with pytest.raises(ConfigError, match=r"--out must be another file than the table that is read"):
        api.join([tmp_path / "mri.csv", second], tmp_path / "mri.csv", overwrite=True)
    with pytest.raises(ConfigError, match=r"--set must be for a layout that is joined; got 'radpath'"):
        api.join([first, second], options={"radpath": {"tile": 1}})


@pytest.mark.skipif(not (DATA / "glioma_pathology").is_dir(), reason="the real data sets are not here")
def test_the_real_pairs_of_mri_and_pathology() -> None:
    mri = index("lgg-mri", DATA.resolve() / "lgg_mri" / "kaggle_3m")
    pathology = index("glioma-pathology", DATA.resolve() / "glioma_pathology")
    joined = join([mri, pathology])
    assert len(joined) == 74 and len(mri) == 80
    assert int(joined.presence()[["flair", "pathology"]].all(axis=1).sum()) == 74
    assert int(joined.presence().all(axis=1).sum()) == 66
    for case in joined.cases:
        assert case.cells["flair"] == f"lgg_mri/kaggle_3m/{mri.case(case.id).cells['flair']}"
        files = [path.relative_to(DATA.resolve() / "glioma_pathology").as_posix() for path in joined.files(case, "pathology")]
        assert ";".join(files) == pathology.case(case.id).cells["pathology"]
    everyone = join([mri, pathology], keep="all")
    assert len(everyone) == 80 and everyone.meta.notes[-1].endswith("with blank cells: 6 of lgg-mri, 0 of glioma-pathology")
