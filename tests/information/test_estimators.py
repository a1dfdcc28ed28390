from __future__ import annotations

import math

import pytest

from comodal.errors import ConfigError
from comodal.information import bounds
from comodal.information.estimators import ESTIMATORS, Estimate, Estimator, Kind, estimator

KNOWN = "club, demi, dv, info_nce, jsd, leave_one_out, mine, nwj, smile"


@pytest.mark.parametrize(
    ("name", "kind", "function"),
    [
        ("dv", "lower bound", bounds.donsker_varadhan),
        ("mine", "lower bound", bounds.mine),
        ("nwj", "lower bound", bounds.nwj),
        ("info_nce", "lower bound", bounds.info_nce),
        ("smile", "estimate", bounds.smile),
        ("demi", "estimate", bounds.demi),
        ("jsd", "not in nats", bounds.jensen_shannon),
        ("club", "upper bound", bounds.club),
        ("leave_one_out", "upper bound", bounds.leave_one_out),
    ],
)
def test_what_each_number_is(name: str, kind: Kind, function: object) -> None:
    entry = estimator(name)
    assert entry is ESTIMATORS[name] and entry.name == name
    assert entry.kind == kind and entry.function is function
    assert entry.scores == ("log density" if kind == "upper bound" else "critic")


def test_the_table_is_whole_and_its_keys_are_its_names() -> None:
    assert ", ".join(sorted(ESTIMATORS)) == KNOWN
    assert all(entry.name == name for name, entry in ESTIMATORS.items())
    labels = [entry.label for entry in ESTIMATORS.values()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_ceilings(name: str) -> None:
    ceiling = estimator(name).ceiling
    if name == "info_nce":
        assert [ceiling(k) for k in (1, 2, 64, 256)] == pytest.approx([0, math.log(2), 4.1588831, 5.5451774])
    elif name == "jsd":
        assert ceiling(2) == ceiling(64) == 0.0  # 2 JSD - 2 log 2, and JSD is at most log 2
    else:
        assert ceiling(2) is None and ceiling(64) is None


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_direction_of_the_bias_agrees_with_the_kind(name: str) -> None:
    entry = estimator(name)
    first = entry.bias.replace(",", ":").partition(":")[0].partition(" ")[0]
    if entry.kind in ("lower bound", "not in nats"):
        assert first == "down"
    elif entry.kind == "upper bound":
        assert first == "up" and "q(y | x)" in entry.bias
    else:
        assert first in ("up", "either") and "up" in entry.bias
    assert not entry.bias.endswith(".") and not entry.source.endswith("..")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dv", "a small batch reads too high"),
        ("mine", "corrected by a moving average"),
        ("nwj", "e^I"),
        ("info_nce", "near log K"),
        ("smile", "clip"),
        ("demi", "trained with"),
        ("jsd", "does not measure it"),
        ("club", "far where information is high"),
        ("leave_one_out", "less with more candidates"),
    ],
)
def test_what_is_said_of_each(name: str, words: str) -> None:
    assert words in estimator(name).bias


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "nwj",
            (
                "NWJ: lower bound. Down: an imperfect critic reads too low; unbiased for a fixed critic, with a spread that "
                "grows like e^I. Nguyen, Wainwright and Jordan (2010)."
            ),
        ),
        (
            "info_nce",
            (
                "InfoNCE: lower bound; at most log K. Down: an imperfect critic reads too low, and every critic does near "
                "log K. van den Oord et al. (2018)."
            ),
        ),
        (
            "jsd",
            (
                "Jensen-Shannon: not in nats; in [-2 log 2, 0]. Down: an imperfect critic reads too low; 2 JSD - 2 log 2, "
                "which rises with information but does not measure it. Hjelm et al. (2019)."
            ),
        ),
        (
            "smile",
            (
                "SMILE: estimate. Either way: up where scores exceed the clip, down with an imperfect critic. "
                "Song and Ermon (2020)."
            ),
        ),
        (
            "club",
            (
                "CLUB: upper bound. Up, far where information is high; a bound only as far as q(y | x) is right. "
                "Cheng et al. (2020)."
            ),
        ),
    ],
)
def test_an_estimator_in_words(name: str, text: str) -> None:
    assert str(estimator(name)) == text


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_says_name_kind_bias_and_source(name: str) -> None:
    entry, text = estimator(name), str(estimator(name))
    assert text.startswith(f"{entry.label}: {entry.kind}") and text.endswith(f"{entry.source}.")
    assert entry.bias[1:] in text and ".." not in text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("infonce", "Did you mean info_nce? "),
        ("smil", "Did you mean smile? "),
        ("leave-one-out", "Did you mean leave_one_out? "),
        ("DV", ""),
        ("", ""),
        ("mutual information", ""),
    ],
)
def test_unknown_names_list_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        estimator(name)
    assert str(caught.value) == f"bound must be a known estimator; got {name!r}. {hint}Known: {KNOWN}."


def test_entries_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="cannot assign to field 'kind'"):
        estimator("smile").kind = "lower bound"  # type: ignore[misc]  # that is what is tested


def given(name: str, value: float, ci95: tuple[float, float] | None, ceiling: float | None) -> Estimate:
    entry: Estimator = estimator(name)
    return Estimate(name=name, kind=entry.kind, value=value, ci95=ci95, ceiling=ceiling, bias=entry.bias, n=512)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (given("dv", 0.5123, (0.41, 0.6157), None), "Donsker-Varadhan 0.512 [0.410, 0.616] nats (lower bound; n 512)"),
        (given("info_nce", 3.9, None, math.log(64)), "InfoNCE 3.900 nats (lower bound, at most 4.159; n 512)"),
        (given("jsd", -1.2, (-1.3, -1.1), 0.0), "Jensen-Shannon -1.200 [-1.300, -1.100] (not in nats, at most 0.000; n 512)"),
        (given("smile", 2.0, None, None), "SMILE 2.000 nats (estimate; n 512)"),
        (given("club", 4.26324, (4.0, 4.5), None), "CLUB 4.263 [4.000, 4.500] nats (upper bound; n 512)"),
    ],
)
def test_an_estimate_in_words(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text
