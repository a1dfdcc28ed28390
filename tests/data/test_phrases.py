"""`phrases.csv`: points, boxes, several places of one phrase, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from comodal.data.phrases import Phrase, Place, read_phrases
from comodal.errors import ConfigError, DataError


def written(folder: Path, *lines: str) -> Path:
    file = folder / "phrases.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_points_boxes_and_several_places(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "subject,sentence,finding,x,y,x0,y0,x1,y1,reader",
        'p1,"A mass, large.",Mass,0.25,0.5,,,,,a',
        "p2,Two nodules.,Nodule,,,0.1,0.1,0.2,0.3,a",
        "p2,Two nodules.,Nodule,0.9,0.9,0.5,0.5,0.6,0.6,b",
    )
    mass, nodules = read_phrases(file)
    assert mass == Phrase("p1", "A mass, large.", "Mass", (Place((0.25, 0.5), (0.25, 0.5)),))
    assert mass.places[0].is_point and mass.places[0].centre == (0.25, 0.5)
    assert nodules.places == (Place((0.1, 0.1), (0.2, 0.3)), Place((0.5, 0.5), (0.6, 0.6)))
    assert nodules.places[0].centre == pytest.approx((0.15, 0.2))


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["subject,x,y", "p,0,0"], "have the column sentence"),
        (["subject,sentence,x", "p,Mass.,0"], "have the columns x, y or x0, y0, x1, y1"),
        (["subject,sentence,x,y"], "have a row"),
        (["subject,sentence,x,y", "p,,0,0"], "a blank cell in row 2"),
        (["subject,sentence,x,y", "p,Mass.,0.5,0.5", "p,Mass.,120,0.5"], "'120' for x in row 3"),
        (["subject,sentence,x,y", "p,Mass.,0.5,"], "'' for y in row 2"),
        (["subject,sentence,x,y", "p,Mass.,nan,0.5"], "'nan' for x in row 2"),
        (["subject,sentence,x0,y0,x1,y1", "p,Mass.,0.5,0.5,0.4,0.9"], "have x0 below x1 and y0 below y1"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: list[str], text: str) -> None:
    with pytest.raises(DataError) as caught:
        read_phrases(written(tmp_path, *lines))
    assert text in str(caught.value) and "phrases.csv" in str(caught.value)


def test_a_missing_file_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="table must be a readable CSV file"):
        read_phrases(tmp_path / "none.csv")
