from __future__ import annotations

import pytest

from comodal.cli.options import assignments, known_name, names, numbers
from comodal.errors import ConfigError


@pytest.mark.parametrize("item", ["flair", "=a.nii", "flair=", " =a.nii"])
def test_an_input_without_name_or_file_is_refused(item: str) -> None:
    with pytest.raises(ConfigError, match=r"^--input must be NAME=VALUE; got .*\. Type --input flair=a\.nii\.gz\.$"):
        assignments([item], option="--input", example="flair=a.nii.gz")


def test_inputs_keep_their_order_and_may_not_come_twice() -> None:
    found = assignments(["t1=b", "flair=a"], option="--input", example="flair=a.nii.gz")
    assert list(found.items()) == [("t1", "b"), ("flair", "a")]
    with pytest.raises(ConfigError, match="--input must give each name once; got t1 twice"):
        assignments(["t1=b", "t1=c"], option="--input", example="flair=a.nii.gz")


@pytest.mark.parametrize("text", ["", " , ", "t1,t1"])
def test_use_needs_distinct_names(text: str) -> None:
    with pytest.raises(ConfigError, match="--use must be distinct names separated by commas"):
        names(text, option="--use")


def test_use_left_out_is_none() -> None:
    assert names(None, option="--use") is None


def test_a_rate_must_be_a_number() -> None:
    with pytest.raises(ConfigError, match=r"^--rate t1 must be a number; got 'much'\. Type --rate t1=0\.3\.$"):
        numbers(["t1=much"], option="--rate", example="t1=0.3")


def test_an_unknown_name_lists_the_nearest() -> None:
    text = r"^METHOD must be a known method; got 'unett'\. Did you mean unet\? Known: hemis, unet\.$"
    with pytest.raises(ConfigError, match=text):
        known_name("unett", ["unet", "hemis"], owner="METHOD", kind="method")
