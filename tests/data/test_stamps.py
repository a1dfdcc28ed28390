"""What tells one version of a file from another: by its stamp, and by its content."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from comodal.data import stamps
from comodal.data.stamps import Stamps, stamp


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old enough to be trusted the moment they are written."""
    monkeypatch.setattr(stamps, "SETTLED", -(10**12))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes were read."""
    found: list[str] = []
    original = stamps._hash

    def counted(path: Path, seen: stamps._Seen) -> str:
        found.append(path.name)
        return original(path, seen)

    monkeypatch.setattr(stamps, "_hash", counted)
    return found


def restored(path: Path, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def wait_for_the_clock(path: Path) -> None:
    """Until a change gives a file another time; a file system counts in ticks of some milliseconds."""
    probe = path.with_name("probe")
    probe.touch()
    first = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == first:
        time.sleep(0.002)
        probe.touch()
    probe.unlink()


def test_stamp_tells_versions_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.nii"
    file.write_bytes(b"123")
    first = stamp(file)
    assert stamp(file) == first
    os.utime(file, ns=(1, 1))
    assert stamp(file) != first  # time
    file.write_bytes(b"1234")
    assert stamp(file) != first  # size
    with pytest.raises(FileNotFoundError):
        stamp(tmp_path / "none")


def test_stamp_sees_a_change_whose_size_and_time_were_restored(tmp_path: Path) -> None:
    file = tmp_path / "a.nii"
    file.write_bytes(b"123")
    status, first = file.stat(), stamp(file)
    wait_for_the_clock(file)
    file.write_bytes(b"321")
    restored(file, status)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert stamp(file) != first


def test_stamp_of_a_folder_sees_each_slice_that_is_meant(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"x")
    first, of_two = stamp(tmp_path), stamp(tmp_path, "2.*")
    (tmp_path / "2.png").write_bytes(b"xy")
    second = stamp(tmp_path)
    assert stamp(tmp_path, "2.*") != of_two
    of_two = stamp(tmp_path, "2.*")
    (tmp_path / "3.png").write_bytes(b"x")
    assert len({first, second, stamp(tmp_path)}) == 3 and stamp(tmp_path, "2.*") == of_two
    (tmp_path / ".hidden").write_bytes(b"x")
    third = stamp(tmp_path)
    (tmp_path / ".hidden").write_bytes(b"xyz")
    assert stamp(tmp_path) == third


@pytest.mark.usefixtures("settled")
def test_content_is_read_once_for_each_stamp(tmp_path: Path, hashed: list[str]) -> None:
    file, index = tmp_path / "a.nii", tmp_path / "stamps"
    file.write_bytes(b"123")
    known = Stamps(index)
    first = known.content(file)
    assert [known.content(file), Stamps(index).content(file)] == [first] * 2 and hashed == ["a.nii"]
    os.utime(file, ns=(1, 1))
    assert known.content(file) == first and len(hashed) == 2  # looked at again, and the same
    moved = Path(shutil.copy(file, tmp_path / "patient.nii"))
    assert known.content(moved) == first
    assert not [p for p in index.rglob("*") if "patient" in p.name or (p.is_file() and b"patient" in p.read_bytes())]


@pytest.mark.usefixtures("settled")
def test_content_of_a_file_replaced_with_its_size_and_time(tmp_path: Path) -> None:
    file, known = tmp_path / "a.nii", Stamps(tmp_path / "stamps")
    file.write_bytes(b"123")
    status, first = file.stat(), known.content(file)
    wait_for_the_clock(file)
    file.write_bytes(b"321")
    restored(file, status)
    second = known.content(file)
    assert second != first
    other = tmp_path / "other"
    other.write_bytes(b"123")
    restored(other, status)
    os.replace(other, file)
    assert known.content(file) == first == Stamps(tmp_path / "none").content(file)


def test_what_has_just_changed_is_not_trusted(tmp_path: Path, hashed: list[str]) -> None:
    """Two changes within one tick of the clock have one stamp."""
    file, known = tmp_path / "a.nii", Stamps(tmp_path / "stamps")
    file.write_bytes(b"123")
    status = file.stat()
    contents = set()
    for text in (b"123", b"321", b"213"):
        file.write_bytes(text)
        restored(file, status)
        contents.add(known.content(file))
    assert len(contents) == 3 == len(hashed) and not (tmp_path / "stamps").exists()


@pytest.mark.usefixtures("settled")
def test_content_of_a_folder_and_of_a_header_with_its_voxels(tmp_path: Path) -> None:
    known, folder = Stamps(tmp_path / "stamps"), tmp_path / "slices"
    folder.mkdir()
    for name in ("1.png", "2.png", "1_mask.png"):
        (folder / name).write_bytes(name.encode())
    every, masks = known.content(folder), known.content(folder, "*_mask.png")
    (folder / "2.png").write_bytes(b"2.pnG")
    assert known.content(folder) != every and known.content(folder, "*_mask.png") == masks
    (folder / "2.png").write_bytes(b"2.png")
    (folder / "2.png").rename(folder / "0.png")  # another order of slices
    assert known.content(folder) != every

    header, voxels = tmp_path / "a.mhd", tmp_path / "a.raw"
    header.write_text("NDims = 3\nElementDataFile = a.raw\n")
    voxels.write_bytes(b"123")
    first = known.content(header)
    voxels.write_bytes(b"321")
    assert known.content(header) != first
    (tmp_path / "a.nii").write_text(header.read_text())
    assert known.content(tmp_path / "a.nii") not in (first, known.content(header))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"stamp": 1, "content": 2}', b'{"stamp": "", "content": "../x"}', b"\xff" * 9]
)
def test_a_damaged_index_is_made_again(tmp_path: Path, damage: bytes) -> None:
    file, index = tmp_path / "a.nii", tmp_path / "stamps"
    file.write_bytes(b"123")
    first = Stamps(index).content(file)
    (entry,) = (p for p in index.rglob("*") if p.is_file())
    whole = entry.read_bytes()
    entry.write_bytes(damage)
    assert Stamps(index).content(file) == first and entry.read_bytes() == whole


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert Stamps(tmp_path / "stamps").content(tmp_path / "pipe") == "no regular file"
    with pytest.raises(FileNotFoundError):
        Stamps(tmp_path / "stamps").content(tmp_path / "none")


def test_an_index_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "SETTLED", -(10**12))
    file = tmp_path / "a.nii"
    file.write_bytes(b"123")
    (tmp_path / "stamps").write_bytes(b"a file")
    assert len(Stamps(tmp_path / "stamps").content(file)) == 40
