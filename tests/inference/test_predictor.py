from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.inference.fakes import Convolving, Mean, case, noise, problem

from comodal.batch import Batch, Features, Sample, Text, collate
from comodal.data.cohort import Case
from comodal.data.grid import Grid
from comodal.data.preprocessing import PreparedCase
from comodal.errors import ConfigError, DataError, UnsupportedSubset
from comodal.inference import predictor
from comodal.inference.predictor import CasePrediction, can_predict, gaussian_weights, predict_case, window_starts
from comodal.method import Method, MethodConfig, Prediction, Problem, Requirements
from comodal.modality import Modality, Target, subsets

ALL = list(subsets("abc"))


def seg(found: CasePrediction) -> np.ndarray:
    return found.probabilities["seg"]


def ramp(shape: tuple[int, int, int]) -> np.ndarray:
    x, y, z = np.indices(shape)
    return np.asarray((x + 2 * y + 3 * z) / float(np.sum(np.multiply(shape, (1, 2, 3)))))


@pytest.mark.parametrize("shape", [(20, 13, 9), (8, 8, 8), (5, 30, 3), (1, 1, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_windows_of_a_linear_function_give_it_back(shape: tuple[int, int, int], overlap: float) -> None:
    method = Mean(problem((8, 8, 8)))
    ((subset, found),) = predict_case(method, case({"a": ramp(shape)}), subsets=[("a",)], overlap=overlap)
    assert subset == ("a",)
    assert found.probabilities["seg"].shape == (1, *shape)
    assert found.probabilities["seg"].dtype == np.float32
    assert found.probabilities["seg"][0] == pytest.approx(ramp(shape), abs=1e-6)
    assert {tuple(b.inputs["a"].shape[1:]) for b in method.seen if isinstance(b.inputs["a"], torch.Tensor)} == {(1, 8, 8, 8)}


@pytest.mark.parametrize("kind", ["encodes", "predicts"])
def test_overlapping_windows_equal_monai(kind: str) -> None:
    """A prediction that depends on where in the window a voxel lies, so that the weights matter."""
    from monai.inferers import sliding_window_inference

    class Placed(Mean):
        def predict(self, batch: Batch) -> Prediction:
            return Prediction({"seg": batch.image("a") * torch.linspace(0, 1, 8)[:, None, None]}, batch.present)

    image = noise((16, 12, 12))["a"]
    method = Placed(problem((8, 8, 8))) if kind == "predicts" else Convolving(problem((8, 8, 8)))
    ((_, found),) = predict_case(method, case({"a": image}), subsets=["a"], batch_size=3)

    def by_monai(window: torch.Tensor) -> torch.Tensor:
        samples = [Sample("", "", {"a": row}) for row in window]
        return method.predict(collate(samples, method.problem.modalities)).probabilities["seg"]

    with torch.inference_mode():
        one = torch.from_numpy(image)[None, None]
        expected = sliding_window_inference(one, (8, 8, 8), 3, by_monai, overlap=0.5, mode="gaussian")
    assert found.probabilities["seg"] == pytest.approx(expected[0].numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("size", "window", "overlap", "starts"),
    [
        (110, 64, 0.5, [0, 23, 46]),
        (64, 64, 0.5, [0]),
        (65, 64, 0.5, [0, 1]),
        (10, 5, 0, [0, 5]),
        (4, 7, 0.5, [-2]),
        (6, 1, 0, [*range(6)]),
    ],
)
def test_windows_are_evenly_spaced_and_flush(size: int, window: int, overlap: float, starts: list[int]) -> None:
    assert window_starts(size, window, overlap) == starts


@pytest.mark.parametrize("overlap", [0, 0.3, 0.5, 0.9, 0.999])
def test_windows_overlap_at_least_as_asked_and_leave_no_gap(overlap: float) -> None:
    for size in range(8, 40):
        starts = window_starts(size, 8, overlap)
        assert (starts[0], starts[-1]) == (0, size - 8)
        steps = np.diff(starts)
        assert (steps >= 1).all()
        assert (steps <= max(1, math.ceil(8 * (1 - overlap)))).all()


@pytest.mark.parametrize("window", [(1, 1, 1), (8, 8, 8), (64, 3, 128)])
def test_weights_are_strictly_positive_and_highest_in_the_middle(window: tuple[int, int, int]) -> None:
    weights = gaussian_weights(window)
    assert weights.min() >= 1e-3
    assert weights.max() == weights[tuple(n // 2 for n in window)]
    assert np.array_equal(weights, weights[::-1, ::-1, ::-1])
    assert gaussian_weights((9, 4), (True, False))[:, 0].tolist() == gaussian_weights((9,)).tolist()


@pytest.mark.parametrize("kind", [Mean, Convolving])
def test_a_subset_gets_the_same_bytes_in_whatever_company(kind: type[Mean], monkeypatch: pytest.MonkeyPatch) -> None:
    method, whole = kind(problem((6, 6, 6))), case(noise((13, 9, 7)))
    together = dict(predict_case(method, whole, subsets=ALL))
    assert list(together) == ALL
    monkeypatch.setattr(predictor, "ACCUMULATORS", 1)  # a chunk of one subset
    one_by_one = dict(predict_case(method, whole, subsets=reversed(ALL)))
    for subset in ALL:
        alone = dict(predict_case(method, case({n: whole.images[n][0] for n in subset}), subsets=[subset]))[subset]
        assert seg(together[subset]).tobytes() == seg(alone).tobytes() == seg(one_by_one[subset]).tobytes()
    assert seg(together["a",]).tobytes() != seg(together["b",]).tobytes()


@pytest.mark.parametrize("kind", [Mean, Convolving])
def test_nan_in_absent_images_changes_nothing(kind: type[Mean]) -> None:
    method, images = kind(problem((6, 6, 6))), noise((8, 7, 6))
    clean = dict(predict_case(method, case(images), subsets=["ac"]))
    poisoned = dict(predict_case(method, case(images | {"b": np.full((8, 7, 6), np.nan)}), subsets=["ac"]))
    assert seg(clean["a", "c"]).tobytes() == seg(poisoned["a", "c"]).tobytes()
    assert np.isfinite(seg(poisoned["a", "c"])).all()


def test_each_modality_is_encoded_once_per_window_and_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Convolving(problem((6, 6, 6)))
    list(predict_case(method, case(noise((6, 6, 12))), subsets=ALL, batch_size=9))
    assert method.encoded == [("a",), ("b",), ("c",)]
    method.encoded.clear()
    monkeypatch.setattr(predictor, "ACCUMULATORS", 4 * 6 * 6 * 12 * 4)  # four subsets of one class
    list(predict_case(method, case(noise((6, 6, 12))), subsets=ALL, batch_size=9))
    assert method.encoded == [("a",), ("b",), ("c",)] * 2


def test_subsets_come_one_after_the_other() -> None:
    """Without encodings the second subset is not begun before the first is taken: memory does not grow with their number."""
    method = Mean(problem((6, 6, 6)))
    found = predict_case(method, case(noise((6, 6, 6))), subsets=ALL)
    assert method.seen == []
    next(found)
    assert len(method.seen) == 1
    next(found)
    assert len(method.seen) == 2


@pytest.mark.parametrize(("patch", "per_slice"), [((12, 12), 1), ((6, 7), 1), ((4, 7), 2)])
def test_a_2d_method_goes_slice_by_slice(patch: tuple[int, int], per_slice: int) -> None:
    method = Mean(problem(patch))
    image = ramp((6, 7, 5))
    ((_, found),) = predict_case(method, case({"b": image}), subsets=["b"], batch_size=2)
    assert found.probabilities["seg"][0] == pytest.approx(image, abs=1e-6)
    assert sum(len(b) for b in method.seen) == 5 * per_slice
    assert {tuple(b.image("b").shape[1:]) for b in method.seen} == {(1, *patch)}
    assert max(len(b) for b in method.seen) == 2
    assert all(b.present.tolist() == [[False, True, False]] * len(b) for b in method.seen)


def test_windows_know_where_they_are() -> None:
    """The world coordinate of each voxel, from the affine of its window, on an oblique grid with padding."""

    class World(Mean):
        def predict(self, batch: Batch) -> Prediction:
            steps = torch.stack(torch.meshgrid(*[torch.arange(6.0)] * 3, indexing="ij")).double()
            rows = batch.affines["grid"]
            return Prediction(
                {"seg": (torch.einsum("bi,ixyz->bxyz", rows[:, 0, :3], steps) + rows[:, 0, 3, None, None, None])[:, None]},
                batch.present,
            )

    affine = np.array([[0.9, -0.2, 0.1, 30], [0.2, 1.1, 0, -7], [0, 0.3, 2, 5], [0, 0, 0, 1.0]])
    grid = Grid((11, 4, 9), affine)
    ((_, found),) = predict_case(World(problem((6, 6, 6))), case({"a": np.zeros(grid.shape)}, grid=grid), subsets=["a"])
    expected = np.einsum("i,ixyz->xyz", affine[0], np.concatenate([np.indices(grid.shape), np.ones((1, *grid.shape))]))
    assert found.probabilities["seg"][0] == pytest.approx(expected, abs=1e-4)


def test_arrays_mapped_from_disk_are_read_window_by_window(tmp_path: Path) -> None:
    images = noise((9, 8, 7))
    np.save(tmp_path / "a.npy", images["a"][None])
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    base = case({"a": images["a"]})
    there = PreparedCase(base.case, base.grid, base.grids, {"a": mapped})
    method = Mean(problem((6, 6, 6)))
    first, second = (dict(predict_case(method, row, subsets=["a"]))["a",] for row in (there, base))
    assert seg(first).tobytes() == seg(second).tobytes()


def test_a_classification_sees_the_middle_of_the_case() -> None:
    grade = Target("grade", "class", ("low", "high"))
    image = np.zeros((10, 4, 1))
    image[3:7] = 0.5  # the middle four of ten columns; 4 of 6 rows after padding
    method = Mean(problem((4, 6), target=grade, kind=2))
    ((_, found),) = predict_case(method, case({"a": image}), subsets=["a"])
    assert found.probabilities["grade"].shape == (2,)
    assert found.probabilities["grade"] == pytest.approx([2 / 3, 1 / 3])


class Words(Method):
    """The fraction of sentences that begin with token 7."""

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("classification",), kinds=("text",))

    def predict(self, batch: Batch) -> Prediction:
        text = batch.inputs["report"]
        assert isinstance(text, Text)
        yes = (text.ids[:, :, 0] == 7).float().mean(dim=1)
        return Prediction({"grade": torch.stack([1 - yes, yes], dim=1)}, batch.present)


def test_a_case_without_images_is_one_row() -> None:
    of = Problem((Modality("report", "text", 0),), (Target("grade", "class", ("low", "high")),), 2, (), vocabulary=9)
    report = Text(torch.tensor([[7, 1], [3, 1]]), torch.ones((2, 2), dtype=torch.bool))
    row = PreparedCase(Case("p1", "p1", group="p1", cells={"report": "a.txt"}), None, values={"report": report})
    found = dict(predict_case(Words(of, MethodConfig()), row, subsets=[("report",)]))
    assert found["report",].probabilities["grade"].tolist() == [0.5, 0.5]


def test_the_method_keeps_its_modes_and_gets_no_gradient() -> None:
    method = Mean(problem((6, 6, 6)))
    method.train()
    method.part.eval()  # a frozen part of a training
    ((_, found),) = predict_case(method, case({"a": np.ones((6, 6, 6))}), subsets=["a"])
    assert found.probabilities["seg"].max() == found.probabilities["seg"].min() == 1.0  # no dropout
    assert method.training
    assert not method.part.training
    assert torch.is_grad_enabled()


class OnlyPairs(Mean):
    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("segmentation",), at_test=("a", "b"))


@pytest.mark.parametrize(
    ("subset", "options", "error", "text"),
    [
        (("a", "d"), {}, ConfigError, r"subset must name modalities of the method; got 'd'\. Known: a, b, c\."),
        (("a", "c"), {}, DataError, r"subset must have modalities of the case; got none \[subject p1, modality c\]"),
        (("a",), {}, UnsupportedSubset, r"OnlyPairs must get a subset .* \(a\+b, a\+b\+c\); got a\."),
        ((), {}, UnsupportedSubset, "got nothing"),
        (("a", "b"), {"overlap": 1.0}, ConfigError, r"overlap must be at least 0 and less than 1; got 1\.0"),
    ],
)
def test_what_cannot_be_predicted_is_refused_at_once(
    subset: tuple[str, ...], options: Mapping[str, float], error: type[Exception], text: str
) -> None:
    there = case({n: np.zeros((6, 6, 6)) for n in "ab"})
    with pytest.raises(error, match=text):  # by the call, not by the first step of the iteration
        predict_case(OnlyPairs(problem((6, 6, 6))), there, subsets=[subset], **options)  # type: ignore[arg-type]


def test_a_segmentation_needs_an_image() -> None:
    of = Problem((Modality("a"), Modality("report", "text", 0)), problem((6, 6, 6)).targets, 3, (6, 6, 6), vocabulary=9)
    report = Text(torch.ones((1, 1), dtype=torch.long), torch.ones((1, 1), dtype=torch.bool))
    row = PreparedCase(Case("p1", "p1", group="p1"), None, values={"report": report})
    with pytest.raises(UnsupportedSubset, match=r"subset must have an image, .*; got report \[subject p1\]"):
        predict_case(Mean(of), row, subsets=[("report",)])
    assert not can_predict(Mean(of), ["report"])
    assert can_predict(Mean(of), ["a", "report"])


# ------------------------------------------------------------------------------------- what was used, and extras
class Ignores(Mean):
    """Looks at the first present image alone, and has an extra of every shape."""

    def predict(self, batch: Batch) -> Prediction:
        self.require_support(batch.present)
        first = batch.present & (batch.present.cumsum(dim=1) == 1)
        image = batch.restrict(first).image("a") + batch.restrict(first).image("b")  # (B, 1, *spatial)
        extras = {"map": image[:, 0], "maps": torch.stack([image, 2 * image], dim=1), "mean": image.flatten(1).mean(dim=1)}
        found = {
            t.name: image if t.is_segmentation else image.flatten(2).mean(dim=2).expand(-1, 2) for t in self.problem.targets
        }
        return Prediction(found, first, extras)


@pytest.mark.parametrize("patch", [(6, 6, 6), (6, 6)])
def test_extras_are_maps_like_the_probabilities_or_means_over_windows(patch: tuple[int, ...]) -> None:
    image = ramp((8, 7, 6))
    method, there = Ignores(problem(patch, names="a b")), case({"a": image, "b": 0 * image})
    ((_, found),) = predict_case(method, there, subsets=["ab"], extras=True)
    assert found.extras["map"] == pytest.approx(image, abs=1e-6)
    assert found.extras["maps"].shape == (2, 1, 8, 7, 6)
    assert found.extras["maps"][1, 0] == pytest.approx(2 * image, abs=1e-6)
    windows = [image[x : x + 6, y : y + 6] for x in (0, 2) for y in (0, 1)]  # whole along Z, or all of its slices
    assert found.extras["mean"] == pytest.approx(np.mean([w.mean() for w in windows]), abs=1e-6)
    assert {extra.dtype for extra in found.extras.values()} == {np.dtype(np.float32)}


def test_extras_are_kept_on_request_only() -> None:
    """They may be larger than the probabilities, and an evaluation needs none."""
    ((_, found),) = predict_case(Ignores(problem((6, 6, 6), names="a b")), case({"a": ramp((6, 6, 6))}), subsets=["a"])
    assert found.extras == {}


def test_extras_of_a_classification_are_handed_on() -> None:
    grade = Target("grade", "class", ("low", "high"))
    image = np.full((6, 6, 6), 0.5)
    method = Ignores(problem((6, 6, 6), names="a b", target=grade))
    ((_, found),) = predict_case(method, case({"a": image}), subsets=["a"], extras=True)
    assert found.extras["map"].shape == (6, 6, 6) and found.extras["maps"].shape == (2, 1, 6, 6, 6)
    assert found.extras["mean"] == pytest.approx(0.5)


def test_used_is_what_the_method_says_and_not_what_it_was_given() -> None:
    there = case({"a": ramp((8, 7, 6)), "b": ramp((8, 7, 6))})
    found = dict(predict_case(Ignores(problem((6, 6, 6), names="a b")), there, subsets=subsets("ab")))
    assert {subset: one.used for subset, one in found.items()} == {("a",): ("a",), ("b",): ("b",), ("a", "b"): ("a",)}


def test_used_is_the_union_over_windows() -> None:
    class Patchy(Mean):
        def predict(self, batch: Batch) -> Prediction:
            bright = (batch.image("a").flatten(1).mean(dim=1) > 0.5)[:, None]
            used = torch.where(bright, torch.tensor([True, False]), torch.tensor([False, True]))
            return Prediction({"seg": batch.image("a")}, used)

    image = np.zeros((6, 6, 12))
    image[:, :, 6:] = 1
    method = Patchy(problem((6, 6, 6), names="a b"))
    for windows, used in ((slice(None), ("a", "b")), (slice(0, 6), ("b",)), (slice(6, 12), ("a",))):
        there = case({"a": image[:, :, windows], "b": image[:, :, windows]})
        ((_, found),) = predict_case(method, there, subsets=["ab"], overlap=0, batch_size=1)
        assert found.used == used


def test_encodings_change_neither_used_nor_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    class Telling(Convolving):
        def decode(self, features: Mapping[str, Features], present: torch.Tensor) -> Prediction:
            found = super().decode(features, present)
            return Prediction(found.probabilities, present, {"double": 2 * found.probabilities["seg"]})

    method, whole = Telling(problem((6, 6, 6))), case(noise((9, 7, 6)))
    for subset, found in predict_case(method, whole, subsets=ALL, extras=True):
        assert found.used == subset
        assert found.extras["double"] == pytest.approx(2 * seg(found), abs=1e-6)


# ------------------------------------------------------------------------------------- several grids
def two_views() -> tuple[Problem, PreparedCase]:
    """A scan of 9 x 8 x 7 seen through windows of 6 x 6 x 6, and a photograph of 10 x 4 seen at 6 x 6."""
    modalities = (Modality("scan"), Modality("photo", spatial_dims=2, grid="photo"))
    of = Problem(modalities, problem((6, 6, 6)).targets, 3, (6, 6, 6), patches={"photo": (6, 6)})
    scan, photo = ramp((9, 8, 7)), np.arange(40.0).reshape(10, 4, 1)
    grids = {"grid": Grid((9, 8, 7), np.eye(4)), "photo": Grid((10, 4, 1), np.eye(4))}
    images = {"scan": scan[None].astype(np.float32), "photo": photo[None].astype(np.float32)}
    row = Case("p1", "p1", group="p1", cells=dict.fromkeys(images, "file"))
    return of, PreparedCase(row, grids["grid"], grids=grids, images=images)


def test_another_grid_is_seen_whole_at_its_own_size_in_every_window() -> None:
    class Scan(Mean):
        def predict(self, batch: Batch) -> Prediction:
            self.seen.append(batch)
            return Prediction({"seg": batch.image("scan")}, batch.present)

    of, there = two_views()
    method = Scan(of)
    ((_, found),) = predict_case(method, there, subsets=[("scan", "photo")], batch_size=3)
    assert seg(found)[0] == pytest.approx(ramp((9, 8, 7)), abs=1e-6)
    middle = torch.nn.functional.pad(torch.arange(40.0).reshape(10, 4)[2:8], (1, 1))
    assert len(method.seen) > 1
    for batch in method.seen:
        assert batch.image("scan").shape[1:] == (1, 6, 6, 6)
        assert torch.equal(batch.image("photo"), middle.expand(len(batch), 1, 6, 6))
        assert batch.affines["photo"][0, :3, 3].tolist() == [2.0, -1.0, 0.0]


def test_an_absent_picture_has_the_size_of_its_own_grid() -> None:
    of, there = two_views()
    grade = Target("grade", "class", ("low", "high"))
    method = Mean(Problem(of.modalities, (grade,), 3, patches=of.patches))
    for name, other in (("scan", "photo"), ("photo", "scan")):
        batch = next(iter(predictor.batches_of(method.problem, there, (name,), windows=None, size=1)))
        assert batch.image(other).shape == (1, 1, *method.problem.patch_of(other)) and not batch.image(other).any()


def test_a_segmentation_cannot_lie_on_another_grid() -> None:
    of, there = two_views()
    assert can_predict(Mean(of), ["scan", "photo"]) and can_predict(Mean(of), ["scan"])
    assert not can_predict(Mean(of), ["photo"])
    with pytest.raises(UnsupportedSubset, match=r"subset must have an image, .*; got photo \[subject p1\]"):
        predict_case(Mean(of), there, subsets=[("photo",)])
