"""The contract's own data: problems, stages, optimisers by prefix, freezing, and what a method refuses."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch
from torch import nn

from comodal.errors import ConfigError, UnsupportedSubset
from comodal.method import Citation, Method, MethodConfig, OneStageConfig, Optimiser, Problem, Requirements, Stage
from comodal.modality import Modality, Target

WT = Target("seg", "regions", ("WT", "TC"), ((1, 2), (1,)), (2, 1))
GRADE = Target("grade", "class", ("low", "high"))
PROBLEM = Problem((Modality("t1"), Modality("report", kind="text", spatial_dims=0)), (WT, GRADE), 3, (8, 8, 8), 12)


class Two(Method):
    """An encoder with batch norm and dropout, and a head."""

    Config: ClassVar[type[MethodConfig]] = OneStageConfig
    paper: ClassVar[Citation] = Citation("A", "B", 2020)

    def __init__(self, at_test: tuple[str, ...] | None = None) -> None:
        super().__init__(PROBLEM, OneStageConfig())
        self.encoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        self.heading = nn.Linear(2, 2)
        self.at_test = at_test

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("segmentation",), at_test=self.at_test)


def test_a_citation_reads_as_a_reference() -> None:
    assert str(Citation("Lee, Kim", "On things", 2024, "MICCAI", "arXiv:1")) == "Lee, Kim (2024). On things. MICCAI, arXiv:1."
    assert str(Citation("Lee", "On things", 2024)) == "Lee (2024). On things."


def test_a_problem_survives_json() -> None:
    assert Problem.from_dict(json.loads(json.dumps(PROBLEM.to_dict()))) == PROBLEM


def test_a_problem_with_several_grids_and_words_survives_json() -> None:
    images = (Modality("mri", grid="mri"), Modality("slide", spatial_dims=2, grid="slide"), PROBLEM.modalities[1])
    problem = Problem(images, (GRADE,), 3, (8, 8, 4), 5, {"slide": (64, 32)}, ("mass", "clear"))
    assert Problem.from_dict(json.loads(json.dumps(problem.to_dict()))) == problem
    assert hash(problem) == hash(Problem.from_dict(problem.to_dict()))
    old = {key: value for key, value in PROBLEM.to_dict().items() if key not in ("patches", "words")}
    assert Problem.from_dict(old) == PROBLEM


def test_each_grid_has_a_patch_and_today_s_single_one_is_the_default() -> None:
    scan, ct, slide = Modality("scan"), Modality("ct", grid="ct"), Modality("slide", spatial_dims=2, grid="slide")
    report = Modality("report", kind="text", spatial_dims=0, grid="report")
    problem = Problem((scan, ct, slide, report), (GRADE,), 3, (8, 8, 4), 5, {"slide": (64, 32)})
    assert problem.patches == {"grid": (8, 8, 4), "ct": (8, 8, 4), "slide": (64, 32)} and problem.grid == "grid"
    assert [problem.patch_of(n) for n in problem.names] == [(8, 8, 4), (8, 8, 4), (64, 32), ()]
    assert [problem.dims_of(n) for n in ("scan", "slide")] == [3, 2]
    first = Problem((slide, scan), (GRADE,), 3, patches={"grid": (8, 8, 4), "slide": (64, 32), "unused": (1,)})
    assert (first.patch, first.grid, list(first.patches)) == ((64, 32), "slide", ["slide", "grid"])
    sliced = Problem((scan, slide), (GRADE,), 2, (16, 16))
    assert [sliced.patch_of(n) for n in sliced.names] == [(16, 16), (16, 16)]


def test_a_problem_is_asked_by_name() -> None:
    assert PROBLEM.names == ("t1", "report")
    assert PROBLEM.modality("report").kind == "text"
    assert PROBLEM.target("grade") is GRADE
    with pytest.raises(
        ConfigError, match=r"modality must be one of the problem; got 'reprt'. Did you mean report\? Known: report, t1"
    ):
        PROBLEM.modality("reprt")
    with pytest.raises(ConfigError, match=r"target must be one of the problem; got 'sg'. Did you mean seg\? Known: grade, seg"):
        PROBLEM.target("sg")


def test_the_task_is_segmentation_as_soon_as_voxels_are_predicted() -> None:
    assert PROBLEM.task == "segmentation"
    assert Problem(PROBLEM.modalities, (GRADE,)).task == "classification"


# ------------------------------------------------------------------------------------------------------- stages
@pytest.mark.parametrize("length", [{}, {"epochs": 1, "steps": 1}])
def test_a_stage_has_either_epochs_or_steps(length: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"Stage warm must have either epochs or steps; got \(.*\). Set one of them"):
        Stage("warm", **length)  # type: ignore[arg-type]


def test_encoded_inputs_cannot_be_augmented() -> None:
    with pytest.raises(ConfigError, match=r"Stage fuse must not augment encoded inputs; got augment=True. Set augment=False"):
        Stage("fuse", inputs="encoded", epochs=1)


def test_a_prefix_is_a_whole_name() -> None:
    stage = Stage("s", train=("head",), epochs=1)
    assert stage.trains("head.0.weight") and stage.trains("head")
    assert not stage.trains("heading.weight") and not stage.trains("encoder.head.weight")
    assert Stage("s", epochs=1).trains("anything")


def test_the_longest_prefix_steps_a_parameter() -> None:
    how = {"": Optimiser(), "text": Optimiser("adamw"), "text.head": Optimiser("sgd")}
    stage = Stage("s", optimisers=how, epochs=1)
    assert stage.optimiser_of("text.head.weight") == "text.head"
    assert stage.optimiser_of("text.body.weight") == "text"
    assert stage.optimiser_of("texture.weight") == ""


def test_a_parameter_without_optimiser_is_refused() -> None:
    stage = Stage("s", optimisers={"head": Optimiser()}, epochs=1)
    with pytest.raises(ConfigError, match=r"Stage s must have an optimiser for every trained parameter; got encoder.0.weight"):
        stage.optimiser_of("encoder.0.weight")


def test_entering_a_stage_freezes_and_puts_wholly_frozen_parts_into_eval_mode() -> None:
    method = Two()
    method.enter(Stage("s", train=("head",), epochs=1))
    assert {n for n, p in method.named_parameters() if p.requires_grad} == {"head.0.weight", "head.0.bias"}
    assert not any(m.training for m in method.encoder.modules())  # dropout and running statistics are frozen too
    assert all(m.training for m in method.head.modules())
    assert method.training and not method.heading.training


def test_the_next_stage_unfreezes() -> None:
    method = Two()
    method.enter(Stage("s", train=("head",), epochs=1))
    method.eval()
    method.enter(Stage("t", epochs=1))
    assert all(p.requires_grad for p in method.parameters())
    assert all(m.training for m in method.modules())


# ------------------------------------------------------------------------------------------------------- subsets
@pytest.mark.parametrize(
    ("at_test", "subset", "expected"),
    [
        (None, (), False),
        (None, ("t1",), True),
        (None, ("t1", "report"), True),
        (None, ("t1", "other"), False),
        (("report",), ("t1",), False),
        (("report",), ("report",), True),
    ],
)
def test_supports_any_known_set_that_has_what_is_needed(
    at_test: tuple[str, ...] | None, subset: tuple[str, ...], expected: bool
) -> None:
    assert Two(at_test).supports(subset) is expected


def test_the_first_row_that_is_not_supported_is_named_with_what_would_do() -> None:
    present = torch.tensor([[True, True], [True, False], [False, True]])
    with pytest.raises(UnsupportedSubset) as caught:
        Two(("report",)).require_support(present)
    assert str(caught.value) == (
        "Two must get a subset of modalities from which it can predict (report, t1+report); got t1. Give one of these subsets."
    )
    Two(("report",)).require_support(present[[0, 2]])


def test_what_a_subclass_forgot_is_said() -> None:
    bare = Method(PROBLEM, MethodConfig())
    with pytest.raises(NotImplementedError, match=r"Method.stages must return at least one Stage"):
        bare.stages()
    with pytest.raises(NotImplementedError, match=r"Method.requires must be a property"):
        _ = bare.requires
    assert not bare.encodes


def test_settings_become_an_optimiser_and_unknown_keys_are_refused() -> None:
    config = OneStageConfig(optimiser="sgd", rate=0.01, weight_decay=0.1, schedule="cosine", warmup=0.1)
    assert config.optimisation() == Optimiser("sgd", 0.01, 0.1, "cosine", 0.1)
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        OneStageConfig.model_validate({"rte": 1})
