"""The one structure: it checks itself, absence is by selection, and bits of `present` can only be cleared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from comodal.batch import Bag, Batch, Sample, Text, cleared, collate
from comodal.errors import ConfigError
from comodal.modality import Modality

NAN = float("nan")
T1, T2 = Modality("t1", spatial_dims=2), Modality("t2", spatial_dims=2)
REPORT = Modality("report", kind="text", spatial_dims=0, grid="report")
AGE = Modality("blood", kind="features", spatial_dims=0, channels=3, grid="blood")
TILES = Modality("tiles", kind="bag", spatial_dims=0, channels=2, grid="tiles")


def small(present: list[list[bool]], **changes: object) -> Batch:
    bits = torch.tensor(present)
    rows = len(present)
    names = ("a", "b", "c")[: len(present[0])]
    inputs = {n: torch.arange(rows * 2.0).reshape(rows, 1, 2) + 10 * i for i, n in enumerate(names)}
    ids = tuple(f"case-{i}" for i in range(rows))
    batch = Batch(names, inputs, bits, ids=ids, groups=ids, affines={"grid": torch.eye(4).expand(rows, 4, 4)})
    return replace(batch, **changes)  # type: ignore[arg-type]


def image(value: float, shape: tuple[int, ...] = (1, 2, 2)) -> Tensor:
    return torch.full(shape, value)


# ------------------------------------------------------------------------------------------------------- it checks itself
def test_a_row_with_nothing_present_is_refused_with_its_case() -> None:
    with pytest.raises(ConfigError) as caught:
        small([[True, False], [False, False]])
    assert str(caught.value) == (
        "Batch.present must have at least one modality in every row; got none in row 1 [subject case-1]. "
        "Leave the case out or keep one of: a, b."
    )


def test_present_is_bool_of_rows_by_modalities() -> None:
    with pytest.raises(ConfigError, match=r"Batch.present must be bool of shape \(2, 2\); got torch.float32 \(2, 2\)"):
        replace(small([[True, True], [True, True]]), present=torch.ones(2, 2))
    with pytest.raises(ConfigError, match=r"Batch.present must be bool of shape \(2, 2\); got torch.bool \(2, 3\)"):
        replace(small([[True, True], [True, True]]), present=torch.ones(2, 3, dtype=torch.bool))


def test_every_modality_has_an_input_and_no_other() -> None:
    with pytest.raises(ConfigError, match=r"Batch.inputs must have exactly \('a', 'b'\); got \('a',\)"):
        small([[True, True]], inputs={"a": torch.zeros(1, 1)})


@pytest.mark.parametrize(
    ("changes", "owner"),
    [
        ({"inputs": {"a": torch.zeros(3, 1), "b": torch.zeros(2, 1)}}, r"inputs\[a\]"),
        ({"inputs": {"a": Text(torch.zeros(3, 1, 1), torch.zeros(3, 1, 1)), "b": torch.zeros(2, 1)}}, r"inputs\[a\]"),
        ({"inputs": {"a": Bag(torch.zeros(3, 1, 1), torch.zeros(3, 1)), "b": torch.zeros(2, 1)}}, r"inputs\[a\]"),
        ({"inputs": {"a": (torch.zeros(3, 1),), "b": torch.zeros(2, 1)}}, r"inputs\[a\]"),
        ({"targets": {"y": torch.zeros(3)}, "labelled": {"y": torch.ones(2)}}, r"targets\[y\]"),
        ({"targets": {"y": torch.zeros(2)}, "labelled": {"y": torch.ones(3)}}, r"labelled\[y\]"),
        ({"groups": ("p", "p", "p")}, "groups"),
    ],
)
def test_everything_has_one_row_per_id(changes: dict[str, object], owner: str) -> None:
    with pytest.raises(ConfigError, match=rf"Batch.{owner} must have 2 rows, one per id; got 3"):
        small([[True, True], [True, False]], **changes)


def test_each_target_says_where_it_is_labelled() -> None:
    with pytest.raises(ConfigError, match=r"Batch.labelled must have exactly \('y',\); got \(\)"):
        small([[True, True]], targets={"y": torch.zeros(1)}, labelled={})


def test_an_unknown_name_lists_the_nearest() -> None:
    batch = collate([Sample("1", "1", {"report": image(1)})], [T1, Modality("report")])
    with pytest.raises(
        ConfigError, match=r"modality must be one of the batch; got 'reprt'. Did you mean report\? Known: report, t1"
    ):
        batch.is_present("reprt")
    with pytest.raises(ConfigError, match=r"got 'reprt'"):
        batch.drop(["reprt"])


# ------------------------------------------------------------------------------------------------------- absence
def test_an_absent_image_is_zero_whatever_stood_there() -> None:
    batch = small([[True, False], [True, True]])
    spoiled = batch.with_inputs({**batch.inputs, "b": torch.full((2, 1, 2), NAN)})
    assert batch.image("b").tolist() == [[[0.0, 0.0]], [[12.0, 13.0]]]
    assert spoiled.image("b")[0].tolist() == [[0.0, 0.0]]


def test_the_gradient_of_an_absent_row_is_exactly_zero_even_where_it_is_nan() -> None:
    leaf = torch.tensor([[1.0, 2.0], [NAN, NAN]], requires_grad=True)
    batch = Batch(
        ("a", "b"),
        {"a": leaf, "b": torch.zeros(2, 1)},
        torch.tensor([[True, True], [False, True]]),
        ids=("1", "2"),
        groups=("1", "2"),
    )
    (batch.vector("a") ** 2).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [[2.0, 4.0], [0.0, 0.0]]


def test_an_absent_text_has_no_token() -> None:
    text = Text(torch.full((2, 1, 2), 7), torch.ones(2, 1, 2, dtype=torch.bool))
    batch = small([[True, False], [True, True]])
    found = batch.with_inputs({**batch.inputs, "b": text}).text("b")
    assert found.attention.tolist() == [[[False, False]], [[True, True]]]
    assert found.ids.tolist() == [[[0, 0]], [[7, 7]]]


def test_an_absent_bag_has_no_valid_item_and_invalid_items_are_zero() -> None:
    bag = Bag(torch.full((2, 2, 1), NAN), torch.tensor([[True, True], [False, True]]))
    bag.items[1, 1] = 5.0
    batch = small([[True, False], [True, True]])
    found = batch.with_inputs({**batch.inputs, "b": bag}).bag("b")
    assert found.valid.tolist() == [[False, False], [False, True]]
    assert found.items.tolist() == [[[0.0], [0.0]], [[0.0], [5.0]]]


def test_encodings_of_several_tensors_are_cleared_too() -> None:
    parts = cleared((torch.full((2, 1), NAN), torch.ones(2, 1, 1)), torch.tensor([False, True]))
    assert isinstance(parts, tuple)
    assert [part.tolist() for part in parts][1] == [[[0.0]], [[1.0]]]
    assert parts[0][0].tolist() == [0.0]


@pytest.mark.parametrize(
    ("ask", "rule", "got"),
    [
        ("image", "a Tensor (B, C, ...)", "Text"),
        ("bag", "a Bag", "Text"),
        ("text", "a Text", "Tensor (1, 1)"),
        ("image", "a Tensor (B, C, ...)", "Tensor (1, 1)"),
        ("vector", "a Tensor (B, F)", "Tensor (1, 1, 2)"),
        ("vector", "a Tensor (B, F)", "Text"),
    ],
)
def test_asking_for_another_kind_says_what_is_there(ask: str, rule: str, got: str) -> None:
    text = Text(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.bool))
    batch = small([[True, True, True]], inputs={"a": text, "b": torch.zeros(1, 1), "c": torch.zeros(1, 1, 2)})
    name = {"Text": "a", "Tensor (1, 1)": "b", "Tensor (1, 1, 2)": "c"}[got]
    with pytest.raises(ConfigError) as caught:
        getattr(batch, ask)(name)
    start = f"Batch.{ask} must be asked for {rule}; got {got} [modality {name}]. Ask image(), vector(), text() or bag()"
    assert str(caught.value).startswith(start)


def test_a_vector_is_zero_where_it_is_absent() -> None:
    batch = small([[True, False], [True, True]])
    batch = batch.with_inputs({**batch.inputs, "b": torch.tensor([[NAN, NAN], [3.0, 4.0]])})
    assert batch.vector("b").tolist() == [[0.0, 0.0], [3.0, 4.0]]


def test_encodings_are_those_of_the_modalities_that_some_row_has() -> None:
    one, two = torch.ones(2, 3), (torch.ones(2, 3), torch.ones(2, 4, 4))
    batch = small([[True, False, False], [True, True, False]], inputs={"a": one, "b": two, "c": torch.zeros(2, 1)})
    found = batch.encodings()
    assert set(found) == {"a", "b"} and found["a"] is one and found["b"] is two


def test_keep_drop_and_restrict_only_clear_bits() -> None:
    batch = small([[True, False, True], [True, True, True]])
    assert batch.keep(["a", "b"]).present.tolist() == [[True, False, False], [True, True, False]]
    assert batch.drop(["c"]).present.tolist() == [[True, False, False], [True, True, False]]
    assert batch.restrict(torch.ones(2, 3, dtype=torch.bool)).present.tolist() == batch.present.tolist()
    assert batch.restrict(torch.tensor([[False, True, True], [True, False, False]])).present.tolist() == [
        [False, False, True],
        [True, False, False],
    ]
    assert batch.present.tolist() == [[True, False, True], [True, True, True]]  # a new batch each time


def test_a_row_cannot_lose_its_last_modality() -> None:
    with pytest.raises(ConfigError, match=r"at least one modality in every row; got none in row 0 \[subject case-0\]"):
        small([[True, False], [True, True]]).keep(["b"])


def test_rows_takes_everything_along() -> None:
    batch = small(
        [[True, False], [True, True], [False, True]],
        targets={"y": torch.arange(3)},
        labelled={"y": torch.tensor([True, False, True])},
    )
    part = batch.rows([2, 0])
    assert len(part) == 2
    assert part.ids == part.groups == ("case-2", "case-0")
    assert part.present.tolist() == [[False, True], [True, False]]
    assert part.image("b")[0].tolist() == [[14.0, 15.0]]
    assert part.targets["y"].tolist() == [2, 0]
    assert part.labelled["y"].tolist() == [True, True]
    assert part.affines["grid"].shape == (2, 4, 4)


# ------------------------------------------------------------------------------------------------------- collate
def test_collate_marks_what_a_sample_lacks_as_absent_and_puts_zeros() -> None:
    batch = collate([Sample("1", "p", {"t1": image(1)}), Sample("2", "q", {"t2": image(2), "t1": image(3)})], [T1, T2])
    assert batch.modalities == ("t1", "t2")
    assert batch.present.tolist() == [[True, False], [True, True]]
    assert batch.image("t2")[0].abs().sum() == 0 and batch.image("t2").shape == (2, 1, 2, 2)
    assert (batch.ids, batch.groups) == (("1", "2"), ("p", "q"))


def test_an_image_that_no_sample_has_takes_the_shape_of_its_grid_or_else_the_patch() -> None:
    other = Modality("scan", channels=3, grid="other")
    both = collate([Sample("1", "1", {"t1": image(1)})], [T1, T2, other, AGE], patch=(9, 9))
    assert both.image("t2").shape == (1, 1, 2, 2)
    assert both.image("scan").shape == (1, 3, 2, 2)
    assert both.vector("blood").shape == (1, 3)
    alone = collate([Sample("1", "1", {"blood": torch.ones(3)})], [T1, AGE], patch=(4, 5))
    assert alone.image("t1").shape == (1, 1, 4, 5)  # so that a convolution can run on a batch without any image


def test_images_of_different_shapes_are_refused() -> None:
    samples = [Sample("1", "1", {"t1": image(1)}), Sample("2", "2", {"t1": image(1, (1, 3, 2))})]
    with pytest.raises(
        ConfigError, match=r"collate must get inputs of one shape; got \[\(1, 2, 2\), \(1, 3, 2\)\] \[modality t1\]"
    ):
        collate(samples, [T1])


def test_texts_are_padded_to_the_longest_and_an_absent_one_has_no_token() -> None:
    def text(sentences: int, tokens: int) -> Text:
        return Text(torch.full((sentences, tokens), 5), torch.ones(sentences, tokens, dtype=torch.bool))

    samples = [
        Sample("1", "1", {"report": text(1, 3)}),
        Sample("2", "2", {"report": text(2, 2)}),
        Sample("3", "3", {"t1": image(1)}),
    ]
    found = collate(samples, [T1, REPORT]).inputs["report"]
    assert isinstance(found, Text)
    assert found.ids.shape == (3, 2, 3) and found.ids.dtype == torch.int64
    assert found.attention.sum(dim=(1, 2)).tolist() == [3, 4, 0]
    assert found.attention[1].tolist() == [[True, True, False], [True, True, False]]


def test_bags_are_padded_and_an_absent_or_empty_one_has_no_valid_item() -> None:
    def bag(items: int) -> Bag:
        return Bag(torch.ones(items, 2), torch.ones(items, dtype=torch.bool))

    samples = [Sample("1", "1", {"tiles": bag(3)}), Sample("2", "2", {"t1": image(1)}), Sample("3", "3", {"tiles": bag(0)})]
    found = collate(samples, [T1, TILES]).inputs["tiles"]
    assert isinstance(found, Bag)
    assert found.items.shape == (3, 3, 2)
    assert found.valid.sum(dim=1).tolist() == [3, 0, 0]
    nobody = collate([Sample("2", "2", {"t1": image(1)})], [T1, TILES]).inputs["tiles"]
    assert isinstance(nobody, Bag) and nobody.items.shape == (1, 1, 2)


def test_a_target_that_some_lack_is_zero_and_not_labelled_there() -> None:
    samples = [Sample("1", "1", {"t1": image(1)}, {"y": torch.tensor(1)}), Sample("2", "2", {"t1": image(1)})]
    batch = collate(samples, [T1])
    assert batch.targets["y"].tolist() == [1, 0]
    assert batch.labelled["y"].tolist() == [True, False]
    assert collate(samples[1:], [T1]).targets == {}  # what no sample has is left out


def test_labels_known_in_part_keep_their_classes() -> None:
    answers = {"y": torch.tensor([1.0, 0.0])}
    samples = [
        Sample("1", "1", {"t1": image(1)}, answers, {"y": torch.tensor([True, False])}),
        Sample("2", "2", {"t1": image(1)}, answers),
        Sample("3", "3", {"t1": image(1)}),
    ]
    batch = collate(samples, [T1])
    assert batch.labelled["y"].tolist() == [[True, False], [True, True], [False, False]]


def test_affines_are_kept_where_all_samples_have_them() -> None:
    samples = [
        Sample("1", "1", {"t1": image(1)}, affines={"grid": np.eye(4) * 2, "other": np.eye(4)}),
        Sample("2", "2", {"t1": image(1)}, affines={"grid": np.eye(4)}),
    ]
    batch = collate(samples, [T1])
    assert set(batch.affines) == {"grid"}
    assert batch.affines["grid"].dtype == torch.float64
    assert batch.affines["grid"][0, 0, 0] == 2


def test_to_keeps_every_kind_of_value() -> None:
    text, bag = Text(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)), Bag(torch.zeros(1, 1, 1), torch.zeros(1, 1))
    batch = small([[True, True, True]], inputs={"a": text, "b": bag, "c": (torch.zeros(1, 1),)}).to("cpu")
    assert [type(batch.inputs[name]) for name in "abc"] == [Text, Bag, tuple]
    assert batch.device == torch.device("cpu")
