"""Methods that break one promise each, for the test that `check_method` finds out. `Sound` keeps them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from comodal.batch import Batch, Features, cleared
from comodal.method import Citation, Method, MethodConfig, Optimiser, Prediction, Problem, Requirements, Stage
from comodal.modality import Modality, Target

NAMES = ("t1", "t2")
PROBLEM = Problem(tuple(Modality(n, spatial_dims=2) for n in NAMES), (Target("seg", "regions", ("WT",)),), 2, (6, 6))
REPORTS = Problem(
    (Modality("report", kind="text", spatial_dims=0),), (Target("grade", "class", ("low", "high")),), 2, vocabulary=8
)
TWO_TARGETS = Problem(PROBLEM.modalities, (*PROBLEM.targets, Target("rim", "regions", ("R",))), 2, (6, 6))


class Sound(Method):
    """One convolution for each image, summed, and one for the head; it has encode and decode and two stages."""

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    paper: ClassVar[Citation] = Citation("Nobody", "Nothing", 2025)

    def __init__(self, problem: Problem, config: MethodConfig) -> None:
        super().__init__(problem, config)
        self.encoders = nn.ModuleDict({n: nn.Conv2d(1, 4, 3, padding=1) for n in problem.names})
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, len(problem.targets), 1)

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("segmentation",))

    def stages(self) -> tuple[Stage, ...]:
        how = {"": Optimiser(rate=1e-2)}
        return (Stage("first", optimisers=how, steps=5), Stage("second", train=("head",), optimisers=how, steps=5))

    def encode(self, batch: Batch) -> dict[str, Features]:
        return {n: torch.relu(self.encoders[n](batch.image(n))) for n in batch.modalities if batch.is_present(n).any()}

    def logits(self, features: Mapping[str, Features], present: Tensor) -> Tensor:
        total = torch.zeros(())
        for column, name in enumerate(self.problem.names):
            if name in features:
                value = cleared(features[name], present[:, column])
                assert isinstance(value, Tensor)
                total = total + value
        logits: Tensor = self.head(self.norm(total))
        return logits

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        self.require_support(present)
        logits = self.logits(features, present)
        return Prediction({t.name: logits[:, k : k + 1].sigmoid() for k, t in enumerate(self.problem.targets)}, present)

    def predict(self, batch: Batch) -> Prediction:
        return self.decode(self.encode(batch), batch.present)

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        logits = self.logits(self.encode(batch), batch.present)
        terms = {}
        for k, target in enumerate(self.problem.targets):
            rows = batch.labelled[target.name]
            terms[target.name] = binary_cross_entropy_with_logits(
                logits[rows][:, k : k + 1], batch.targets[target.name][rows].float()
            )
        return terms


class Multiplies(Sound):
    """Masks by multiplication: 0 * NaN is NaN."""

    def encode(self, batch: Batch) -> dict[str, Features]:
        found: dict[str, Features] = {}
        for name in batch.modalities:
            value = batch.inputs[name]
            assert isinstance(value, Tensor)
            found[name] = torch.relu(self.encoders[name](value * batch.is_present(name)[:, None, None, None]))
        return found


class KnowsWhatIsAbsent(Sound):
    """Adds a trace of an absent image; NaN is cleared away, so only real content gives it away."""

    def encode(self, batch: Batch) -> dict[str, Features]:
        trace = sum(torch.nan_to_num(v).mean() for v in batch.inputs.values() if isinstance(v, Tensor))
        return {n: f + 1e-3 * trace for n, f in super().encode(batch).items() if isinstance(f, Tensor)}


class Pollutes(Sound):
    """Batch normalisation sees raw inputs, absent ones too, before they are selected away."""

    def __init__(self, problem: Problem, config: MethodConfig) -> None:
        super().__init__(problem, config)
        self.first = nn.BatchNorm2d(1)

    def encode(self, batch: Batch) -> dict[str, Features]:
        found: dict[str, Features] = {}
        for name in batch.modalities:
            if batch.is_present(name).any():
                value = torch.nan_to_num(self.first(batch.inputs[name]))
                found[name] = torch.relu(self.encoders[name](cleared(value, batch.is_present(name))))
        return found


class MeanOfNothing(Method):
    """A mean over the words of a report divides by the number of words, which may be none."""

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    paper: ClassVar[Citation] = Sound.paper
    least = 0
    masked = True

    def __init__(self, problem: Problem, config: MethodConfig) -> None:
        super().__init__(problem, config)
        self.words = nn.Embedding(problem.vocabulary, 4)
        self.vector = nn.Linear(2, 4)
        self.head = nn.Linear(4, 2)

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("classification",), kinds=("text", "features"))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("train", optimisers={"": Optimiser(rate=1e-2)}, steps=5),)

    def logits(self, batch: Batch) -> Tensor:
        text = batch.text("report")
        attention = text.attention[..., None] if self.masked else torch.ones_like(text.attention)[..., None]
        count = attention.sum(dim=(1, 2)).clamp(min=self.least)
        mean = (self.words(text.ids) * attention).sum(dim=(1, 2)) / count
        if "blood" in batch.modalities:
            mean = torch.where(batch.is_present("report")[:, None], mean, 0.0) + self.vector(batch.vector("blood"))
        logits: Tensor = self.head(mean)
        return logits

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        return {"ce": nn.functional.cross_entropy(self.logits(batch), batch.targets["grade"]) + 0 * self.vector.weight.sum()}

    def predict(self, batch: Batch) -> Prediction:
        self.require_support(batch.present)
        return Prediction({"grade": self.logits(batch).softmax(dim=1)}, batch.present)


class ReadsPadding(MeanOfNothing):
    """A mean over all places of a report, words or not: a case then depends on the longest in its batch."""

    least = 1
    masked = False


class WritesIntoTheBatch(Sound):
    """Normalises in place."""

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        for value in batch.inputs.values():
            assert isinstance(value, Tensor)
            value.mul_(0.5)
        return super().losses(batch, stage)


class LooksAtNeighbours(Sound):
    """Batch statistics in eval mode."""

    def logits(self, features: Mapping[str, Features], present: Tensor) -> Tensor:
        logits = super().logits(features, present)
        return logits - logits.mean(dim=0, keepdim=True)


class NeverFreezes(Sound):
    """Sets requires_grad by itself in the losses, against its own stages."""

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        self.requires_grad_(True)
        return super().losses(batch, stage)


class FrozenInTrainingMode(Sound):
    """Leaves the batch normalisation in training mode while it is frozen: its statistics go on moving."""

    def enter(self, stage: Stage) -> None:
        super().enter(stage)
        self.norm.train()


class HasDeadWeights(Sound):
    """Has a layer that no loss reaches."""

    def __init__(self, problem: Problem, config: MethodConfig) -> None:
        super().__init__(problem, config)
        self.dead = nn.Linear(1, 1)


class LacksAnOptimiser(Sound):
    """Trains everything, and has an optimiser for the head alone."""

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("first", optimisers={"head": Optimiser()}, steps=5),)


class TakesAnything(Sound):
    """Says that it does not support t2 alone, and predicts from it all the same."""

    def supports(self, subset: Iterable[str]) -> bool:
        return set(subset) != {"t2"} and super().supports(subset)

    def require_support(self, present: Tensor) -> None:
        return


class LooksAtTheFirstRow(TakesAnything):
    """Refuses an unsupported subset only where the first row has it."""

    def require_support(self, present: Tensor) -> None:
        Method.require_support(self, present[:1])


class SupportsNothingness(Sound):
    """Says that it predicts from nothing."""

    def supports(self, subset: Iterable[str]) -> bool:
        return True


class IsNotANumber(Sound):
    """Divides by the number of rows that lack an image, which may be none."""

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        terms = super().losses(batch, stage)
        return {**terms, "balance": 0 * terms["seg"] / (~batch.present).sum()}


class IsNotAScalar(Sound):
    """Forgets the mean."""

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        return {name: term.expand(3) for name, term in super().losses(batch, stage).items()}


class DecodesOtherwise(Sound):
    """Predicts with a step that decode does not have."""

    def predict(self, batch: Batch) -> Prediction:
        found = super().predict(batch)
        return Prediction({n: p * 0.9 for n, p in found.probabilities.items()}, found.used)


class EncodesTogether(Sound):
    """Lets the encoding of one image depend on which others there are."""

    def encode(self, batch: Batch) -> dict[str, Features]:
        found = super().encode(batch)
        return {n: f * len(found) for n, f in found.items() if isinstance(f, Tensor)}


class TrustsAbsentFeatures(Sound):
    """Decodes what absent rows hold."""

    def logits(self, features: Mapping[str, Features], present: Tensor) -> Tensor:
        total = torch.stack([f for f in features.values() if isinstance(f, Tensor)]).sum(dim=0)
        logits: Tensor = self.head(self.norm(total))
        return logits


class MultipliesFeatures(Sound):
    """Selects features by multiplication: right for those that it made itself, wrong for what a cache leaves unspecified."""

    def logits(self, features: Mapping[str, Features], present: Tensor) -> Tensor:
        total = torch.zeros(())
        for column, name in enumerate(self.problem.names):
            value = features.get(name)
            if isinstance(value, Tensor):
                total = total + value * present[:, column, None, None, None]
        logits: Tensor = self.head(self.norm(total))
        return logits


class HidesState(Sound):
    """Keeps a number that is neither weight nor buffer."""

    def __init__(self, problem: Problem, config: MethodConfig) -> None:
        super().__init__(problem, config)
        self.secret = float(torch.rand(()))

    def logits(self, features: Mapping[str, Features], present: Tensor) -> Tensor:
        return super().logits(features, present) + self.secret


class DrawsItsOwnNoise(Sound):
    """Has a random generator of its own, which no seed of the loop reaches."""

    generator: Any = torch.Generator()

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        return {n: t * (1 + torch.rand((), generator=self.generator)) for n, t in super().losses(batch, stage).items()}


class GivesLogits(Sound):
    """Forgets the sigmoid."""

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        self.require_support(present)
        return Prediction({"seg": self.logits(features, present) * 9}, present)


class ClaimsTooMuch(Sound):
    """Says that it used what was not there."""

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        return Prediction(super().decode(features, present).probabilities, torch.ones_like(present))


class ForgetsTheBatchAxis(Sound):
    """Hands out the mean of all rows as an extra."""

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        found = super().decode(features, present)
        return Prediction(found.probabilities, present, {"mean": found.probabilities["seg"].mean(dim=0)})


class UsesWhatItsNeighboursHave(Sound):
    """Says that every row rests on what all rows have."""

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        found = super().decode(features, present)
        return Prediction(found.probabilities, present & present.all(dim=0))


class ForgetsATarget(Sound):
    """Predicts the first target only."""

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        found = super().decode(features, present).probabilities
        return Prediction(dict(list(found.items())[:1]), present)


class LearnsFromBlanks(Sound):
    """Takes the zeros of rows without a label for a truth."""

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        logits = self.logits(self.encode(batch), batch.present)
        pairs = [(t.name, logits[:, k : k + 1]) for k, t in enumerate(self.problem.targets)]
        return {name: binary_cross_entropy_with_logits(score, batch.targets[name].float()) for name, score in pairs}


class GoesUphill(Sound):
    """Has the sign of its loss wrong."""

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        terms = super().losses(batch, stage)
        return {name: 1 / term.detach() ** 2 * term for name, term in terms.items()}


class WritesBadConfigs(Sound):
    """Has a configuration that does not survive being written."""

    class Config(MethodConfig):
        """A value that is derived anew each time that it is read."""

        rate: float = 1.0

        def model_post_init(self, context: Any) -> None:
            object.__setattr__(self, "rate", self.rate / 2)
