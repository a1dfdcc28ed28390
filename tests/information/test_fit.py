from __future__ import annotations

import contextlib
import random
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from comodal.errors import DataError, TrainingFailed
from comodal.information import fit, fold
from comodal.information.conditional import ConditionalGaussian
from comodal.information.critics import ConcatCritic
from comodal.information.estimators import ESTIMATORS, Estimate
from comodal.information.fit import InformationReport, estimate_information
from comodal.information.fold import FitSettings

Floats = NDArray[np.float64]
LOWER = ("dv", "nwj", "info_nce")
IN_NATS = (*LOWER, "smile", "demi")
UPPER = ("club", "leave_one_out")


def settings(**changed: Any) -> FitSettings:
    """Quick, and without what keeps a critic from learning its training rows by heart."""
    quick: dict[str, Any] = {"folds": 2, "hidden": (32, 32), "steps": 200, "rate": 1e-2, "averaging": 0.9, "weight_decay": 0.0}
    return FitSettings(**{**quick, "patience": 8, "upper": False, "control": False, **changed})


def pairs(n: int = 400, rho: float = 0.8, *, seed: int = 0, d: int = 2) -> tuple[Floats, Floats]:
    """Correlated Gaussians; 1.02 nats at the default."""
    draws = np.random.default_rng(seed)
    x, noise = draws.normal(size=(n, d)), draws.normal(size=(n, d))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


def values(report: InformationReport) -> dict[str, float]:
    return {estimate.name: estimate.value for estimate in report.estimates}


# ------------------------------------------------------------------------------------------------------ what is estimated


def test_dependent_pairs_read_high_and_below_the_truth_and_the_control_reads_zero() -> None:
    report = estimate_information(*pairs(), settings=settings(control=True))
    found = values(report)
    assert report.n == report.groups == 400 and report.control_is_zero and report.notes == ()
    for name in LOWER:
        assert 0.6 < found[name] < 1.02 + 0.1, name
        assert abs(next(e.value for e in report.control if e.name == name)) < 0.05, name
    for estimate in (*report.estimates, *report.control):
        assert estimate.n == 400 and estimate.ci95 is not None
        assert estimate.ci95[0] <= estimate.value <= estimate.ci95[1], estimate
        assert estimate.kind == ESTIMATORS[estimate.name].kind and estimate.bias == ESTIMATORS[estimate.name].bias
    assert report.estimate("info_nce").ceiling == pytest.approx(np.log(200)), "200 rows in each of two folds"


def test_upper_bounds_stand_above() -> None:
    report = estimate_information(*pairs(rho=0.6), settings=settings(upper=True))  # 0.45 nats
    found = values(report)
    assert list(found) == [name for name in ESTIMATORS if name != "mine"]
    assert found["club"] > found["leave_one_out"] > 0.4 and found["club"] > max(found[name] for name in LOWER)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_independent_pairs_read_nothing_even_by_a_critic_that_could_learn_them_by_heart(seed: int) -> None:
    """Early stopping keeps at worst the first critic, and a lower bound of held-out pairs cannot gain from training ones."""
    chosen = settings(hidden=(64, 64), seed=seed)
    found = values(estimate_information(pairs(seed=seed)[0], pairs(seed=seed + 50)[1], settings=chosen))
    assert all(-0.1 < found[name] < 0.03 for name in LOWER), found


def test_what_increasing_maps_of_a_feature_leave_as_it_is() -> None:
    """By ranks a fold sees the training rows alike, whatever the map; held-out rows are interpolated between them."""
    x, y = pairs()
    plain, mapped = (values(estimate_information(x, other, settings=settings())) for other in (y, y**3))
    assert mapped["dv"] == pytest.approx(plain["dv"], abs=0.05)


@pytest.mark.parametrize("scaling", ["rank", "standard"])
def test_features_of_different_number_and_unit(scaling: Literal["rank", "standard"]) -> None:
    x, y = pairs(d=3)
    one = estimate_information(1e6 * x + 5e6, 1e-3 * y[:, :1], settings=settings(scaling=scaling, upper=True))
    assert values(one)["dv"] > 0.25 and values(one)["club"] > 0.25  # of 0.51 nats


def test_without_upper_bounds_and_without_control() -> None:
    report = estimate_information(*pairs(), settings=settings(steps=5))
    assert list(values(report)) == ["dv", "nwj", "info_nce", "smile", "demi", "jsd"]
    assert report.control == () and report.control_is_zero is None
    with pytest.raises(StopIteration):
        report.estimate("club")


def test_large_folds_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimate_information(*pairs(), settings=settings())
    monkeypatch.setattr(fold, "MOST_HELD", 60)
    parts = estimate_information(*pairs(), settings=settings())
    assert parts.n == 400 and all(estimate.n == 400 for estimate in parts.estimates)
    assert parts.estimate("info_nce").ceiling == pytest.approx(np.log(50)), "200 rows of a fold in four parts"
    assert values(parts)["demi"] == pytest.approx(values(whole)["demi"], abs=1e-6), "the mean over joint pairs"
    assert values(parts)["dv"] == pytest.approx(values(whole)["dv"], abs=0.1)


# ---------------------------------------------------------------------------------------------------------- same again


def test_the_same_seed_gives_the_same_on_any_number_of_threads_and_touches_nothing() -> None:
    x, y = pairs()
    before, torchs, pythons = (x.copy(), y.copy()), torch.random.get_rng_state(), random.getstate()
    found = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        found.append(estimate_information(x, y, settings=settings(folds=3, upper=True, control=True, steps=60)))
        assert torch.get_num_threads() == threads
    assert found[0] == found[1] == found[2], "to the last bit"
    assert torch.equal(torch.random.get_rng_state(), torchs) and random.getstate() == pythons
    assert np.array_equal(x, before[0]) and np.array_equal(y, before[1])


def test_the_state_of_the_process_does_not_matter_but_the_seed_does() -> None:
    x, y = pairs()
    found = []
    for state, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(state)
        random.seed(state)
        found.append(values(estimate_information(x, y, settings=settings(steps=60, seed=seed))))
    assert found[0] == found[1] != found[2]


def test_names_of_groups_do_not_matter_for_what_they_hold() -> None:
    x, y = pairs(200)
    rows = np.arange(200) // 2
    found = [
        values(estimate_information(x, y, names, settings=settings(steps=20)))
        for names in ([f"patient {row:03d}" for row in rows], [f"{row:03d}" for row in rows])
    ]
    assert found[0] == found[1]


# -------------------------------------------------------------------------------------------------------- nothing leaks


@pytest.mark.parametrize("folds", [2, 5, 20])
def test_folds_are_whole_groups_and_balanced(folds: int) -> None:
    draws = np.random.default_rng(0)
    for sizes in (np.ones(203, dtype=int), draws.integers(1, 9, 90), np.r_[40, np.ones(100, dtype=int)]):
        groups = draws.permutation(np.repeat(np.arange(len(sizes)), sizes))
        place = fit._folds(groups, folds, np.random.default_rng(1))
        assert place.shape == groups.shape and set(place) == set(range(folds))
        assert all(len(set(place[groups == group])) == 1 for group in range(len(sizes)))
        rows = np.bincount(place)
        assert rows.max() - rows.min() <= (1 if sizes.max() == 1 else sizes.max())
        assert np.array_equal(place, fit._folds(groups, folds, np.random.default_rng(1)))
        assert not np.array_equal(place, fit._folds(groups, folds, np.random.default_rng(2)))


def fitted_on(x: Floats, y: Floats, monkeypatch: pytest.MonkeyPatch, *, scaling: Literal["rank", "standard"]) -> list[Tensor]:
    """Weights of the critic and of q for the first of two folds."""
    kept: list[Tensor] = []
    plain = fold._Fit.read

    def spy(self: Any, rows: Any, *, critic: ConcatCritic, density: ConditionalGaussian | None, names: Any) -> Any:
        assert density is not None
        kept.extend(weights.clone() for network in (critic, density) for weights in network.state_dict().values())
        return plain(self, rows, critic=critic, density=density, names=names)

    numbers = np.arange(len(x)) // 2
    fold_of = fit._folds(numbers, 2, np.random.default_rng(0))
    with monkeypatch.context() as patch:
        patch.setattr(fold._Fit, "read", spy)
        fold.Fold(x, y, numbers, fold_of, 0, settings(upper=True, steps=60, scaling=scaling), "cpu").run()
    return kept


@pytest.mark.parametrize("scaling", ["rank", "standard"])
def test_held_out_rows_do_not_touch_what_is_fitted(
    scaling: Literal["rank", "standard"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the scale, nor by the weights, nor by when to stop."""
    x, y = pairs()
    held = fit._folds(np.arange(400) // 2, 2, np.random.default_rng(0)) == 0
    before = fitted_on(x, y, monkeypatch, scaling=scaling)
    other = [np.where(held[:, None], 1e3 * array[::-1] + 7, array) for array in (x, y)]
    after = fitted_on(other[0], other[1], monkeypatch, scaling=scaling)
    assert len(before) == len(after) > 4 and all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    moved = fitted_on(x, np.where(held[:, None], y, y[::-1]), monkeypatch, scaling=scaling)
    assert not all(torch.equal(one, two) for one, two in zip(before, moved, strict=True)), "training rows do"


def test_rows_that_say_when_to_stop_are_of_other_groups_than_those_trained_on() -> None:
    groups = torch.arange(400) // 4
    made = fold._Fit(torch.zeros(400, 1), torch.zeros(400, 1), groups, settings=settings(), seed=0)
    rows = torch.arange(0, 400, 2)
    train, check = made._parted(rows, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([train, check]).sort().values, rows)
    assert len(torch.unique(groups[check])) == 10, "a tenth"
    assert not set(groups[train].tolist()) & set(groups[check].tolist())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copies_of_rows_are_found_out_by_groups(seed: int) -> None:
    """Each row five times, x and y independent: a critic that saw the copies knows the held-out pairs by heart."""
    draws = np.random.default_rng(seed)
    x, y = (np.repeat(draws.normal(size=(80, 2)), 5, axis=0) for _ in range(2))
    groups = [f"patient {row}" for row in np.repeat(np.arange(80), 5)]
    named = estimate_information(x, y, groups, settings=settings(control=True))
    blind = estimate_information(x, y, settings=settings())
    assert (named.n, named.groups, blind.groups) == (400, 80, 400)
    assert all(values(named)[name] < 0.05 for name in LOWER), values(named)
    assert all(abs(e.value) < 0.05 for e in named.control if e.name in LOWER)
    assert all(values(blind)[name] > 0.15 for name in LOWER), values(blind)


def test_the_control_pairs_rows_of_different_groups_and_keeps_both_margins(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []
    plain = fold.Fold.run

    def spy(self: Any) -> Any:
        jobs.append(self)
        return plain(self)

    monkeypatch.setattr(fold.Fold, "run", spy)
    x, y = pairs(200)
    groups = np.arange(200) // 4
    estimate_information(x, y, [str(group) for group in groups], settings=settings(control=True, steps=2))
    assert len(jobs) == 4 and {job.fold for job in jobs} == {0, 1}
    for job in jobs:
        assert np.array_equal(job.x, x) and np.array_equal(job.fold_of, jobs[0].fold_of)
        if not np.array_equal(job.y, y):
            partner = np.array([int((y == row).all(1).argmax()) for row in job.y])
            assert sorted(partner) == list(range(200)) and (groups[partner] != groups).all()
    assert sum(np.array_equal(job.y, y) for job in jobs) == 2


# ------------------------------------------------------------------------------------------------------- early stopping


class Constant(nn.Module):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def trained(gains: list[float], monkeypatch: pytest.MonkeyPatch, **changed: Any) -> tuple[float, int]:
    """The weight that is kept and the number of checks, where the check finds these gains; each step adds about 0.01."""
    asked = iter(gains)
    count = 0

    def check(*_: Any) -> float:
        nonlocal count
        count += 1
        return next(asked)

    monkeypatch.setattr(fold._Fit, "_check", check)
    made = fold._Fit(torch.zeros(100, 1), torch.zeros(100, 1), torch.arange(100), settings=settings(**changed), seed=0)
    network = Constant()
    held = made._trained(network, np.arange(100), gain=lambda module, _: module.weight, batch=45)
    assert 0 < len(held) < 100
    return float(network.weight.detach()), count


def test_at_worst_the_first_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained([0, -1, -1, -1, -1], monkeypatch, patience=3, averaging=0.0) == (0.0, 4)


def test_the_best_weights_are_kept_and_patience_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, count = trained([0, -1, 1, 0, 0.5, 2, 0, 0, 0, 9], monkeypatch, patience=3, averaging=0.0)
    assert count == 9 and weight == pytest.approx(0.01 * 2 * 5, rel=1e-3), "two steps a pass, best after the fifth pass"


def test_epochs_and_steps_are_at_most_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rising = [float(value) for value in range(100)]
    weight, count = trained(rising, monkeypatch, epochs=4, averaging=0.0)
    assert weight == pytest.approx(0.08, rel=1e-3) and count == 1 + 4
    weight, count = trained(rising, monkeypatch, steps=5, averaging=0.0)
    assert weight == pytest.approx(0.05, rel=1e-3) and count == 1 + 3, "after steps 2, 4 and 5"


def test_what_is_kept_is_a_moving_average(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, _ = trained([0.0, 1.0], monkeypatch, epochs=1, averaging=0.5)  # 0.01, then half of it and half of 0.02
    assert weight == pytest.approx(0.015, rel=1e-3)


def test_a_loss_that_is_no_number_stops_the_work_and_the_threads_are_as_before() -> None:
    with pytest.raises(TrainingFailed) as caught:
        estimate_information(*pairs(), settings=settings(rate=1e30))
    assert str(caught.value).startswith("mi must have a finite loss; got ")
    assert str(caught.value).endswith(". Lower the rate, or set the scaling to rank.")
    assert torch.get_num_threads() == 1


# ------------------------------------------------------------------------------------------------------------- progress


@pytest.mark.parametrize(("control", "total"), [(False, 3), (True, 6)])
def test_progress(control: bool, total: int) -> None:
    heard: list[tuple[int, int]] = []
    chosen = settings(folds=3, control=control, steps=2)
    estimate_information(*pairs(200), settings=chosen, on_progress=lambda *now: heard.append(now))
    assert heard == [(done, total) for done in range(total + 1)]


def test_an_interruption_leaves_the_threads_as_they_were() -> None:
    torch.set_num_threads(2)

    def interrupt(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_information(*pairs(200), settings=settings(folds=5, steps=2), on_progress=interrupt)
    assert torch.get_num_threads() == 2


# ------------------------------------------------------------------------------------------------------------- refusals

X, Y = pairs(60)
FLATTEN = "Flatten or pool it to one row of features per case."
FILL = "Fill them or leave the rows out; they are never taken for zeros."


def put(array: Floats, value: float, *where: int | slice) -> Floats:
    other = array.copy()
    other[where] = value
    return other


@pytest.mark.parametrize(
    ("x", "y", "groups", "text"),
    [
        (X[:, 0], Y, None, f"X must have rows and columns (n, d); got shape (60,). {FLATTEN}"),
        (X, Y[:, :, None], None, f"Y must have rows and columns (n, d); got shape (60, 2, 1). {FLATTEN}"),
        (X, Y[:, :0], None, f"Y must have rows and columns (n, d); got shape (60, 0). {FLATTEN}"),
        (put(X, np.nan, 3, 1), Y, None, f"X must hold finite numbers; got NaN or infinity. {FILL}"),
        (X, put(Y, -np.inf, 59, 0), None, f"Y must hold finite numbers; got NaN or infinity. {FILL}"),
        (
            X,
            put(Y, 4.0, slice(None), 1),
            None,
            "Y must vary from row to row; got a constant column 1. Leave it out: a constant carries no information.",
        ),
        (
            X,
            Y[:59],
            None,
            "Y must have as many rows as X (60); got 59. Give one row per case in both, in the same order.",
        ),
        (X, Y, ["a"] * 59, "--groups must have one entry per row (60); got 59. Check the file."),
        (
            X[:49],
            Y[:49],
            None,
            "X and Y must have at least 50 rows; got 49. Collect more: from fewer nothing can be learned and held out.",
        ),
        (
            X,
            Y,
            [str(row // 2) for row in range(60)],
            "X and Y must have at least 50 groups; got 30. Collect more: from fewer nothing can be learned and held out.",
        ),
    ],
)
def test_refusals(x: Floats, y: Floats, groups: list[str] | None, text: str) -> None:
    with pytest.raises(DataError) as caught:
        estimate_information(x, y, groups, settings=settings())
    assert str(caught.value) == text


def test_fifty_rows_are_enough_and_none_is_refused() -> None:
    assert estimate_information(X[:50], Y[:50], settings=settings(steps=2)).n == 50
    with pytest.raises(DataError, match=r"must have at least 50 rows; got 0\."):
        estimate_information(X[:0], Y[:0], settings=settings())


@pytest.mark.parametrize("folds", [5, 20])
def test_few_rows_in_many_folds_are_read_without_a_warning(folds: int) -> None:
    """Two or three rows in a fold: a resample may draw one of them alone, and then has no negatives."""
    report = estimate_information(X[:50], Y[:50], settings=settings(folds=folds, steps=2))
    assert all(np.isfinite(value) for value in values(report).values())


def test_one_group_of_most_rows_is_read_or_refused_in_words() -> None:
    """The fold of that group has no negatives to be read with, and none to train with where it is the rest."""
    x, y = pairs(200)
    groups = ["one"] * 140 + [f"other {row}" for row in range(60)]
    with contextlib.suppress(DataError):
        report = estimate_information(x, y, groups, settings=settings(steps=2))
        assert all(np.isfinite(value) for value in values(report).values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("folds", 1),
        ("folds", 21),
        ("batch", 1),
        ("rate", 0.0),
        ("weight_decay", -0.1),
        ("averaging", 1.0),
        ("epochs", 0),
        ("steps", 0),
        ("patience", 0),
        ("scaling", "none"),
        ("clip", 0.0),
        ("seed", -1),
        ("hidden", (8,)),
        ("lr", 0.1),
    ],
)
def test_settings_are_checked(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        FitSettings(**{name: value})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FitSettings().folds = 3  # type: ignore[misc]  # refused by mypy as well


# ---------------------------------------------------------------------------------------------- what a report says of itself


def one(name: str, value: float, ci95: tuple[float, float] | None = None, ceiling: float | None = None) -> Estimate:
    kind = ESTIMATORS[name]
    return Estimate(name, kind.kind, value, ci95, ceiling=ceiling, bias=kind.bias, n=400)


def reported(*control: Estimate, value: float = 0.5, k: int = 51) -> InformationReport:
    return InformationReport((one("dv", value), one("info_nce", value, ceiling=float(np.log(k)))), control, 400, 400)


def test_the_control_is_zero_up_to_a_twentieth_of_a_nat_or_by_its_interval() -> None:
    assert reported().control_is_zero is None
    assert reported(one("dv", 0.05), one("demi", -0.05)).control_is_zero is True
    assert reported(one("dv", 0.0), one("demi", 0.06)).control_is_zero is False
    assert reported(one("dv", 0.2, (-0.01, 0.4))).control_is_zero is True, "too uncertain to differ"
    assert reported(one("dv", 0.2, (0.1, 0.3))).control_is_zero is False
    others = one("jsd", -1.386, (-1.4, -1.38)), one("club", 3.0, (2.0, 4.0)), one("leave_one_out", 1.0)
    assert reported(one("dv", 0.0), *others).control_is_zero is True, "what is no lower bound and no estimate does not count"


def test_a_control_below_zero_is_a_bad_critic_and_no_sign_of_dependence() -> None:
    """The note on dependent rows would send the reader astray."""
    report = reported(one("dv", -0.128, (-0.15, -0.1)), one("demi", -0.02, (-0.03, -0.01)))
    assert report.control_is_zero is True
    assert fit._notes(report) == []
    report = reported(one("dv", -0.128, (-0.15, -0.1)), one("demi", -0.18, (-0.2, -0.16)))
    assert report.control_is_zero is False
    assert fit._notes(report) == ["the shuffled control does not read zero: there are too few rows for a good critic"]


def test_notes() -> None:
    near = "values near log K = 3.93 cannot be certified from so few held-out pairs; more rows would tell"
    rows = "the shuffled control does not read zero: rows may depend on each other; name their groups"
    assert fit._notes(reported(one("dv", 0.0))) == []
    assert fit._notes(reported(one("dv", 0.3))) == [rows]
    assert fit._notes(reported(value=0.79 * np.log(51))) == []
    assert fit._notes(reported(value=0.81 * np.log(51))) == [near]
    assert fit._notes(reported(one("dv", 0.3), value=9.0)) == [near, rows]


def test_the_limit_in_the_note_is_the_ceiling_itself() -> None:
    """e^(log 80) is a little less than 80, and must not be cut to 79."""
    (note,) = fit._notes(reported(value=9.0, k=80))
    assert note.startswith("values near log K = 4.38 "), note


def test_a_report_of_nearly_equal_arrays_says_that_it_is_at_its_limit() -> None:
    x, _ = pairs()
    report = estimate_information(x, x + 1e-3 * pairs(seed=1)[0], settings=settings())
    assert any(note.startswith("values near log K = 5.") for note in report.notes), (report.notes, values(report))
