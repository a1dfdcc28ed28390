"""`prepare`: the cache is filled by several processes, and whatever ends it, the next call goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from comodal.batch import Sample
from comodal.data import index
from comodal.data.cache import Cache
from comodal.data.normalisation import PreprocessingConfig
from comodal.data.phantoms.brain import BrainPhantom, write_brain
from comodal.data.preparing import prepare
from comodal.data.preprocessing import Preparer
from comodal.data.sampling import Draws
from comodal.data.stored import WHOLE, Form
from comodal.errors import CacheError, ConfigError, DataError

CASES = 6


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brains")
    write_brain(root, BrainPhantom(cases=CASES, missing="random"))
    return root


def preparer_of(root: Path, cache: Path | None, form: Form = "auto") -> Preparer:
    cohort = index("brats", root)
    names = [m.name for m in cohort.modalities]
    kept = None if cache is None else Cache(cache, form=form)
    return Preparer(cohort, PreprocessingConfig(), modalities=names, targets=["seg"], cache=kept)


def entries(cache: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in cache.glob("??/*") if p.is_file()}


def expected(preparer: Preparer) -> int:
    """Images, a mask and its list of foreground voxels."""
    return sum(len(preparer.present(case)) + 2 for case in preparer.cohort.cases)


@pytest.mark.parametrize("form", ["npy", "blosc2"])
def test_processes_make_what_one_process_makes(brains: Path, tmp_path: Path, form: Form) -> None:
    found = []
    for name, workers in (("one", 1), ("two", 2)):
        found.append(filled(brains, tmp_path / name, form=form, workers=workers))
    assert found[0] == found[1] and len(found[0]) == expected(preparer_of(brains, None))


@pytest.mark.slow
def test_started_processes_make_what_forked_ones_make(brains: Path, tmp_path: Path) -> None:
    found = [filled(brains, tmp_path / name, form="auto", workers=2, context=name) for name in ("fork", "spawn")]
    assert found[0] == found[1]


def filled(root: Path, cache: Path, *, form: Form, workers: int, context: str | None = None) -> dict[str, bytes]:
    preparer, seen = preparer_of(root, cache, form), list[tuple[int, int]]()
    ids = preparer.cohort.ids

    def said(done: int, total: int) -> None:
        seen.append((done, total))

    prepare(preparer, ids, workers=workers, foreground=True, context=context, on_progress=said)
    assert seen == [(k, CASES) for k in range(1, CASES + 1)]
    return entries(cache)


def test_draws_find_everything_prepared(brains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = preparer_of(brains, None)
    plain = list(_draws(bare))
    for form in ("npy", "blosc2"):
        with monkeypatch.context() as patch:
            preparer = preparer_of(brains, tmp_path / form, "npy" if form == "npy" else "blosc2")
            WHOLE.clear()
            prepare(preparer, preparer.cohort.ids, workers=2, foreground=True)
            if form == "blosc2":  # this process, and so its loaders, need not check the packed files again
                assert len(WHOLE) == sum(name.endswith(".b2nd") for name in entries(tmp_path / form))
            patch.delattr("comodal.data.preprocessing.read_volume")
            patch.setattr("comodal.data.sampling._list_voxels", _refused)
            for one, other in zip(_draws(preparer), plain, strict=True):
                assert one.id == other.id and one.inputs.keys() == other.inputs.keys()
                for name, value in one.inputs.items():
                    assert np.asarray(value).tobytes() == np.asarray(other.inputs[name]).tobytes()
                assert one.targets["seg"].equal(other.targets["seg"])


def _draws(preparer: Preparer) -> Iterator[Sample]:
    draws = Draws(preparer, preparer.cohort.ids, (16, 16, 16), sampler="foreground", draws_per_case=2, seed=3)
    return (draws[k] for k in range(len(draws)))


def _refused(*given: object) -> NoReturn:
    raise AssertionError("made again")


def test_only_what_is_missing_or_damaged_is_made_again(brains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preparer = preparer_of(brains, tmp_path)
    prepare(preparer, preparer.cohort.ids)
    whole = entries(tmp_path)
    spoiled, removed = sorted(tmp_path.glob("??/*.npy"))[:2]
    data = bytearray(spoiled.read_bytes())
    data[len(data) // 2] ^= 1
    spoiled.write_bytes(data)
    removed.unlink()
    made: list[Path] = []
    monkeypatch.setattr("comodal.data.cache.write", _counting(made))
    prepare(preparer, preparer.cohort.ids)
    assert sorted(made) == [spoiled, removed] and entries(tmp_path) == whole


def _counting(made: list[Path]) -> Callable[..., None]:
    from comodal.data.stored import write

    def counted(path: Path, *arrays: object, **words: object) -> None:
        made.append(path)
        write(path, *arrays, **words)  # type: ignore[arg-type]

    return counted


def test_a_killed_call_goes_on(brains: Path, tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from tests.data.test_prepare import preparer_of
from comodal.data.preparing import prepare
preparer = preparer_of(Path({str(brains)!r}), Path({str(tmp_path)!r}))
prepare(preparer, preparer.cohort.ids, foreground=True, on_progress=lambda done, total: time.sleep(0.2))
"""
    here = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=here, env={**os.environ, "PYTHONPATH": str(here)})
    limit = time.monotonic() + 60
    while len(entries(tmp_path)) < 7 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    preparer = preparer_of(brains, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("??/*.npy")}
    assert 0 < len(before) < expected(preparer)  # entries() counts stamps too
    prepare(preparer, preparer.cohort.ids, foreground=True)
    assert all(p.stat().st_mtime_ns == changed for p, changed in before.items())
    assert len([name for name in entries(tmp_path) if name.endswith(".npy")]) == expected(preparer)


def test_a_worker_that_dies_is_one_error(brains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preparer = preparer_of(brains, tmp_path)
    monkeypatch.setattr("comodal.data.preparing._prepare", lambda *given, **words: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(CacheError, match=r"workers must live until all cases are prepared; got .*Use fewer workers"):
        prepare(preparer, preparer.cohort.ids, workers=2, context="fork")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_error_and_keeps_the_rest(
    brains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    preparer = preparer_of(brains, tmp_path)
    first, *others = preparer.cohort.ids
    prepare(preparer, [first])
    kept = entries(tmp_path)

    def full(*given: object, **words: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("comodal.data.cache.write", full)
        with pytest.raises(CacheError, match=r"data\.cache must have room"):
            prepare(preparer, others, workers=workers, context="fork")
        prepare(preparer, [first])
    assert entries(tmp_path) == kept
    prepare(preparer, others)


def test_what_cannot_be_prepared(brains: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Preparer.cache must be a folder to prepare into"):
        prepare(preparer_of(brains, None), [])
    preparer = preparer_of(brains, tmp_path / "cache")
    with pytest.raises(DataError, match="subject must be one of the cohort"):
        prepare(preparer, [preparer.cohort.ids[0], "nobody"])
    assert not (tmp_path / "cache").exists()
    prepare(preparer, [], workers=4)
