"""`check_method`: what every method promises, asserted. One function per promise; all are public through `CHECKS`.

A method with a known exception is called with `known={"check name": "reason"}`; that check is then expected to fail, and an
exception that no longer exists fails too, so that the table of exceptions cannot rot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from comodal.batch import Bag, Batch, Features, Text, Value
from comodal.errors import ComodalError, UnsupportedSubset
from comodal.method import Method, MethodConfig, Prediction, Problem, Stage
from comodal.modality import subsets
from comodal.testing.batches import make_batch, poison


@dataclass(frozen=True)
class Subject:
    """A method under check: class, problem and configuration; `build()` always gives the same weights."""

    cls: type[Method]
    problem: Problem
    config: MethodConfig

    def build(self, seed: int = 0) -> Method:
        """The method with weights drawn from `seed`."""
        torch.manual_seed(seed)
        return self.cls(self.problem, self.config)

    def supported(self) -> list[tuple[str, ...]]:
        """All subsets from which it predicts."""
        method = self.build()
        return [s for s in subsets(self.problem.names) if method.supports(s)]

    def mixed(self, size: int = 4) -> Batch:
        """A batch whose rows have different supported subsets, with poison-free zeros elsewhere."""
        rows = [self.supported()[i % len(self.supported())] for i in range(size)]
        present = torch.tensor([[name in row for name in self.problem.names] for row in rows])
        return make_batch(self.problem, size, present=present)


def stage_batch(method: Method, stage: Stage, batch: Batch) -> Batch:
    """What the loop would hand to `losses` in this stage: the batch, or its encodings by the frozen encoders."""
    needed = batch.restrict(_with(batch, stage.modalities))
    if stage.inputs == "raw":
        return needed
    method.eval()
    with torch.no_grad():
        features: Mapping[str, Features] = method.encode(needed)
    blank = torch.zeros((len(batch), 1))
    return needed.with_inputs({name: features.get(name, blank) for name in batch.modalities})


def _with(batch: Batch, required: tuple[str, ...]) -> Tensor:
    """`present`, with the modalities that the stage requires present in every row of a complete batch."""
    return torch.ones_like(batch.present) if required else batch.present


def _training_batches(subject: Subject, stage: Stage) -> Batch:
    return make_batch(subject.problem, 4) if stage.modalities else subject.mixed()


def _loss(method: Method, stage: Stage, batch: Batch, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(seed)
    terms = method.losses(batch, stage)
    return terms, torch.stack([term for term in terms.values()]).sum()


def _bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a, nan=12345.0), torch.nan_to_num(b, nan=12345.0))


def _same_prediction(a: Prediction, b: Prediction) -> bool:
    return all(_bits(a.probabilities[n], b.probabilities[n]) for n in a.probabilities) and _bits(a.used, b.used)


def _predict(method: Method, batch: Batch) -> Prediction:
    method.eval()
    with torch.no_grad():
        return method.predict(batch)


def check_config_survives(subject: Subject) -> None:
    """Configuration and weights survive saving as plain values and safetensors: predictions are equal to the bit."""
    again = subject.cls.Config.model_validate(subject.config.model_dump(mode="json"))
    assert again == subject.config, f"Config must survive model_dump and model_validate; got {again}"
    method, other = subject.build(0), subject.build(1)
    other.load_state_dict(load_tensors(save_tensors({k: v.contiguous() for k, v in method.state_dict().items()})))
    batch = subject.mixed()
    assert _same_prediction(_predict(method, batch), _predict(other, batch)), "weights must carry the whole prediction"


def check_same_seed_same_loss(subject: Subject) -> None:
    """Same seed, same loss, and finite; each term is a scalar."""
    for stage in subject.build().stages():
        values = []
        for _ in range(2):
            method = subject.build()
            method.enter(stage)
            batch = stage_batch(method, stage, _training_batches(subject, stage))
            method.enter(stage)
            terms, total = _loss(method, stage, batch)
            for name, term in terms.items():
                assert term.ndim == 0 and torch.isfinite(term), f"loss {name} of stage {stage.name} must be a finite scalar; got {term}"
            values.append(total)
        assert _bits(values[0], values[1]), f"stage {stage.name} must give the same loss for the same seed; got {values}"


def check_gradients_follow_stages(subject: Subject) -> None:
    """Each stage's parameters get a gradient, no others do, and each has an optimiser."""
    names = [name for name, _ in subject.build().named_parameters()]
    for stage in subject.build().stages():
        assert any(stage.trains(name) for name in names), f"stage {stage.name} must train some parameter; got {stage.train}"
        reached: set[str] = set()
        method = subject.build()
        for seed in range(8):  # modality dropout may hide a parameter from one draw, not from eight
            method.enter(stage)
            batch = stage_batch(method, stage, make_batch(subject.problem, 4, seed=seed))
            method.enter(stage)
            method.zero_grad(set_to_none=True)
            _loss(method, stage, batch, seed)[1].backward()
            reached |= {name for name, p in method.named_parameters() if p.grad is not None}
        for name in names:
            if stage.trains(name):
                stage.optimiser_of(name)
                assert name in reached, f"{name} must get a gradient in stage {stage.name}"
            else:
                assert name not in reached, f"{name} must get no gradient in stage {stage.name}"


def check_shapes(subject: Subject) -> None:
    """Declared shapes, ranges and `used` for every supported subset."""
    method = subject.build()
    complete = make_batch(subject.problem, 3)
    for subset in subject.supported():
        batch = complete.keep(subset)
        prediction = _predict(method, batch)
        assert not (prediction.used & ~batch.present).any(), f"used must be a subset of present for {subset}"
        for target in subject.problem.targets:
            p = prediction.probabilities[target.name]
            spatial = subject.problem.patch if target.is_segmentation else ()
            assert tuple(p.shape) == (3, len(target.classes), *spatial), f"{target.name} from {subset} has shape {tuple(p.shape)}"
            assert bool(((p >= 0) & (p <= 1)).all()), f"{target.name} from {subset} must lie in [0, 1]"
            if target.kind in ("labels", "class", "ordinal"):
                assert torch.allclose(p.sum(1), torch.ones_like(p.sum(1)), atol=1e-4), f"{target.name} must sum to one"


def check_rows_are_independent(subject: Subject) -> None:
    """In eval mode neither the order of rows nor the size of the batch matters."""
    method = subject.build()
    batch = subject.mixed()
    whole = _predict(method, batch)
    order = [2, 0, 3, 1]
    for rows in (order, *[[i] for i in range(len(batch))]):
        part = _predict(method, batch.rows(rows))
        for name, p in part.probabilities.items():
            assert torch.allclose(p, whole.probabilities[name][rows], atol=1e-5), f"{name} of rows {rows} must not depend on the batch"


def check_poison_changes_nothing(subject: Subject) -> None:
    """NaN in absent inputs changes no prediction, loss, gradient or running statistic, to the bit."""
    batch = subject.mixed()
    method = subject.build()
    assert _same_prediction(_predict(method, batch), _predict(method, poison(batch))), "predict reads an absent modality"
    for stage in method.stages():
        if stage.modalities:
            batch_of_stage = make_batch(subject.problem, 4).keep({*stage.modalities})
        else:
            batch_of_stage = batch
        seen: list[dict[str, Tensor]] = []
        for content in (batch_of_stage, poison(batch_of_stage)):
            twin = subject.build()
            twin.enter(stage)
            inputs = content if stage.inputs == "raw" else stage_batch(twin, replace(stage, modalities=()), content)
            twin.enter(stage)
            _, total = _loss(twin, stage, inputs)
            total.backward()
            grads = {f"gradient of {n}": p.grad for n, p in twin.named_parameters() if p.grad is not None}
            seen.append({"loss": total.detach(), **grads, **{f"buffer {n}": b.clone() for n, b in twin.named_buffers()}})
        for name in seen[0].keys() | seen[1].keys():
            assert name in seen[0] and name in seen[1] and _bits(seen[0][name], seen[1][name]), f"{name} reads an absent modality"
            assert torch.isfinite(seen[0][name].float()).all(), f"{name} must be finite in stage {stage.name}"


def _tensors(value: Value) -> Iterator[Tensor]:
    if isinstance(value, Text):
        yield from (value.ids, value.attention)
    elif isinstance(value, Bag):
        yield from (value.items, value.valid)
    else:
        yield from value if isinstance(value, tuple) else (value,)


def check_input_is_untouched(subject: Subject) -> None:
    """Neither `losses` nor `predict` writes into its batch."""
    batch, twin = subject.mixed(), subject.mixed()
    method = subject.build()
    _predict(method, batch)
    for stage in method.stages():
        if stage.inputs == "raw" and not stage.modalities:
            method.enter(stage)
            _loss(method, stage, batch)
    pairs = [p for n in batch.modalities for p in zip(_tensors(batch.inputs[n]), _tensors(twin.inputs[n]), strict=True)]
    pairs += [(batch.targets[n], twin.targets[n]) for n in batch.targets] + [(batch.present, twin.present)]
    assert all(torch.equal(a, b) for a, b in pairs), "the batch must not be modified"


def check_refusals(subject: Subject) -> None:
    """The empty subset and every unsupported one are refused, by name."""
    method = subject.build()
    complete = make_batch(subject.problem, 2)
    assert not method.supports(()), "supports(()) must be False"
    try:
        method.predict(complete.restrict(torch.zeros_like(complete.present)))
    except ComodalError:
        pass
    else:
        raise AssertionError("predict must refuse a batch in which nothing is present")
    for subset in subsets(subject.problem.names):
        if not method.supports(subset):
            try:
                _predict(method, complete.keep(subset))
            except UnsupportedSubset as error:
                assert all("+".join(s) in str(error) for s in subject.supported()), "the refusal must name what would do"
            else:
                raise AssertionError(f"predict must refuse the unsupported subset {subset}")


def check_encode_decode(subject: Subject) -> None:
    """`predict(batch) == decode(encode(batch), present)` where a method has them."""
    method = subject.build()
    if not method.encodes:
        return
    complete = make_batch(subject.problem, 3)
    method.eval()
    for subset in subject.supported():
        batch = complete.keep(subset)
        with torch.no_grad():
            apart = method.decode(method.encode(poison(batch)), batch.present)
        whole = _predict(method, batch)
        for name, p in whole.probabilities.items():
            assert torch.allclose(p, apart.probabilities[name], atol=1e-6), f"decode(encode) differs from predict for {subset}"


def check_loss_falls(subject: Subject, steps: int = 30) -> None:
    """On four samples the loss of every stage falls: mean of the last five steps below that of the first five."""
    method = subject.build()
    for stage in method.stages():
        method.enter(stage)
        batch = stage_batch(method, stage, make_batch(subject.problem, 4))
        method.enter(stage)
        rates = {n: stage.optimisers[stage.optimiser_of(n)].rate for n, p in method.named_parameters() if p.requires_grad}
        groups = [{"params": [p], "lr": min(rates[n] * 3, 1e-2)} for n, p in method.named_parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(groups)
        history = []
        for step in range(steps):
            optimiser.zero_grad()
            total = _loss(method, stage, batch, step)[1]
            total.backward()
            optimiser.step()
            history.append(float(total.detach()))
        assert sum(history[-5:]) < sum(history[:5]), f"the loss of stage {stage.name} must fall on four samples; got {history}"


CHECKS: dict[str, Callable[[Subject], None]] = {
    "config_survives": check_config_survives,
    "same_seed_same_loss": check_same_seed_same_loss,
    "gradients_follow_stages": check_gradients_follow_stages,
    "shapes": check_shapes,
    "rows_are_independent": check_rows_are_independent,
    "poison_changes_nothing": check_poison_changes_nothing,
    "input_is_untouched": check_input_is_untouched,
    "refusals": check_refusals,
    "encode_decode": check_encode_decode,
    "loss_falls": check_loss_falls,
}


def check_method(
    cls: type[Method], problem: Problem, config: MethodConfig | None = None, *, known: Mapping[str, str] | None = None
) -> None:
    """Asserts everything that the contract promises, for one problem and configuration.

    Args:
        cls: The method's class.
        problem: Keep its patch small: every check trains or predicts a few times.
        config: The class's defaults by default; choose a small one.
        known: {name in `CHECKS`: reason} of checks that are known to fail.

    Raises:
        AssertionError: With the name of the check and what it found.
    """
    subject = Subject(cls, problem, config if config is not None else cls.Config())
    for name, check in CHECKS.items():
        reason = (known or {}).get(name)
        try:
            check(subject)
        except AssertionError as error:
            if reason is None:
                raise AssertionError(f"{cls.__name__} fails {name}: {error}") from error
        else:
            assert reason is None, f"{cls.__name__} no longer fails {name}; take it out of the table of exceptions ({reason})"
