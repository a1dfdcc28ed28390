"""Four methods that are no part of comodal: they prove that the contract carries what is coming.

`ImageText` has two optimisers in one stage and reports that may be missing, `TwoStage` trains a fusion on cached encodings of
frozen encoders, `Ensemble` predicts from some subsets only, and `TwoViews` sees a volume in 3-D beside a picture in 2-D.

Axis letters: B batch, M modalities, C channels, S sentences, L tokens, F features, K classes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from comodal.batch import Batch, Features, Text, cleared
from comodal.errors import ConfigError, message
from comodal.method import Citation, Method, MethodConfig, Monitor, Optimiser, Prediction, Problem, Requirements, Stage
from comodal.modality import Modality, subset_name

PROOF = Citation("The comodal contributors", "A proof of the contract", 2025)


class ProofConfig(MethodConfig):
    """Settings of all."""

    width: int = 8
    epochs: int = 12
    rate: float = 1e-2


def classes_of(problem: Problem) -> int:
    """K of the one target that these methods learn."""
    if len(problem.targets) != 1 or problem.targets[0].kind != "class":
        rule, got = "be one target of kind class", [t.kind for t in problem.targets]
        raise ConfigError(message("data.targets", rule, got, do="Choose one with data.targets"))
    return len(problem.targets[0].classes)


def numbers(batch: Batch, modality: Modality) -> Tensor:
    """An image (B, C, *spatial) or a vector (B, F)."""
    return batch.vector(modality.name) if modality.kind == "features" else batch.image(modality.name)


def picture_encoder(modality: Modality, width: int) -> nn.Sequential:
    """(B, C, X, Y) to (B, D)."""
    return nn.Sequential(
        nn.Conv2d(modality.channels, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def class_loss(logits: Tensor, batch: Batch, problem: Problem) -> Tensor:
    """Mean cross-entropy of labelled rows; zero where there is none."""
    name = problem.targets[0].name
    if name not in batch.targets or not batch.labelled[name].any():
        return logits.sum() * 0.0
    rows = batch.labelled[name]
    return cross_entropy(logits[rows], batch.targets[name][rows])


def mean_over(values: Tensor, have: Tensor) -> Tensor:
    """Mean of (..., N, D) over the N that `have` (..., N), by selection; zero where there is none."""
    total = torch.where(have[..., None], values, 0.0).sum(dim=-2)
    return total / have.sum(dim=-1, keepdim=True).clamp(min=1)


# ------------------------------------------------------------------------------------- an image-and-text classifier
class SentenceMean(nn.Module):
    """The mean word of each sentence, a layer, and the mean sentence of the report."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.layer = nn.Linear(width, width)

    def forward(self, text: Text) -> Tensor:
        words = self.words(text.ids)  # (B, S, L, D)
        sentences = torch.relu(self.layer(mean_over(words, text.attention)))  # (B, S, D)
        return mean_over(sentences, text.attention.any(dim=-1))  # (B, D)


class ImageText(Method):
    """A diagnosis from pictures, reports or both: the mean of what each present modality says."""

    Config: ClassVar[type[MethodConfig]] = ProofConfig
    config: ProofConfig
    paper: ClassVar[Citation] = PROOF

    def __init__(self, problem: Problem, config: ProofConfig) -> None:
        super().__init__(problem, config)
        of_kind = {kind: [m for m in problem.modalities if m.kind == kind] for kind in ("image", "text")}
        self.images = nn.ModuleDict({m.name: picture_encoder(m, config.width) for m in of_kind["image"]})
        self.text = nn.ModuleDict({m.name: SentenceMean(problem.vocabulary, config.width) for m in of_kind["text"]})
        self.head = nn.Linear(config.width, classes_of(problem))

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("classification",), kinds=("image", "text"), spatial_dims=(2,))

    def stages(self) -> tuple[Stage, ...]:
        rate = self.config.rate
        how = {"": Optimiser("adam", rate), "text": Optimiser("adamw", rate, 0.01, "cosine", warmup=0.25)}
        return (Stage("train", optimisers=how, epochs=self.config.epochs, monitor=Monitor("AUROC", "max")),)

    def logits(self, batch: Batch) -> Tensor:
        """(B, K)."""
        found = [
            self.images[name](batch.image(name)) if name in self.images else self.text[name](batch.text(name))
            for name in batch.modalities
        ]
        logits: Tensor = self.head(mean_over(torch.stack(found, dim=1), batch.present))
        return logits

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        return {"ce": class_loss(self.logits(batch), batch, self.problem)}

    def predict(self, batch: Batch) -> Prediction:
        self.require_support(batch.present)
        return Prediction({self.problem.targets[0].name: self.logits(batch).softmax(dim=1)}, batch.present)


# ------------------------------------------------------------------------------------- two stages, the second on encodings
class Pyramid(nn.Module):
    """Two scales of a picture; batch normalisation, so that frozen running statistics are put to the test."""

    def __init__(self, modality: Modality, width: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(modality.channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(), nn.Dropout(0.1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        fine = self.fine(image)  # (B, D, X / 2, Y / 2)
        return fine, self.coarse(fine)  # (B, D, X / 4, Y / 4)


class TwoStage(Method):
    """Encoders learn by themselves, each with a probe; then they are frozen and a fusion learns on their encodings."""

    Config: ClassVar[type[MethodConfig]] = ProofConfig
    config: ProofConfig
    paper: ClassVar[Citation] = PROOF

    def __init__(self, problem: Problem, config: ProofConfig) -> None:
        super().__init__(problem, config)
        classes, width = classes_of(problem), config.width
        vector = {
            m.name: nn.Sequential(nn.Linear(m.channels, width), nn.Tanh()) for m in problem.modalities if m.kind == "features"
        }
        picture = {m.name: Pyramid(m, width) for m in problem.modalities if m.kind == "image"}
        self.encoders = nn.ModuleDict({**vector, **picture})
        self.widths = {name: width if name in vector else 2 * width for name in problem.names}
        self.probes = nn.ModuleDict({name: nn.Linear(self.widths[name], classes) for name in problem.names})
        self.fusion = nn.Sequential(nn.Linear(sum(self.widths.values()), 16), nn.ReLU(), nn.Linear(16, classes))

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("classification",), kinds=("image", "features"), spatial_dims=(2,))

    def stages(self) -> tuple[Stage, ...]:
        how = {"": Optimiser("adam", self.config.rate)}
        return (
            Stage("encoders", train=("encoders", "probes"), optimisers=how, epochs=self.config.epochs),
            Stage(
                "fusion",
                train=("fusion",),
                optimisers=how,
                inputs="encoded",
                augment=False,
                epochs=self.config.epochs,
                monitor=Monitor("loss", "min"),
            ),
        )

    @staticmethod
    def flat(features: Features) -> Tensor:
        """(B, D of all scales)."""
        return torch.cat([f.flatten(2).mean(dim=2) for f in features], dim=1) if isinstance(features, tuple) else features

    def encode(self, batch: Batch) -> dict[str, Features]:
        some = [m for m in self.problem.modalities if batch.is_present(m.name).any()]
        return {m.name: self.encoders[m.name](numbers(batch, m)) for m in some}

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        self.require_support(present)
        return Prediction({self.problem.targets[0].name: self.fused(features, present).softmax(dim=1)}, present)

    def predict(self, batch: Batch) -> Prediction:
        return self.decode(self.encode(batch), batch.present)

    def fused(self, features: Mapping[str, Features], present: Tensor) -> Tensor:
        """(B, K); an absent modality is zeros."""
        parts = []
        for column, name in enumerate(self.problem.names):
            if name in features:
                flat = cleared(self.flat(features[name]), present[:, column])
                assert isinstance(flat, Tensor)
                parts.append(flat)
            else:
                parts.append(torch.zeros((len(present), self.widths[name]), device=present.device))
        logits: Tensor = self.fusion(torch.cat(parts, dim=1))
        return logits

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        if stage.name == "fusion":
            return {"ce": class_loss(self.fused(batch.encodings(), batch.present), batch, self.problem)}
        terms = {}
        for name in batch.modalities:
            rows = batch.rows(batch.is_present(name).nonzero().flatten())  # only these reach the running statistics
            if len(rows):
                logits = self.probes[name](self.flat(self.encoders[name](numbers(rows, self.problem.modality(name)))))
                terms[f"ce/{name}"] = class_loss(logits, rows, self.problem)
        return terms


# ------------------------------------------------------------------------------------- an ensemble for some subsets
class Ensemble(Method):
    """A network for each modality and one for all of them; a row gets the mean probability of those that it can feed."""

    Config: ClassVar[type[MethodConfig]] = ProofConfig
    config: ProofConfig
    paper: ClassVar[Citation] = PROOF

    def __init__(self, problem: Problem, config: ProofConfig) -> None:
        super().__init__(problem, config)
        alone = {name: (name,) for name in problem.names}
        self.members = alone if len(alone) == 1 else {**alone, subset_name(problem.names): problem.names}
        classes = classes_of(problem)
        self.networks = nn.ModuleDict({key: self._network(subset, classes) for key, subset in self.members.items()})

    def _network(self, subset: tuple[str, ...], classes: int) -> nn.ModuleDict:
        width, parts = self.config.width, nn.ModuleDict()
        for name in subset:
            modality = self.problem.modality(name)
            parts[name] = picture_encoder(modality, width) if modality.kind == "image" else nn.Linear(modality.channels, width)
        return nn.ModuleDict({"parts": parts, "head": nn.Linear(width * len(subset), classes)})

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("classification",), kinds=("image", "features"), spatial_dims=(2,))

    def supports(self, subset: object) -> bool:
        wanted = set(subset) if isinstance(subset, tuple | list | set | frozenset) else set()
        return any(wanted == set(members) for members in self.members.values())

    def stages(self) -> tuple[Stage, ...]:
        how = {"": Optimiser("adam", self.config.rate)}
        return (Stage("train", optimisers=how, epochs=self.config.epochs, monitor=Monitor("AUROC", "max")),)

    def outputs(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """{member: (rows that it can read (B,) bool, their logits (rows, K))}."""
        found = {}
        for key, subset in self.members.items():
            can = torch.stack([batch.is_present(name) for name in subset]).all(dim=0)
            rows = batch.rows(can.nonzero().flatten())
            if len(rows):
                network = self.networks[key]
                read = {name: numbers(rows, self.problem.modality(name)) for name in subset}
                parts = [network["parts"][name](value) for name, value in read.items()]  # type: ignore[index]
                found[key] = can, network["head"](torch.cat(parts, dim=1))  # type: ignore[index]
        return found

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        rows = {key: batch.rows(can.nonzero().flatten()) for key, (can, _) in self.outputs(batch).items()}
        return {f"ce/{key}": class_loss(logits, rows[key], self.problem) for key, (_, logits) in self.outputs(batch).items()}

    def predict(self, batch: Batch) -> Prediction:
        self.require_support(batch.present)
        total = torch.zeros((len(batch), classes_of(self.problem)), device=batch.device)
        count = torch.zeros((len(batch), 1), device=batch.device)
        for can, logits in self.outputs(batch).values():
            total[can] += logits.softmax(dim=1)
            count[can] += 1
        return Prediction({self.problem.targets[0].name: total / count}, batch.present)


# ------------------------------------------------------------------------------------- a volume and a picture
class TwoViewsConfig(ProofConfig):
    """Which modalities only train, as the superior ones of guidance do."""

    only_trains: tuple[str, ...] = ()


class TwoViews(Method):
    """A diagnosis from images of different sizes and dimensions: the mean of what each present one says.

    Each cell of a patch has weights of its own, so that an encoder exists for one size only.
    """

    Config: ClassVar[type[MethodConfig]] = TwoViewsConfig
    config: TwoViewsConfig
    paper: ClassVar[Citation] = PROOF

    def __init__(self, problem: Problem, config: TwoViewsConfig) -> None:
        super().__init__(problem, config)
        self.encoders = nn.ModuleDict({name: self._encoder(name) for name in problem.names})
        self.head = nn.Linear(config.width, classes_of(problem))

    def _encoder(self, name: str) -> nn.Sequential:
        """(B, C, *patch) to (B, D), for a patch of exactly the size that the problem states."""
        channels, patch = self.problem.modality(name).channels, self.problem.patch_of(name)
        cells = tuple(side // 4 for side in patch)
        pool = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[self.problem.dims_of(name)](4)
        return nn.Sequential(pool, nn.Flatten(), nn.Linear(channels * math.prod(cells), self.config.width), nn.Tanh())

    @property
    def requires(self) -> Requirements:
        needed = tuple(n for n in self.config.only_trains if n in self.problem.names)
        return Requirements(tasks=("classification",), at_training=needed or None)

    def supports(self, subset: Iterable[str]) -> bool:
        names = set(subset)
        return bool(names - set(self.config.only_trains)) and names <= set(self.problem.names)

    def stages(self) -> tuple[Stage, ...]:
        how = {"": Optimiser("adam", self.config.rate)}
        return (Stage("train", optimisers=how, epochs=self.config.epochs, augment=False),)

    def spoken(self, batch: Batch, used: Tensor) -> Tensor:
        """(B, D): the mean encoding of the modalities in `used` (B, M)."""
        return mean_over(torch.stack([self.encoders[n](batch.image(n)) for n in batch.modalities], dim=1), used)

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        return {"ce": class_loss(self.head(self.spoken(batch, batch.present)), batch, self.problem)}

    def predict(self, batch: Batch) -> Prediction:
        self.require_support(batch.present)
        used = batch.drop(self.config.only_trains).present if self.config.only_trains else batch.present
        embedding = self.spoken(batch, used)
        probabilities = {self.problem.targets[0].name: self.head(embedding).softmax(dim=1)}
        return Prediction(probabilities, used, {"embedding": embedding})
