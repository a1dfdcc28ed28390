"""Whether a TIFF file holds everything that it lists.

The decoder counts the pages that it can reach and says nothing of the rest, so a stack that was cut in half would come back
with half of its slices. Here the list of pages is walked to its end, and every strip and tile must lie inside the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from comodal.data.geometry import Source

# Bytes per value of each TIFF type, by its code.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
# Tags of the places of the pixels: (offsets, sizes) of strips and of tiles.
_PLACES = ((273, 279), (324, 325))
MAX_PAGES = 100_000


@dataclass(frozen=True)
class _File:
    """The bytes, and how numbers are written in them."""

    data: bytes
    order: str
    big: bool
    source: Source

    def numbers(self, at: int, form: str) -> tuple[int, ...]:
        """Numbers at an offset; refused where the file ends before."""
        form = self.order + form
        if at < 0 or at + struct.calcsize(form) > len(self.data):
            raise self.cut()
        return struct.unpack_from(form, self.data, at)

    def cut(self) -> Exception:
        """The error for a file that does not hold what it lists."""
        do = "Copy or download the file again"
        return self.source.error("be a complete PNG, JPEG or TIFF", "a TIFF that ends early", do=do)


def count_pages(data: bytes, source: Source) -> int:
    """Number of pages of a TIFF file.

    Args:
        data: The whole file; its first four bytes are those of a TIFF.
        source: For the error text.

    Raises:
        DataError: A page, strip or tile that the file lists lies beyond its end.
    """
    order = "<" if data.startswith(b"II") else ">"
    file = _File(data, order, data[2:4] in (b"+\0", b"\0+"), source)
    (at,) = file.numbers(8, "Q") if file.big else file.numbers(4, "I")
    pages: set[int] = set()
    while at:
        if at in pages or len(pages) >= MAX_PAGES:
            raise source.error("have pages that end", "a list of pages that runs in a circle", do="Save the image again")
        pages.add(at)
        at = _check_page(file, at)
    if not pages:
        raise file.cut()
    return len(pages)


def _check_page(file: _File, at: int) -> int:
    """Checks one page; returns the offset of the next, 0 after the last."""
    (count,) = file.numbers(at, "Q" if file.big else "H")
    start, width = (at + 8, 20) if file.big else (at + 2, 12)
    if start + count * width > len(file.data):
        raise file.cut()
    tags = {}
    for entry in range(start, start + count * width, width):
        tag, values = _entry(file, entry)
        if values is not None:
            tags[tag] = values
    for offsets, sizes in _PLACES:
        for offset, size in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False):
            if offset + size > len(file.data):
                raise file.cut()
    (following,) = file.numbers(start + count * width, "Q" if file.big else "I")
    return following


def _entry(file: _File, at: int) -> tuple[int, tuple[int, ...] | None]:
    """(tag, its numbers) of one entry; None for numbers that are not needed."""
    tag, kind, count = file.numbers(at, "HHQ" if file.big else "HHI")
    inline = 8 if file.big else 4
    where, size = at + 4 + inline, _SIZES.get(kind, 1) * count
    if size > inline:
        (where,) = file.numbers(where, "Q" if file.big else "I")
    if where + size > len(file.data):
        raise file.cut()
    if tag not in (273, 279, 324, 325) or kind not in _INTEGERS:
        return tag, None
    return tag, file.numbers(where, f"{count}{_INTEGERS[kind]}")
