"""The configuration of a run: every mistake is one line with key, rule, value and one thing to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from comodal.config import RunConfig, apply_overrides, build_method, build_problem, load_config, read_yaml, validated
from comodal.data.cohort import Case, Cohort, CohortMeta
from comodal.data.columns import ModalitySpec, TargetSpec
from comodal.errors import ConfigError
from comodal.method import OneStageConfig
from comodal.methods import METHODS
from comodal.methods.unet import UNet, UNetConfig

PLAIN = {
    "cohort": "cohort.csv",
    "method": {"name": "unet", "width": 4, "levels": 2},
    "data": {"spatial_dims": 2, "patch": [8, 8]},
}
KNOWN = ", ".join(sorted(METHODS))


def written(path: Path, values: Any) -> Path:
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def cohort(*modalities: ModalitySpec) -> Cohort:
    specs = list(modalities) or [ModalitySpec(name="flair"), ModalitySpec(name="t1")]
    seg = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]], paint=[1])
    meta = CohortMeta(
        layout="csv", root=".", modalities=specs, targets=[seg, TargetSpec(name="grade", kind="class", classes=["a", "b"])]
    )
    return Cohort.build(meta, [Case.build("1", cells={specs[0].name: "x.nii"})], Path())


def config(**changes: Any) -> RunConfig:
    return validated(RunConfig, {**PLAIN, **changes}, "config")


# ------------------------------------------------------------------------------------------------------- reading
def test_a_file_is_resolved_whole_and_survives_being_written(tmp_path: Path) -> None:
    loaded = load_config(written(tmp_path / "c.yaml", PLAIN))
    assert loaded.cohort == str(tmp_path / "cohort.csv")  # relative to the file, not to where one stands
    assert loaded.method["rate"] == UNetConfig().rate  # defaults are written out
    assert load_config(written(tmp_path / "again.yaml", loaded.to_yaml())) == loaded


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "c.yaml", PLAIN)
    loaded = load_config(path, ["training.seed=3", "method.rate=1e-2", "data.patch=[16, 16]", "training.clip=null"])
    assert (loaded.training.seed, loaded.method["rate"], loaded.data.patch, loaded.training.clip) == (3, 0.01, (16, 16), None)


def test_an_empty_section_has_its_defaults(tmp_path: Path) -> None:
    path = written(tmp_path / "c.yaml", yaml.safe_dump(PLAIN) + "training:\n")
    assert load_config(path) == load_config(written(tmp_path / "d.yaml", PLAIN))
    assert load_config(path, ["training.seed=3"]).training.seed == 3


def test_nothing_is_withheld_where_the_key_is_empty(tmp_path: Path) -> None:
    path = written(tmp_path / "c.yaml", {**PLAIN, "data": {**PLAIN["data"], "withhold": None}})  # type: ignore[dict-item]
    assert load_config(path) == load_config(written(tmp_path / "d.yaml", PLAIN))


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(PLAIN).encode())
    assert load_config(tmp_path / "c.yaml").method_name == "unet"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"trainning": {}},
            "config.trainning must be a known key; got 'trainning'. Did you mean training? Known: cohort, data, method,",
        ),
        (
            {"training": {"sed": 1}},
            "config.training.sed must be a known key; got 'sed'. Did you mean seed? Known: batch_size, checkpoint",
        ),
        (
            {"training": {"seed": -1}},
            "config.training.seed must be greater than or equal to 0; got -1. Correct config.training.seed.",
        ),
        ({"data": {"spatial_dims": 4}}, "config.data.spatial_dims must be 2 or 3; got 4. Correct config.data.spatial_dims."),
        ({"data": "no"}, "config.data must be a mapping of keys; got 'no'. Correct config.data."),
        ({"data": {"withhold": {"t1": 1.0}}}, "config.data.withhold.t1 must be less than 1; got 1.0. Correct config.data.with"),
        ({"data": {"withhold": {"t1": -0.1}}}, "config.data.withhold.t1 must be greater than or equal to 0; got -0.1. Correct"),
        ({"data": {"withhold": {"t1": float("nan")}}}, "config.data.withhold.t1 must be "),
        (
            {"data": {"regions": "ET"}},
            "config.data.regions must be a list, for instance [ET]; got 'ET'. Correct config.data.re",
        ),
        ({"data": {"modalities": "t1"}}, "config.data.modalities must be a list, for instance [t1]; got 't1'. Correct config."),
        ({"data": {"withhold": ["t1"]}}, "config.data.withhold must be a mapping of keys; got ['t1']. Correct config.data.wi"),
        ({"method": 3}, "config.method must be a mapping of keys; got 3. Correct config.method."),
        ({"cohort": None}, "config.cohort must be given; got nothing. Add the key cohort."),
        (
            {"method": {"name": "unett"}},
            f"method.name must be a known method; got 'unett'. Did you mean unet? Known: {KNOWN}.",
        ),
        ({"method": {}}, f"method.name must be a known method; got ''. Known: {KNOWN}."),
        (
            {"method": {"name": "unet", "widht": 3}},
            "method.widht must be a known key; got 'widht'. Did you mean width? Known: levels, ",
        ),
        ({"method": {"name": "unet", "rate": 0}}, "method.rate must be greater than 0; got 0. Correct method.rate."),
        (
            {"splits": {"fractions": [0.5, 0.1, 0.1]}},
            "config.splits.fractions must be three numbers that add up to 1, the first above 0; got (0.5, 0.1, 0.1). ",
        ),
        (
            {"splits": {"folds": 2, "fold": 2}},
            "config.splits.fold must be below folds (2); got 2. Correct config.splits.fold.",
        ),
    ],
)
def test_a_mistake_is_said_with_key_rule_value_and_what_to_do(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path / "c.yaml", {**PLAIN, **changes}))
    assert str(caught.value).startswith(text)


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path / "c.yaml", {**PLAIN, "training": {"seed": -1, "batch_size": 0}, "x": 1}))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("seed", "--set must be of the form a.b=value; got 'seed'. For instance --set training.seed=3."),
        ("=3", "--set must be of the form a.b=value; got '=3'. For instance --set training.seed=3."),
        ("training.seed=[1", "--set training.seed must have a plain YAML value; got '[1'. Quote the value."),
        ("cohort.path=3", "--set cohort.path must name a key; got 'cohort'. cohort has no keys below it."),
        (
            "training.seed=!!python/object/apply:os.getcwd []",
            "--set training.seed must have a plain YAML value; got '!!python/",
        ),
    ],
)
def test_an_override_that_cannot_be_read_is_refused(override: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"cohort": "c.csv"}, [override])
    assert str(caught.value).startswith(text)


# ------------------------------------------------------------------------------------------------------- hostile files
TAGS = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object/apply:subprocess.check_output [['touch', '{mark}']]",
    "!custom {{a: 1}}",
]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_builds_nothing(tmp_path: Path, tag: str) -> None:
    mark = tmp_path / "ran"
    path = written(tmp_path / "c.yaml", f"cohort: c.csv\nmethod: {{name: unet}}\ntraining:\n  seed: {tag.format(mark=mark)}\n")
    with pytest.raises(ConfigError, match=r"config must be plain YAML; got could not determine a constructor for the tag"):
        load_config(path)
    assert not mark.exists()


def test_a_value_that_would_fill_the_memory_is_refused_in_few_words(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]  # 9^12 words
    path = written(tmp_path / "c.yaml", "\n".join([*lines, "cohort: c.csv", "method: {name: unet, width: *a11}", "data: *a11"]))
    with pytest.raises(ConfigError, match=r"config.data must be a mapping of keys; got \[\[\["):
        load_config(path)


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "c.yaml", "cohort: " + "[" * 20_000 + "]" * 20_000)
    with pytest.raises(ConfigError, match=r"config must be plain YAML; got maximum recursion depth exceeded"):
        load_config(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.touch()
    os.truncate(path, 2_000_000)
    with pytest.raises(ConfigError, match=r"config must be smaller than 1000000 bytes; got 2000000. Check the file"):
        load_config(path)


@pytest.mark.parametrize("content", ["[1, 2]", "text", "3", ""])
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(
        ConfigError, match=r"config must be a mapping of keys; got \w+ \[file .*c.yaml\]. Start from comodal init"
    ):
        load_config(written(tmp_path / "c.yaml", content))


def test_bytes_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\x80\x04\x95")
    with pytest.raises(ConfigError, match=r"config must be plain YAML; got 'utf-8' codec can't decode"):
        read_yaml(tmp_path / "c.yaml", "config")
    with pytest.raises(ConfigError, match=r"config must be a file that exists; got d.yaml .* Check the path"):
        read_yaml(tmp_path / "d.yaml", "config")


# ------------------------------------------------------------------------------------------------------- problem and method
def test_the_problem_keeps_the_order_of_the_cohort() -> None:
    problem = build_problem(
        config(data={"spatial_dims": 2, "patch": [8, 8], "modalities": ["t1", "flair"], "targets": ["seg"]}), cohort()
    )
    assert problem.names == ("flair", "t1")
    assert [t.name for t in problem.targets] == ["seg"]
    assert (problem.spatial_dims, problem.patch, problem.vocabulary) == (2, (8, 8), 0)


def test_a_problem_of_pictures_is_2d_whatever_the_configuration_says() -> None:
    pictures = cohort(*[ModalitySpec(name=n, spatial_dims=2) for n in ("flair", "t1")])
    problem = build_problem(config(data={"patch": [8, 8], "targets": ["grade"]}), pictures)
    assert (problem.spatial_dims, problem.patch) == (2, (8, 8))


def test_patch_spacing_and_resize_may_name_grids() -> None:
    two = cohort(ModalitySpec(name="flair"), ModalitySpec(name="t1", spatial_dims=2, grid="picture"))
    data = {"patch": {"grid": [8, 8, 4], "picture": [32, 16]}, "spacing": {"grid": [1, 1, 3]}, "resize": {"picture": [40, 20]}}
    chosen = config(data={**data, "spatial_dims": 3, "targets": ["grade"]})
    assert RunConfig.model_validate(yaml.safe_load(chosen.to_yaml())) == chosen
    assert build_problem(chosen, two).patches == {"grid": (8, 8, 4), "picture": (32, 16)}
    made = chosen.data.preprocessing()
    assert (made.spacing_of("grid"), made.spacing_of("picture")) == ((1, 1, 3), "native")
    assert (made.resize_of("grid"), made.resize_of("picture")) == (None, (40, 20))
    only = chosen.model_copy(update={"data": chosen.data.model_copy(update={"modalities": ("flair",)})})
    assert build_problem(only, two).patches == {"grid": (8, 8, 4)}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"modalities": ["flar"]},
            "data.modalities must name columns of the cohort; got 'flar'. Did you mean flair? Known: flair, t1.",
        ),
        ({"targets": ["sg"]}, "data.targets must name columns of the cohort; got 'sg'. Did you mean seg? Known: grade, seg."),
        ({"modalities": []}, "data.modalities must name at least one; got none. Known: flair, t1."),
        ({"targets": []}, "data.targets must name at least one; got none. Known: grade, seg."),
        ({"patch": [8]}, "data.patch must have 2 sides, one per dimension; got (8,). Correct data.patch."),
        ({"patch": []}, "data.patch must have 2 sides, one per dimension; got (). Correct data.patch."),
    ],
)
def test_a_problem_that_does_not_fit_the_cohort_is_refused(data: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_problem(config(data={"spatial_dims": 2, "patch": [8, 8], **data}), cohort())
    assert str(caught.value) == text


def test_the_problem_has_the_chosen_regions_in_the_order_of_the_cohort() -> None:
    seg = TargetSpec(name="seg", kind="regions", classes=["WT", "TC", "ET"], codes=[[1, 2, 4], [1, 4], [4]], paint=[2, 1, 4])
    cyst = TargetSpec(name="cyst", kind="regions", classes=["cyst"], codes=[[1]])
    one = cohort()
    have = Cohort.build(one.meta.model_copy(update={"targets": [seg, cyst, one.meta.targets[1]]}), one.cases, one.root)

    def targets(**data: Any) -> dict[str, tuple[str, ...]]:
        found = build_problem(config(data={**PLAIN["data"], **data}), have).targets  # type: ignore[dict-item]
        return {target.name: target.classes for target in found}

    assert targets(regions=["ET", "TC"]) == {"seg": ("TC", "ET"), "grade": ("a", "b")}
    assert targets(regions=["ET"], targets=["seg"]) == {"seg": ("ET",)}
    assert targets(regions=["ET", "cyst"], targets=["seg", "cyst"]) == {"seg": ("ET",), "cyst": ("cyst",)}
    for data, text in (
        ({"regions": []}, "data.regions must name at least one; got none. Known: ET, TC, WT, cyst."),
        ({"regions": ["ETT"]}, "data.regions must name regions of the cohort's targets; got 'ETT'. Did you mean ET"),
        (
            {"regions": ["ET"], "targets": ["seg", "cyst"]},
            "data.regions must name a region of the target cyst of data.targets; got ET. Add one of cyst, or leave cyst out of",
        ),
        (
            {"regions": ["cyst"], "targets": ["seg"]},
            "data.regions must name regions of the cohort's targets; got 'cyst'. Known: ET, TC, WT.",
        ),
        (
            {"regions": ["a"], "targets": ["grade"]},
            "data.regions must name regions of the cohort's targets; got 'a'. Leave data.regions out: these targets have no",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            targets(**data)
        assert str(caught.value).startswith(text)


def test_the_method_is_built_for_the_problem() -> None:
    chosen = config(data={"spatial_dims": 2, "patch": [8, 8], "targets": ["seg"]})
    method = build_method(chosen, build_problem(chosen, cohort()))
    assert isinstance(method, UNet) and isinstance(method.config, OneStageConfig)


def test_a_method_for_another_task_is_refused() -> None:
    chosen = config(data={"spatial_dims": 2, "patch": [8, 8], "targets": ["grade"]})
    with pytest.raises(
        ConfigError, match=r"method unet must be for classification; got \('segmentation',\). See comodal methods"
    ):
        build_method(chosen, build_problem(chosen, cohort()))


def test_a_modality_that_the_method_cannot_read_is_named() -> None:
    mixed = cohort(ModalitySpec(name="flair"), ModalitySpec(name="report", kind="text", spatial_dims=0))
    chosen = config(data={"spatial_dims": 2, "patch": [8, 8], "targets": ["seg"]})
    with pytest.raises(ConfigError) as caught:
        build_method(chosen, build_problem(chosen, mixed, vocabulary=9))
    assert str(caught.value) == (
        "method unet must be able to read ['image', 'text']; got ('image',). "
        "Leave report out of data.modalities or choose another method."
    )
