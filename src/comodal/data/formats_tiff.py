"""Whether a TIFF file holds everything that it lists.

The decoder counts the pages that it can reach and says nothing of the rest, so a stack that was cut in half would come back
with half of its slices, and a strip or tile that ends early with whatever memory held. Here the list of pages is walked to its
end, there must be as many strips or tiles as the size of a page asks for, each must lie inside the file, and those that are not
packed or packed by deflate or PackBits must hold their pixels (deflate with its checksum, which decoders do not look at).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from comodal.data.geometry import Source

# Bytes per value of each TIFF type, by its code.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
# Tags that are needed, by their numbers.
WIDTH, LENGTH, BITS, PACKING, COLOUR, SAMPLES, ROWS, PLANAR = 256, 257, 258, 259, 262, 277, 278, 284
STRIPS, STRIP_SIZES, TILE_WIDTH, TILE_LENGTH, TILES, TILE_SIZES = 273, 279, 322, 323, 324, 325
_NEEDED = {
    WIDTH, LENGTH, BITS, PACKING, COLOUR, SAMPLES, ROWS, PLANAR,
    STRIPS, STRIP_SIZES, TILE_WIDTH, TILE_LENGTH, TILES, TILE_SIZES,
}  # fmt: skip
_SINGLE = _NEEDED - {BITS, STRIPS, STRIP_SIZES, TILES, TILE_SIZES}  # have one number
PLAIN, PACKBITS, DEFLATE, JPEG, SUBSAMPLED = 1, 32773, (8, 32946), 7, 6
Tags = Mapping[int, tuple[int, ...]]
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

    def damaged(self, what: str) -> Exception:
        """The error for a file whose parts do not fit together."""
        do = "Copy the file again, or save the image again"
        return self.source.error("be an undamaged TIFF", what, do=do)


def count_pages(data: bytes, source: Source) -> int:
    """Number of pages of a TIFF file.

    Args:
        data: The whole file; its first four bytes are those of a TIFF.
        source: For the error text.

    Raises:
        DataError: A page, strip or tile that the file lists lies beyond its end, is missing, or is damaged as far as that can
            be told without decoding it.
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
        if values is None:
            continue
        if tag in tags:  # decoders differ in which of the two they believe
            raise file.damaged(f"the tag {tag} twice on a page")
        tags[tag] = values
    _check_pieces(file, tags)
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
    if tag not in _NEEDED:
        return tag, None
    if not count or kind not in _INTEGERS or (tag in _SINGLE and count > 1):  # a decoder would take a default in its place
        raise file.damaged(f"the tag {tag} without a whole number")
    return tag, file.numbers(where, f"{count}{_INTEGERS[kind]}")


def _one(tags: Tags, tag: int, default: int) -> int:
    """The number of a tag that has one."""
    return (tags.get(tag) or (default,))[0]


def _check_pieces(file: _File, tags: Tags) -> None:
    """Whether all strips or tiles of a page are there and whole."""
    width, length = (_one(tags, tag, 0) for tag in (WIDTH, LENGTH))
    if not width or not length:
        raise file.damaged("a page without a size")
    tiled = any(tag in tags for tag in (TILE_WIDTH, TILE_LENGTH, TILES, TILE_SIZES))
    if tiled:
        wide, high = (_one(tags, tag, 0) for tag in (TILE_WIDTH, TILE_LENGTH))
        offsets, sizes = tags.get(TILES, ()), tags.get(TILE_SIZES, ())
    else:
        wide, high = width, min(_one(tags, ROWS, length), length)
        offsets, sizes = tags.get(STRIPS, ()), tags.get(STRIP_SIZES, ())
    if not wide or not high:
        raise file.damaged("a page whose tiles or strips have no size")
    samples, planes = _one(tags, SAMPLES, 1), 1
    if _one(tags, PLANAR, 1) == 2:
        samples, planes = 1, samples
    across, down = -(-width // wide), -(-length // high)
    row = -(-wide * _one(tags, BITS, 1) * samples // 8)
    if len(offsets) != across * down * planes or (len(sizes) != len(offsets) and (sizes or len(offsets) != 1)):
        raise file.damaged(f"a page of {len(offsets)} pieces where its size asks for {across * down * planes}")
    for number, offset in enumerate(offsets):
        rows = high if tiled else min(high, length - (number % down) * high)
        size = sizes[number] if sizes else rows * row  # one strip may go without its size
        if offset + size > len(file.data):
            raise file.cut()
        if _one(tags, COLOUR, 1) != SUBSAMPLED:
            _check_piece(file, file.data[offset : offset + size], _one(tags, PACKING, 1), least=rows * row, most=high * row)


def _check_piece(file: _File, piece: bytes, packing: int, *, least: int, most: int) -> None:
    """One strip or tile. least, most: bytes that it must and may hold; the last strip is sometimes padded to a whole one."""
    if packing == PLAIN and len(piece) < least:
        raise file.cut()
    if packing in DEFLATE:
        inflate = zlib.decompressobj()
        try:
            held = len(inflate.decompress(piece, most + 1))
        except zlib.error as error:
            raise file.damaged(f"a piece with damaged compression ({error})") from None
        if held > most or held < least or not inflate.eof:
            raise file.damaged(f"a piece of {held} bytes where there should be {least}")
    if packing == PACKBITS and _unpacked(piece) < least:
        raise file.cut()
    if packing == JPEG and not piece.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise file.cut()


def _unpacked(piece: bytes) -> int:
    """Bytes that PackBits makes of these."""
    at = held = 0
    while at < len(piece):
        code = piece[at]
        if code < 128:
            held += min(code + 1, len(piece) - at - 1)
            at += code + 2
        else:
            held += 257 - code if code > 128 and at + 1 < len(piece) else 0
            at += 2 if code > 128 else 1
    return held
