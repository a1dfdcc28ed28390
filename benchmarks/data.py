"""Random patches of four sequences from our cache and from what others keep; indexing and checking many small cases.

Patches: a case of the brain phantom with the size of BraTS (240 x 240 x 155 voxels, 4 sequences). Each form hands out the same
64^3 patches of all four sequences as float32, in a process of its own; the processes take turns, and the ratio within a round
is the number to trust. Every form is warmed up: files are in the memory of the system, as far as it keeps them, so what is
measured is the work of reading and unpacking, not the disk.

    ours       our cache in its default form: packed, one file for each sequence
    ours-npy   our cache, mapped .npy files
    nnunet     one (4, X, Y, Z) array in nnU-Net's Blosc2 form: LZ4HC at level 5, blocks of at most 128 KiB and chunks of at
               most 6 MiB and 1.5 patches by its rule, bytes shuffled or not, whichever is smaller; mapped, one thread. It is
               kept open, which its loader does not do
    nnunet-shuffled   the same with the filter that its rule takes for images that were resampled
    monai      MONAI's PersistentDataset: a .pt file of the whole item, loaded for each patch, then cropped
    nibabel    the .nii.gz files, unpacked whole for each patch, then cropped
    nibabel-slices    the same by slicing `dataobj`

Scale: `index` and `check` of BraTS layouts with ever more cases of 8^3 voxels, each size in a process of its own, and the slope
of the logarithm of CPU seconds over the logarithm of cases: 1 is linear.

    python benchmarks/data.py [--rounds 7] [--patches 200] [--cases 250 500 1000 2000] [--small] [--json] [--only patches|scale]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads would be counted as work
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import json
import math
import multiprocessing
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEQUENCES = ("flair", "t1", "t1ce", "t2")
PATCH = 64
WHOLE = ("monai", "nibabel", "nibabel-slices")  # forms that read whole files: fewer patches in a round
FORMS = ("ours", "ours-npy", "nnunet", "nnunet-shuffled", *WHOLE)
Start = tuple[int, int, int]
Reader = Callable[[Start], NDArray[np.float32]]  # (4, 64, 64, 64); ours hands out four arrays and stacks nothing


def nnunet_pieces(shape: Sequence[int], patch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and chunks of float32 by the rule of nnU-Net (nnunetv2, comp_blosc2_params, July 2026).

    A block begins as the next powers of two of the patch and loses half of the axis that covers most of the wanted extent (1.5
    patches) until it has 128 KiB. A chunk grows from it by blocks, along the axis that covers least, up to that extent and to
    6 MiB.
    """
    wanted = [min(size, int(1.5 * patch)) for size in shape[1:]]
    block = [min(1 << (patch - 1).bit_length(), size) for size in shape[1:]]
    while 4 * math.prod(block) > 128 * 1024:
        axis = max((a for a in range(3) if block[a] > 1), key=lambda a: (block[a] / wanted[a], a))
        block[axis] = 1 << ((block[axis] - 1).bit_length() - 1)
    chunk = list(block)
    while True:
        grown = []
        for axis in range(3):
            larger = [*chunk]
            larger[axis] = min(chunk[axis] + block[axis], shape[1 + axis], wanted[axis])
            if larger[axis] > chunk[axis] and 4 * math.prod(larger) <= 6 * 1024**2:
                grown.append((chunk[axis] / wanted[axis], -shape[1 + axis], axis, larger))
        if not grown:
            return (1, *block), (1, *chunk)
        chunk = min(grown)[-1]


def sources(root: Path) -> list[Path]:
    """The four files of the case."""
    return [next(root.glob(f"*/*_{name}.nii.gz")) for name in SEQUENCES]


def prepared(root: Path, cache: Path, form: Any) -> list[Any]:
    """The four arrays of the case from a cache of ours, made where they are not there yet."""
    from comodal.data import index
    from comodal.data.cache import Cache
    from comodal.data.preprocessing import Preparer, PreprocessingConfig

    cohort = index("brats", root)
    preparer = Preparer(cohort, PreprocessingConfig(), modalities=SEQUENCES, cache=Cache(cache, form=form))
    images = preparer.case(cohort.cases[0]).images
    return [images[name] for name in SEQUENCES]


def _window(start: Start) -> tuple[slice, ...]:
    return tuple(slice(first, first + PATCH) for first in start)


def ours(root: Path, folder: Path, form: str) -> Reader:
    from comodal.data.grid import crop_pad

    arrays = prepared(root, folder, "npy" if form == "ours-npy" else "auto")
    return lambda start: [crop_pad(array, start, (PATCH,) * 3)[0] for array in arrays]  # type: ignore[return-value]


def nnunet(root: Path, folder: Path, form: str) -> Reader:
    import blosc2

    file = folder / "case.b2nd"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        whole = np.concatenate([np.asarray(a) for a in prepared(root, folder.parent / "ours", "auto")])
        blocks, chunks = nnunet_pieces(whole.shape, PATCH)
        sizes = {}
        for chosen in [blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE]:  # on the chunk in the middle, as it does
            middle = tuple(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(whole.shape, chunks, strict=True))
            how = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": [chosen], "nthreads": 1}
            slab = np.ascontiguousarray(whole[middle])
            sizes[chosen] = blosc2.asarray(slab, chunks=chunks, blocks=blocks, cparams=how).schunk.cbytes
        chosen = blosc2.Filter.SHUFFLE if form == "nnunet-shuffled" else min(sizes, key=lambda f: sizes[f])
        how = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": [chosen], "nthreads": 1}
        blosc2.asarray(whole, chunks=chunks, blocks=blocks, urlpath=str(file), mode="w", cparams=how)
    blosc2.set_nthreads(1)
    array = blosc2.open(str(file), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    return lambda start: array[(slice(None), *_window(start))]


def monai(root: Path, folder: Path, _form: str) -> Reader:
    import torch
    from monai.data import PersistentDataset
    from monai.transforms import Transform

    class Load(Transform):  # only what is a Transform of its own is kept
        def __call__(self, item: dict[str, str]) -> dict[str, torch.Tensor]:
            arrays = prepared(Path(item["root"]), folder.parent / "ours", "auto")
            return {"image": torch.from_numpy(np.concatenate([np.asarray(a) for a in arrays]))}

    held = PersistentDataset([{"root": str(root)}], Load(), cache_dir=folder)
    if not list(folder.glob("*.pt")):
        assert held[0]["image"].shape[0] == len(SEQUENCES) and list(folder.glob("*.pt"))
    return lambda start: held[0]["image"][(slice(None), *_window(start))].clone().numpy()


def nibabel(root: Path, _folder: Path, form: str) -> Reader:
    import nibabel as nib

    files = sources(root)

    def read(start: Start) -> NDArray[np.float32]:
        found = []
        for file in files:
            image: Any = nib.load(file)
            x, y = image.shape[:2]
            # the files count to the left and to the back
            box = (slice(x - start[0] - PATCH, x - start[0]), slice(y - start[1] - PATCH, y - start[1]), _window(start)[2])
            part = image.dataobj[box] if form == "nibabel-slices" else np.asarray(image.dataobj)[box]
            found.append(np.ascontiguousarray(part[::-1, ::-1], dtype=np.float32))
        return np.stack(found)

    return read


def disagreement(root: Path, folder: Path, form: str, read: Reader) -> str:
    """Empty where a patch is that of the prepared arrays; of the files themselves for nibabel, which normalises nothing."""
    from comodal.data.reading import read_volume

    if form.startswith("nibabel"):
        whole = [read_volume(file).array for file in sources(root)]
    else:
        whole = [np.asarray(array) for array in prepared(root, folder.parent / "ours-npy", "npy")]
    start = (10, 20, 5)
    same = all(np.array_equal(one, other[0][_window(start)]) for one, other in zip(read(start), whole, strict=True))
    return "" if same and len(read(start)) == len(SEQUENCES) else form


def bytes_of(root: Path, folder: Path, form: str) -> int:
    files = sources(root) if form.startswith("nibabel") else [p for p in folder.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(form: str, root: Path, folder: Path, pipe: Connection) -> None:
    """The process of one form: at each list of starts it reads these patches and sends (CPU seconds, seconds) of one."""
    import torch

    torch.set_num_threads(1)
    make = {"ours": ours, "ours-npy": ours, "monai": monai, "nibabel": nibabel, "nibabel-slices": nibabel}.get(form, nnunet)
    make(root, folder, form)  # made on disk
    pipe.send("ready")
    pipe.recv()
    read, before = make(root, folder, form), peak_mib()
    while starts := pipe.recv():
        began, used = time.perf_counter(), time.process_time()
        for start in starts:
            read(start)
        taken = time.process_time() - used, time.perf_counter() - began
        pipe.send((taken[0] / len(starts), taken[1] / len(starts)))
    pipe.send((peak_mib() - before, bytes_of(root, folder, form), disagreement(root, folder, form, read)))


def patches(work: Path, rounds: int, count: int, size: int) -> dict[str, Any]:
    """Rounds of all forms in turn; one row for each."""
    root = work / "brain"
    context = multiprocessing.get_context("spawn")
    _written(context, write_large_case, root, size)
    for form in FORMS:  # written by processes of their own, so that no peak of writing is counted
        _ended(_started(context, form, root, work))
    readers = [_started(context, form, root, work) for form in FORMS]
    for _, pipe in readers:
        pipe.send("open")
    random = np.random.default_rng(0)
    room = [n - PATCH + 1 for n in (size, size, round(size * 155 / 240))]
    times: list[list[tuple[float, float]]] = [[] for _ in FORMS]
    for turn in range(rounds + 1):
        starts = [tuple(int(random.integers(n)) for n in room) for _ in range(count)]
        for place, (form, (_, pipe)) in enumerate(zip(FORMS, readers, strict=True)):
            pipe.send(starts[: max(2, count // 20)] if form in WHOLE else starts)
            taken = pipe.recv()
            if turn > 0:  # the first one warms up
                times[place].append(taken)
    rows = []
    for place, (form, (process, pipe)) in enumerate(zip(FORMS, readers, strict=True)):
        pipe.send([])
        peak, held, disagrees = pipe.recv()
        process.join()
        ratios = [theirs[0] / mine[0] for theirs, mine in zip(times[place], times[0], strict=True)]
        cpu, wall = (statistics.median(taken[k] for taken in times[place]) for k in (0, 1))
        row = {"form": form, "cpu_seconds": cpu, "seconds": wall, "per_second": 1 / wall, "peak_mib": peak, "bytes": held}
        rows.append(
            row | {"ratio": statistics.median(ratios), "ratio_range": (min(ratios), max(ratios)), "disagrees": disagrees}
        )
    best = min((row for row in rows if not row["form"].startswith("ours")), key=lambda row: row["cpu_seconds"])
    return {"rows": rows, "best_of_others": best["form"], "disagree": [row["form"] for row in rows if row["disagrees"]]}


def _started(context: Any, form: str, root: Path, work: Path) -> tuple[Any, Connection]:
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(form, root, work / form, there), daemon=True)
    process.start()
    there.close()  # so that a process that dies ends the wait
    here.recv()
    return process, here


def _written(context: Any, write: Callable[[Path, int], None], root: Path, number: int) -> None:
    """In a process of its own: what a process once held counts in the peak of those that it starts."""
    process = context.Process(target=write, args=(root, number))
    process.start()
    process.join()
    assert process.exitcode == 0


def _ended(started: tuple[Any, Connection]) -> None:
    started[0].terminate()
    started[0].join()


def write_large_case(root: Path, size: int) -> None:
    from comodal.data.phantoms.brain import BrainPhantom, write_brain

    write_brain(root, BrainPhantom(cases=1, size=size))


def write_small_cases(root: Path, cases: int) -> None:
    """BraTS folders of 8^3 voxels, no two with the same ones."""
    from comodal.data.phantoms.brain import brats_affine, nifti_gz

    affine, random = brats_affine(48), np.random.default_rng(0)
    seg = np.zeros((8, 8, 8), dtype=np.uint8)
    seg[2:6, 2:6, 2:6], seg[3:5, 3:5, 3:5], seg[3, 3, 3] = 2, 1, 4
    for k in range(1, cases + 1):
        folder = root / f"BraTS20_Training_{k:03d}"
        folder.mkdir(parents=True)
        for name in (*SEQUENCES, "seg"):
            array = np.roll(seg, k % 3, axis=0) if name == "seg" else random.integers(1, 1000, (8, 8, 8)).astype(np.int16)
            (folder / f"{folder.name}_{name}.nii.gz").write_bytes(nifti_gz(array, affine))


def walk(root: Path, few: Path, pipe: Connection) -> None:
    """Indexes and checks one set: what each takes, and by how much each lets the peak of memory grow."""
    import torch  # noqa: F401 - its size is no part of what grows

    from comodal import api
    from comodal.data.integrity import check_cohort

    check_cohort(api.index("brats", few))  # everything is imported and has allocated once
    row: dict[str, float] = {}
    cohort = None
    for name in ("index", "check"):
        before, began, used = peak_mib(), time.perf_counter(), time.process_time()
        if cohort is None:
            cohort = api.index("brats", root, root.parent / f"{root.name}.csv", overwrite=True)
        else:
            check_cohort(cohort)
        row[f"{name}_cpu_seconds"] = time.process_time() - used
        row[f"{name}_seconds"] = time.perf_counter() - began
        row[f"{name}_peak_mib"] = peak_mib() - before
    pipe.send((len(cohort or ()), row))


def scale(work: Path, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """The medians of some rounds of all sizes in turn, and the exponents."""
    every = work / "cases"
    context = multiprocessing.get_context("spawn")
    _written(context, write_small_cases, every, max(sizes))
    _written(context, write_small_cases, work / "few", 4)
    for size in sizes:
        for folder in sorted(every.iterdir())[:size]:
            (work / f"cases-{size}" / folder.name).mkdir(parents=True)
            for file in folder.iterdir():
                os.link(file, work / f"cases-{size}" / folder.name / file.name)
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            here, there = context.Pipe()
            process = context.Process(target=walk, args=(work / f"cases-{size}", work / "few", there), daemon=True)
            process.start()
            there.close()
            cases, row = here.recv()
            process.join()
            assert cases == size
            found[size].append(row)
    medians = {size: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for size, rows in found.items()}
    slopes = {}
    for name in ("index", "check"):
        seconds = [medians[size][f"{name}_cpu_seconds"] for size in sizes]
        slopes[name] = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else math.nan
    return {"rows": [{"cases": size, **row} for size, row in medians.items()], "exponents": slopes}


def show(found: dict[str, Any]) -> None:
    print(", ".join(f"{key} {value}" for key, value in found["about"].items()))
    if "patches" in found:
        print(
            f"\n{'form':<16}{'CPU ms':>9}{'ms':>9}{'patches/s':>11}{'MB':>8}{'peak MiB':>10}   CPU against ours, in one round"
        )
        for row in found["patches"]["rows"]:
            low, high = row["ratio_range"]
            ratio = "" if row["form"] == "ours" else f"   x {row['ratio']:.2f} ({low:.2f} to {high:.2f})"
            figures = f"{1e3 * row['cpu_seconds']:>9.2f}{1e3 * row['seconds']:>9.2f}{row['per_second']:>11.0f}"
            print(f"{row['form']:<16}{figures}{row['bytes'] / 1e6:>8.1f}{row['peak_mib']:>10.0f}{ratio}")
        print(f"best of the others: {found['patches']['best_of_others']}")
        if found["patches"]["disagree"]:
            print(f"these do not hand out the same patches: {', '.join(found['patches']['disagree'])}")
    if "scale" in found:
        print(f"\n{'cases':>6}" + "".join(f"{name + ' CPU s':>14}{'s':>8}{'peak MiB':>10}" for name in ("index", "check")))
        for row in found["scale"]["rows"]:
            cells = [
                f"{row[f'{n}_cpu_seconds']:>14.2f}{row[f'{n}_seconds']:>8.2f}{row[f'{n}_peak_mib']:>10.1f}"
                for n in ("index", "check")
            ]
            print(f"{row['cases']:>6}{''.join(cells)}")
        print(
            "exponents of CPU time: " + ", ".join(f"{name} {value:.2f}" for name, value in found["scale"]["exponents"].items())
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each candidate")
    parser.add_argument("--patches", type=int, default=200, help="in a turn; a twentieth for forms that read whole files")
    parser.add_argument("--cases", type=int, nargs="+", default=[250, 500, 1000, 2000], help="sizes of the sets")
    parser.add_argument("--only", choices=("patches", "scale"), help="one of the two parts")
    parser.add_argument("--small", action="store_true", help="tiny sizes, whose times mean nothing")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    given = parser.parse_args()
    from importlib.metadata import version

    about = {name: version(name) for name in ("blosc2", "monai", "nibabel", "torch", "numpy")}
    about |= {"python": platform.python_version(), "machine": platform.machine(), "cores": str(os.cpu_count())}
    about |= {"rounds": str(given.rounds), "load": f"{os.getloadavg()[0]:.1f}"}
    found: dict[str, Any] = {"about": about}
    work = Path(tempfile.mkdtemp(prefix="comodal-bench-"))
    try:
        if given.only != "scale":
            found["patches"] = patches(work, given.rounds, given.patches, 120 if given.small else 240)
        if given.only != "patches":
            found["scale"] = scale(work, [4, 8] if given.small else given.cases, 1 if given.small else min(3, given.rounds))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(found, indent=1)) if given.json else show(found)


if __name__ == "__main__":
    main()
