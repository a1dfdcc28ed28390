"""`prepare`: fills the cache before it is needed, by several processes.

Whatever ends it, what is prepared stays: an entry is whole or not there, and the next call goes on with those that are missing.
"""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from comodal.data.cache import Cache
from comodal.data.preprocessing import Preparer
from comodal.data.sampling import foreground_voxels
from comodal.data.stored import WHOLE
from comodal.errors import CacheError, ConfigError, message

Progress = Callable[[int, int], None]

_worker: list[tuple[Preparer, bool]] = []  # of a process of the pool: what it works with


def prepare(
    preparer: Preparer,
    ids: Iterable[str],
    *,
    workers: int = 1,
    foreground: bool = False,
    context: str | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Makes what the cache lacks of some cases, and makes damaged entries again: the sum of each is checked.

    Args:
        preparer: With a cache. Of each case the images and targets of the preparer are prepared, as far as it has them.
        ids: Of the cases.
        workers: Processes, each with one case in memory; 1 or less prepares in this process.
        foreground: Whether the voxels that the sampler "foreground" draws from are listed too.
        context: How processes are started: "fork", "spawn", "forkserver"; None is the default of the system, as in loaders.
        on_progress: Called with (cases done, all cases) after each case.

    Raises:
        ConfigError: The preparer has no cache.
        DataError: A file is damaged.
        CacheError: The disk is full, the folder cannot be written to, or a process was ended.
    """
    if preparer.cache is None:
        raise ConfigError(message("Preparer.cache", "be a folder to prepare into", None, do="Give one"))
    names = list(dict.fromkeys(ids))
    for name in names:
        preparer.cohort.case(name)  # an unknown one is refused before any work
    preparer.cache.sweep()
    thorough = copy.copy(preparer)
    thorough.cache = Cache(preparer.cache.root, form=preparer.cache.form, thorough=True)
    workers = min(workers, len(names))
    if workers <= 1:
        for done, name in enumerate(names, start=1):
            _prepare(thorough, name, foreground=foreground)
            if on_progress is not None:
                on_progress(done, len(names))
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context(context), initializer=_start, initargs=(thorough, foreground)
    )
    try:
        _collect(pool, names, on_progress)
    except BrokenProcessPool:
        do = "Use fewer workers and start again; what is prepared already is not prepared again"
        got = "a process that was ended, perhaps for want of memory"
        text = message("workers", "live until all cases are prepared", got, file=str(preparer.cache.root), do=do)
        raise CacheError(text) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(pool: ProcessPoolExecutor, names: Sequence[str], on_progress: Progress | None) -> None:
    for done, future in enumerate(as_completed([pool.submit(_work, name) for name in names]), start=1):
        WHOLE.update(future.result())  # processes that are forked from this one need not check them again
        if on_progress is not None:
            on_progress(done, len(names))


def _prepare(preparer: Preparer, name: str, *, foreground: bool) -> None:
    case = preparer.cohort.case(name)
    present = preparer.present(case, [m.name for m in preparer.modalities if m.kind == "image"])
    if not present:  # nothing of other kinds is cached
        return
    prepared = preparer.case(case, use=present)
    if foreground:
        foreground_voxels(preparer, prepared)


def _start(preparer: Preparer, foreground: bool) -> None:
    import torch

    torch.set_num_threads(1)  # as loaders do: the processes are the parallelism
    _worker[:] = [(preparer, foreground)]


def _work(name: str) -> frozenset[tuple[int, int, int, int]]:
    (preparer, foreground), before = _worker[0], frozenset(WHOLE)
    _prepare(preparer, name, foreground=foreground)
    return frozenset(WHOLE) - before
