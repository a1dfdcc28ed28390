"""`checked()`: the cases of a cohort, each read to its last byte, here or in several processes.

Cases come back in the order of the table whatever the number of processes, and only a few are under way at a time, so that
neither the result nor the memory depends on how many there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from comodal.data.cohort import Case, Cohort
from comodal.data.integrity_defects import CaseFindings
from comodal.data.integrity_files import check_case
from comodal.errors import ComodalError, ConfigError, message

MOST_WORKERS = 8
WAITING = 4  # cases under way, for each process
# A process takes a second or two to begin; it is started only where so much work is left.
WORTH_SECONDS, TRIAL_SECONDS = 6.0, 1.0
_bare: list[Cohort] = []  # in a process of its own: the cohort without its cases


def checked(cohort: Cohort, workers: int | None) -> Iterator[CaseFindings]:
    """Checks every case.

    Args:
        cohort: As loaded.
        workers: Processes; 0 and 1 work in this one. None takes as many as there are processors, at most `MOST_WORKERS`, as
            soon as the first cases show that it is worth it.

    Yields:
        What was found, in the order of the cases.

    Raises:
        ConfigError: A negative number.
        ComodalError: A process was killed.
    """
    if workers is not None and workers < 0:
        raise ConfigError(message("workers", "be 0 or more", workers, do="Leave it out, or use 1 for no further process"))
    cases, began = iter(cohort.cases), time.monotonic()
    most = min(os.cpu_count() or 1, MOST_WORKERS) if workers is None else workers
    done = 0
    if workers is None and most > 1:
        for case in cases:
            yield check_case(cohort, case)
            done += 1
            spent = time.monotonic() - began
            if spent > TRIAL_SECONDS and spent / done * (len(cohort) - done) > WORTH_SECONDS:
                break
    if most > 1:
        yield from _in_processes(cohort, cases, min(most, len(cohort) - done))
    else:
        yield from (check_case(cohort, case) for case in cases)


def _in_processes(cohort: Cohort, cases: Iterator[Case], workers: int) -> Iterator[CaseFindings]:
    if workers < 1:
        return
    # "spawn", since this process may have threads, of which a fork would copy the locks.
    context, bare = multiprocessing.get_context("spawn"), replace(cohort, cases=(), path=None)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(bare,))
    under_way: deque[Future[CaseFindings]] = deque()
    try:
        for case in cases:
            under_way.append(pool.submit(_check, case))
            if len(under_way) >= WAITING * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool:
        do = "Look for a lack of memory, and use --workers 1, which holds one file at a time"
        raise ComodalError(message("check", "keep its processes to the end", "one that was killed", do=do)) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(bare: Cohort) -> None:
    """In a new process: keeps the columns and the root, and leaves Ctrl-C to the process that was asked to work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bare[:] = [bare]


def _check(case: Case) -> CaseFindings:
    return check_case(replace(_bare[0], cases=(case,)), case)
