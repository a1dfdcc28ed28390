"""The same content under two names: equal voxels by their digest, images that look almost the same, equal reports.

Near-duplicates are looked for with the signatures of `integrity_images`, less the mean of the cohort: what is left of two
patients is unrelated, while an image that was saved again keeps what is its own. Signatures that may be alike meet in
buckets of random signs, so that the work grows with the number of images and not with its square.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from comodal.data.cohort import Case
from comodal.data.integrity_defects import Findings, Picture, Place

# Correlation of two signatures, as they are and less the mean of all. Different subjects of the brain phantom reach 0.987 and
# 0.60; an image with 5 % noise, in other units, or in 8 bits stays above 0.998.
ALIKE, ALIKE_IN_DETAIL = 0.995, 0.98
TABLES, MOST_BITS, MOST_TOGETHER, BLOCK = 12, 18, 256, 4096


def check_duplicates(findings: Findings) -> None:
    """Adds what was found twice.

    Args:
        findings: Of all cases.
    """
    _check_equal(findings)
    for column, seen in findings.pictures.items():
        by_length: dict[int, list[tuple[Case, Picture]]] = defaultdict(list)
        for case, picture in seen:
            if picture.signature:
                by_length[len(picture.signature)].append((case, picture))
        for several in by_length.values():
            _check_alike(findings, column, several)
    _check_texts(findings)


def _sides(case: Case, other: Case) -> str:
    """What to say where the two stand on two sides of a split."""
    apart = case.split and other.split and case.split != other.split
    return f" ({other.split}; this one is in {case.split})" if apart else ""


def _check_equal(findings: Findings) -> None:
    """The same voxels under two names."""
    pixels: dict[str, list[tuple[Case, Picture]]] = defaultdict(list)
    order = {case.id: k for k, case in enumerate(findings.cohort.cases)}
    for case, picture in sorted((item for seen in findings.pictures.values() for item in seen), key=lambda i: order[i[0].id]):
        if picture.digest:
            pixels[picture.digest].append((case, picture))
    for (first, original), *others in pixels.values():
        for case, copy in others:
            place = Place(case, copy.column, copy.file)
            rule = f"the pixels equal {original.column} of {first.id}{_sides(case, first)}"
            if case.id == first.id:
                do = "Blank the cell of the copy: it would leak into subsets without it"
                findings.add("warning", f"the pixels equal {original.column}", do, place=place)
            elif case.group == first.group:
                findings.add("warning", rule, "Remove one of the two", place=place)
            else:
                findings.add("error", rule, "Remove one, or give both one group: a split may part them", place=place)


def _check_alike(findings: Findings, column: str, seen: Sequence[tuple[Case, Picture]]) -> None:
    signatures = np.frombuffer(b"".join(picture.signature for _, picture in seen), dtype=np.int8).reshape(len(seen), -1)
    told: set[int] = set()
    for i, j in sorted(near_pairs(signatures)):
        (first, original), (case, copy) = seen[i], seen[j]
        if j in told or first.group == case.group or original.digest == copy.digest:
            continue
        told.add(j)
        rule = f"the image looks almost the same as {column} of {first.id}{_sides(case, first)}"
        do = "Look at both; if they are one patient, give both one group"
        findings.add("warning", rule, do, place=Place(case, column, copy.file))


def near_pairs(signatures: npt.NDArray[np.int8]) -> set[tuple[int, int]]:
    """Pairs of rows that are almost the same.

    Args:
        signatures: (N, D).

    Returns:
        (i, j) with i < j of rows whose correlation is at least `ALIKE`, and `ALIKE_IN_DETAIL` less the mean of all rows. The
        few in a thousand that no bucket holds are not found.
    """
    count, length = signatures.shape
    if count < 3:  # the mean of two is half of each
        return set()
    mean = signatures.mean(axis=0, dtype=np.float64).astype(np.float32)
    bits = max(1, min(MOST_BITS, int(np.log2(count)) - 2))
    planes = np.random.default_rng(0).standard_normal((length, TABLES * bits)).astype(np.float32)
    powers = 1 << np.arange(bits)
    keys = np.empty((count, TABLES), dtype=np.int64)
    for start in range(0, count, BLOCK):
        signs = (signatures[start : start + BLOCK] - mean) @ planes > 0
        keys[start : start + BLOCK] = signs.reshape(-1, TABLES, bits) @ powers
    pairs: set[tuple[int, int]] = set()
    for table in keys.T:
        for rows in _buckets(table):
            pairs |= _alike(signatures, mean, rows)
    return pairs


def _buckets(keys: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.intp]]:
    """Rows with one key; a crowd is cut into pieces."""
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    for rows in np.split(order, ends):
        for start in range(0, len(rows), MOST_TOGETHER):
            if len(rows) - start > 1:
                yield rows[start : start + MOST_TOGETHER]


def _alike(signatures: npt.NDArray[np.int8], mean: npt.NDArray[np.float32], rows: npt.NDArray[np.intp]) -> set[tuple[int, int]]:
    plain = signatures[rows].astype(np.float32)
    close = _correlation(plain - plain.mean(axis=1, keepdims=True)) >= ALIKE
    close &= _correlation(plain - mean) >= ALIKE_IN_DETAIL
    first, second = np.nonzero(np.triu(close, 1))
    return {(int(min(i, j)), int(max(i, j))) for i, j in zip(rows[first], rows[second], strict=True)}


def _correlation(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    product: npt.NDArray[np.float32] = unit @ unit.T
    return product


def _check_texts(findings: Findings) -> None:
    """Equal reports of several patients are said once: a normal finding is often dictated word for word."""
    equal: dict[str, list[str]] = defaultdict(list)
    for several in findings.texts.values():
        if len({case.group for case, _ in several}) > 1:
            for case, column in several:
                equal[column].append(case.id)
    for column, ids in equal.items():
        rule, do = "the report equals that of another patient, word for word,", "Nothing, if it is a standard text"
        findings.repeated["note", column, rule, do] += ids
