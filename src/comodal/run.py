"""`Run`: a folder that holds all that a trained method is. `Run.load(path)` needs nothing else and executes no code from it.

| in the folder | is |
| --- | --- |
| `config.yaml` | the configuration, resolved whole |
| `cohort.csv`, `cohort.yaml` | the cohort as it was, with an absolute root |
| `splits.json` | which case was used for what |
| `preprocessing.json`, `tokenizer/` | what was fitted on training cases |
| `weights.safetensors` | the weights |
| `resume/` | checkpoints for `--resume` |
| `metrics.jsonl` | what happened in training |
| `results/<split>.json`, `examples/<split>/` | what it can do |
| `environment.json` | where it ran, with which versions, and what was said |
| `cache/`, `cache-*/` | prepared images, only while a command runs that needs them; none where `data.cache` names a folder |

Of images a finished run holds the few slices of `examples/` alone, so that it can be sent to somebody.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from comodal.config import RunConfig, apply_overrides, build_method, build_problem, read_yaml, validated
from comodal.data.atomic import replacing
from comodal.data.cache import Cache
from comodal.data.cohort import Cohort
from comodal.data.matching import matched
from comodal.data.preprocessing import Fitted, Preparer
from comodal.data.splits import HASH, splits_hash
from comodal.data.text import AnyTokenizer, load_tokenizer
from comodal.errors import ConfigError, RunError, message, short
from comodal.evaluation.results import Results
from comodal.method import Method, Problem

PACKAGES = ("torch", "monai", "lightning-fabric", "numpy", "scipy", "nibabel", "pillow", "pandas")
MAX_JSON_BYTES = 200_000_000
# Stands in a run folder from the first moment until config.yaml is there, so that a creation that was killed can be taken up.
CREATING = ".run.partial"


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes a state dict as safetensors, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    with replacing(path) as file:
        file.write(save(plain))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads safetensors; a damaged or hostile file is a RunError, and nothing in it can run."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError) as error:
        do = "Copy the run again, or train it again"
        got = str(error)[:120]
        raise RunError(message("weights", "be an intact safetensors file", got, file=str(path), do=do)) from None


def read_json(path: Path, what: str) -> Any:
    """Plain values of a JSON file.

    Raises:
        RunError: It is missing, too large or not JSON.
    """
    do = "Copy the run folder again, whole"
    if not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:
        got = "no file" if not path.is_file() else f"{path.stat().st_size} bytes"
        raise RunError(message(what, f"be a file of the run of at most {MAX_JSON_BYTES} bytes", got, file=str(path), do=do))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(message(what, "be plain JSON", str(error)[:80] or type(error).__name__, file=str(path), do=do)) from None


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def write_json(path: Path, values: Any) -> None:
    """Writes plain values as JSON, whole or not at all."""
    with replacing(path) as file:
        file.write((json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())


def check_folder(path: Path) -> None:
    """Refuses to make a run where something else lies: a run has file names that a user's folder may have as well.

    Args:
        path: A new or empty folder, a run, or one whose creation was killed.

    Raises:
        ConfigError: It is a file, or holds what is no run.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(message("--out", "be a folder", "a file", file=str(path), do="Choose another name"))
    names = sorted(os.listdir(path)) if path.is_dir() else []
    if names and CREATING not in names and not {"config.yaml", "splits.json"} <= set(names):
        got = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        rule, do = "be a new folder, an empty one or a run", "Choose another folder"
        raise ConfigError(message("--out", rule, f"one that holds {got}", file=str(path), do=do))


def environment() -> dict[str, Any]:
    """Versions and hardware, without names of people or machines."""
    found = {}
    for package in ("comodal", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "packages": found,
    }


@dataclass(frozen=True)
class Run:
    """A run folder, read back. Build it with `Run.create` or `Run.load`.

    Attributes:
        path: The folder.
        config: Resolved configuration.
        cohort: The run's own copy of the cohort.
        splits: {"train" | "val" | "test": case ids}.
        fitted: What preprocessing learned from training cases.
        tokenizer: Where a modality is text.
        changed: {key of the method: its value}, where `at_test` has set it otherwise than in the training.
    """

    path: Path
    config: RunConfig
    cohort: Cohort
    splits: Mapping[str, list[str]]
    fitted: Fitted
    tokenizer: AnyTokenizer | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def create(
        path: Path,
        config: RunConfig,
        cohort: Cohort,
        *,
        splits: Mapping[str, list[str]],
        fitted: Fitted,
        tokenizer: AnyTokenizer | None,
    ) -> Run:
        """Writes everything that is known before the first step. `config.cohort` becomes the run's own copy.

        Raises:
            ConfigError: The folder holds what is no run.
        """
        check_folder(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / CREATING).touch()
        own = config.model_copy(update={"cohort": "cohort.csv"})
        cohort.save(path / "cohort.csv")
        write_json(path / "splits.json", {**splits, HASH: splits_hash(splits)})
        write_json(path / "preprocessing.json", fitted.model_dump(mode="json"))
        if tokenizer is not None:
            tokenizer.save(path / "tokenizer")
        write_json(path / "environment.json", environment())
        with replacing(path / "config.yaml") as file:  # last: its presence says that the folder is complete
            file.write(own.to_yaml().encode())
        for left in path.glob(".*.partial"):  # the mark, and what a killed creation left
            left.unlink(missing_ok=True)
        return Run.load(path)

    @staticmethod
    def load(path: Path | str) -> Run:
        """Reads a run folder. Only plain data is read, and only names of METHODS are imported.

        Raises:
            RunError: The folder is not a run, or a file in it is damaged.
            ConfigError: Its configuration is not valid.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            do = "Give the folder that comodal train wrote"
            raise RunError(message("RUN", "be a run folder with a config.yaml", repr(str(path)), do=do))
        config = validated(RunConfig, read_yaml(path / "config.yaml", "config"), "config").resolved(look=False)
        splits = read_json(path / "splits.json", "splits.json")
        stored = splits.pop(HASH, None) if isinstance(splits, dict) else None  # runs of earlier versions have none
        do = "Copy the run folder again, whole"
        if not isinstance(splits, dict) or not all(_is_ids(ids) for ids in splits.values()):
            raise RunError(message("splits.json", "map split names to lists of case ids", short(splits), file=str(path), do=do))
        if stored is not None and stored != splits_hash(splits):
            rule = f"hold the division of its {HASH}"
            raise RunError(message("splits.json", rule, "cases that were changed afterwards", file=str(path), do=do))
        try:
            fitted = validated(Fitted, read_json(path / "preprocessing.json", "preprocessing.json"), "preprocessing.json")
        except ConfigError as error:
            raise RunError(str(error)) from None
        tokenizer = load_tokenizer(path / "tokenizer") if (path / "tokenizer").is_dir() else None
        return Run(path, config, Cohort.load(path / "cohort.csv"), splits, fitted, tokenizer)

    @cached_property
    def problem(self) -> Problem:
        """What the method was built for."""
        train = self.splits.get("train", [])
        if self.tokenizer is None:
            return build_problem(self.config, self.cohort, train=train)
        return build_problem(self.config, self.cohort, self.tokenizer.vocabulary, words=self.tokenizer.words, train=train)

    @property
    def label(self) -> str:
        """How tables call this run's method."""
        return self.config.method_name

    def method(self, device: str | torch.device = "cpu") -> Method:
        """The trained method in eval mode.

        Raises:
            RunError: The run has no weights yet, or they do not fit its configuration.
        """
        method = build_method(self.config, self.problem)
        file = self.path / "weights.safetensors"
        if not file.is_file():
            do = "Finish the training with comodal train --resume"
            raise RunError(message("RUN", "have been trained to its end", "no weights.safetensors", file=str(self.path), do=do))
        weights = read_weights(file)
        wanted = {name: tuple(tensor.shape) for name, tensor in method.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if wanted != found:
            odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))[0]
            do = "Take weights and config.yaml from the same run"
            got = f"{odd}: {found.get(odd, 'missing')} instead of {wanted.get(odd, 'nothing')}"
            raise RunError(message("weights", "fit the configuration", got, file=str(file), do=do))
        method.load_state_dict(weights)
        return method.to(device).eval()

    def at_test(self, overrides: Sequence[str]) -> Run:
        """The same run, with the same weights, under other settings of its method; nothing in the folder changes.

        Args:
            overrides: "method.samples=20", of keys that no weight depends on (`MethodConfig.at_test`).

        Raises:
            ConfigError: Another key, or a value that the method does not take.
        """
        free = sorted(f"method.{name}" for name in self.config.method_class().Config.at_test)
        for item in overrides:
            key = item.partition("=")[0]
            if key not in free:
                meant = f"method.{key}" if f"method.{key}" in free else next(iter(free), "")
                rule = f"name what {self.label} lets change once it is trained ({', '.join(free) or 'nothing'})"
                do = f"For instance --set {meant}=..." if free else "Train it with the other value"
                raise ConfigError(message("--set", rule, repr(item), do=do))
        values = apply_overrides({"method": dict(self.config.method)}, overrides)
        now = self.config.model_copy(update=values).resolved()
        trained = Run.load(self.path).config.method if self.changed else self.config.method
        changed = {key: value for key, value in now.method.items() if value != trained.get(key)}
        return replace(self, config=now, changed=changed)

    def preparer(self, cohort: Cohort | None = None, *, cache: Path | None = None, targets: bool = True) -> Preparer:
        """Prepares cases of the run's cohort (or of another one) as in training.

        Args:
            cohort: Another cohort with modalities of the run; see `comodal.data.matching`.
            cache: Where prepared arrays are kept; None keeps none.
            targets: Whether targets will be read; where not, another cohort's need not fit.

        Raises:
            DataError: The other cohort's columns do not fit those of the run.
        """
        problem = self.problem
        answers, regions = [t.name for t in problem.targets] if targets else [], self.config.data.regions
        if cohort is not None and cohort is not self.cohort:
            cohort = matched(cohort, self.cohort.meta, modalities=problem.names, targets=answers, regions=regions)
        return Preparer(
            cohort if cohort is not None else self.cohort,
            self.config.data.preprocessing(),
            modalities=problem.names,
            targets=answers,
            regions=regions,
            fitted=self.fitted,
            cache=None if cache is None else Cache(cache, form=self.config.data.cache_form),
            spatial_dims=problem.spatial_dims,
            tokenizer=self.tokenizer,
        )

    @property
    def cache(self) -> Path:
        """Where training keeps prepared arrays: `data.cache`, or a folder of the run that is removed at the end."""
        return Path(self.config.data.cache) if self.config.data.cache else self.path / "cache"

    def drop_cache(self) -> None:
        """Removes the run's own prepared images; a folder that `data.cache` names is left alone."""
        if (self.path / "cache").is_symlink():
            (self.path / "cache").unlink()
        shutil.rmtree(self.path / "cache", ignore_errors=True)

    @contextmanager
    def cache_for(self, told: Path | None = None) -> Iterator[Path]:
        """A folder for prepared arrays when the run is used.

        The run's own `data.cache` does not count here: a run may come from somebody else, or from another machine.

        Args:
            told: A folder that this process was told to use.

        Yields:
            `told`, or a new folder inside the run that is deleted at the end.
        """
        if told is not None:
            yield told
            return
        with tempfile.TemporaryDirectory(prefix="cache-", dir=self.path, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def results(self, split: str = "test") -> Results | None:
        """What an evaluation wrote, None where there was none."""
        file = self.path / "results" / f"{split}.json"
        return Results.load(file) if file.is_file() else None
