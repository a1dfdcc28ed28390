"""`check_method`: what every method promises, asserted. One function per promise; all are public through `CHECKS`.

A method with a known exception is called with `known={"check name": "reason"}`; that check is then expected to fail, and an
exception that no longer exists fails too, so that the table of exceptions cannot rot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from comodal.batch import Batch
from comodal.errors import ComodalError, UnsupportedSubset, nearest
from comodal.method import Method, MethodConfig, Prediction, Problem, Stage
from comodal.modality import subset_name, subsets
from comodal.testing.batches import blank, make_batch, padded, poison
from comodal.testing.subject import Subject, encodings, losses, predicted, same_bits, same_prediction, stage_batch, tensors

SEEDS = 8  # modality dropout may hide a parameter from one draw, not from eight


def check_config_survives(subject: Subject) -> None:
    """Configuration and weights survive saving as plain values and safetensors: predictions are equal to the bit."""
    again = subject.cls.Config.model_validate(subject.config.model_dump(mode="json"))
    assert again == subject.config, f"Config must survive model_dump and model_validate; got {again}"
    method, other = subject.build(0), subject.build(1)
    weights = {name: tensor.detach().contiguous().clone() for name, tensor in method.state_dict().items()}
    other.load_state_dict(load_tensors(save_tensors(weights)))
    batch = subject.mixed()
    assert same_prediction(predicted(method, batch), predicted(other, batch)), "weights must carry the whole prediction"


def check_same_seed_same_loss(subject: Subject) -> None:
    """Same seed, same loss, and finite, from complete cases and from any others; each term is a scalar."""
    for stage in subject.build().stages():
        for raw in (make_batch(subject.problem, 4), subject.training(stage)):
            values = []
            for _ in range(2):
                method, batch = _entered(subject, stage, raw)
                terms, total = losses(method, stage, batch)
                for name, term in terms.items():
                    finite = term.ndim == 0 and bool(torch.isfinite(term))
                    assert finite, f"loss {name} of stage {stage.name} must be a finite scalar; got {term}"
                values.append(total.detach())
            assert same_bits(*values), f"stage {stage.name} must give the same loss for the same seed; got {values}"


def _entered(subject: Subject, stage: Stage, raw: Batch) -> tuple[Method, Batch]:
    """A fresh method in a stage, and what the loop would hand it."""
    method = subject.build()
    method.enter(stage)
    batch = stage_batch(method, stage, raw)
    method.enter(stage)
    return method, batch


def check_gradients_follow_stages(subject: Subject) -> None:
    """Each stage's parameters get a gradient, no others do, each has an optimiser, and what is frozen changes no buffer."""
    for stage in subject.build().stages():
        method = subject.build()
        names = [name for name, _ in method.named_parameters()]
        assert any(stage.trains(name) for name in names), f"stage {stage.name} must train some parameter; got {stage.train}"
        frozen = {n: b.clone() for n, b in method.named_buffers() if not stage.trains(n)}
        reached: set[str] = set()
        for seed in range(SEEDS):  # complete rows, and others: what stands in for an absent modality learns from those alone
            raw = subject.training(stage, seed=seed) if seed % 2 else make_batch(subject.problem, 4, seed=seed)
            method.enter(stage)
            batch = stage_batch(method, stage, raw)
            method.enter(stage)
            method.zero_grad(set_to_none=True)
            losses(method, stage, batch, seed=seed)[1].backward()
            reached |= {name for name, p in method.named_parameters() if p.grad is not None}
        for name in names:
            if stage.trains(name):
                stage.optimiser_of(name)
                assert name in reached, f"{name} must get a gradient in stage {stage.name}"
            else:
                assert name not in reached, f"{name} must get no gradient in stage {stage.name}"
        for name, buffer in method.named_buffers():
            kept = stage.trains(name) or same_bits(buffer, frozen[name])
            assert kept, f"{name} is frozen in stage {stage.name} and must keep its value"


def check_shapes(subject: Subject) -> None:
    """Declared shapes, ranges, `used` and `extras` for every supported subset."""
    method = subject.build()
    complete = make_batch(subject.problem, 3)
    wanted = {target.name for target in subject.problem.targets}
    for subset in subject.supported():
        batch = complete.keep(subset)
        prediction = predicted(method, batch)
        used = prediction.used
        assert used.dtype == torch.bool and used.shape == batch.present.shape, f"used must be bool (B, M); got {used}"
        assert not (used & ~batch.present).any(), f"used must be a subset of present for {subset}"
        for name, extra in prediction.extras.items():
            assert extra.shape[:1] == (3,), (
                f"the extra {name} must have the batch axis first; got {tuple(extra.shape)} of 3 rows"
            )
        found = set(prediction.probabilities)
        assert found == wanted, f"all of {sorted(wanted)} must be predicted; got {sorted(found)}"
        for target in subject.problem.targets:
            p = prediction.probabilities[target.name]
            spatial = subject.problem.patch if target.is_segmentation else ()
            shape = (3, len(target.classes), *spatial)
            assert tuple(p.shape) == shape, f"{target.name} from {subset} must have shape {shape}; got {tuple(p.shape)}"
            assert bool(((p >= 0) & (p <= 1)).all()), f"{target.name} from {subset} must lie in [0, 1]"
            if target.kind in ("labels", "class", "ordinal"):
                assert torch.allclose(p.sum(1), torch.ones_like(p.sum(1)), atol=1e-4), f"{target.name} must sum to one"


def check_rows_are_independent(subject: Subject) -> None:
    """In eval mode neither the order of rows, nor the size of the batch, nor padding to a longer row matters."""
    method = subject.build()
    batch = subject.mixed()
    whole = predicted(method, batch)
    order = [2, 0, 3, 1]
    for rows in (order, *[[i] for i in range(len(batch))]):
        _assert_close(predicted(method, batch.rows(rows)), whole, rows, f"of rows {rows} must not depend on the batch")
    every = list(range(len(batch)))
    _assert_close(predicted(method, padded(batch)), whole, every, "must not depend on how far texts and bags are padded")


def _assert_close(part: Prediction, whole: Prediction, rows: list[int], promise: str) -> None:
    every = {**whole.probabilities, **whole.extras, "used": whole.used.float()}
    for name, p in {**part.probabilities, **part.extras, "used": part.used.float()}.items():
        assert torch.allclose(p, every[name][rows], atol=1e-5), f"{name} {promise}"


def check_poison_changes_nothing(subject: Subject) -> None:
    """Neither NaN nor zeros in absent inputs change a prediction, loss, gradient or running statistic, to the bit."""
    batch = subject.mixed()
    method = subject.build()
    for twin in (poison(batch), blank(batch)):
        assert same_prediction(predicted(method, batch), predicted(method, twin)), "predict reads an absent modality"
    for stage in method.stages():
        raw = subject.training(stage)
        first = _learned(subject, stage, raw, lambda encoded: encoded)
        for name, value in first.items():
            if name.startswith("buffer ") and not stage.trains(name.removeprefix("buffer ")):
                continue  # it keeps its value, which another stage may not have given it yet
            assert torch.isfinite(value.float()).all(), f"{name} must be finite in stage {stage.name}"
        for change in (poison, blank):
            twin_of = _learned(subject, stage, change(raw), change)
            for name in first.keys() | twin_of.keys():
                same = name in first and name in twin_of and same_bits(first[name], twin_of[name])
                assert same, f"{name} reads an absent modality in stage {stage.name}"


def _learned(subject: Subject, stage: Stage, raw: Batch, change: Callable[[Batch], Batch]) -> dict[str, Tensor]:
    """Loss, gradients and buffers after one step; encodings are changed as the raw inputs were."""
    method, batch = _entered(subject, stage, raw)
    total = losses(method, stage, batch if stage.inputs == "raw" else change(batch))[1]
    total.backward()
    gradients = {f"gradient of {n}": p.grad for n, p in method.named_parameters() if p.grad is not None}
    return {"loss": total.detach(), **gradients, **{f"buffer {n}": b.clone() for n, b in method.named_buffers()}}


def check_unlabelled_changes_nothing(subject: Subject) -> None:
    """Where a stage may meet cases without a target, what stands in its place changes no loss, to the bit."""
    for stage in subject.build().stages():
        if stage.targets is not None and len(stage.targets) > 0:
            continue  # every case has what the stage learns from
        if stage.targets is None and len(subject.problem.targets) < 2:
            continue
        for target in subject.problem.targets:
            raw = make_batch(subject.problem, 4)
            known = {**raw.labelled, target.name: raw.labelled[target.name].clone()}
            known[target.name][1::2] = False
            values = []
            for content in (raw.targets[target.name], raw.targets[target.name].flip(0)):
                other = content.clone()
                other[::2] = raw.targets[target.name][::2]
                changed = replace(raw, targets={**raw.targets, target.name: other}, labelled=known)
                method, batch = _entered(subject, stage, changed)
                values.append(losses(method, stage, batch)[1].detach())
            assert same_bits(*values), f"stage {stage.name} reads {target.name} of rows where it is not labelled"


def check_input_is_untouched(subject: Subject) -> None:
    """Neither `losses` nor `predict` writes into its batch."""
    method = subject.build()
    batch = subject.mixed()
    before = _copies(batch)
    predicted(method, batch)
    _assert_untouched(batch, before, "predict")
    for stage in method.stages():
        entered, given = _entered(subject, stage, subject.training(stage))
        before = _copies(given)
        losses(entered, stage, given)
        _assert_untouched(given, before, f"losses of stage {stage.name}")


def _contents(batch: Batch) -> list[Tensor]:
    inputs = [tensor for name in batch.modalities for tensor in tensors(batch.inputs[name])]
    return [*inputs, *batch.targets.values(), *batch.labelled.values(), batch.present]


def _copies(batch: Batch) -> list[Tensor]:
    return [tensor.clone() for tensor in _contents(batch)]


def _assert_untouched(batch: Batch, before: list[Tensor], what: str) -> None:
    same = all(same_bits(a, b) for a, b in zip(_contents(batch), before, strict=True))
    assert same, f"the batch must not be modified by {what}"


def check_refusals(subject: Subject) -> None:
    """The empty subset and every unsupported one are refused, by name, also where only one row has it."""
    method = subject.build()
    complete = make_batch(subject.problem, 2)
    assert not method.supports(()), "supports(()) must be False"
    supported = subject.supported()
    assert supported, "some subset must be supported"
    try:
        method.predict(complete.restrict(torch.zeros_like(complete.present)))
    except ComodalError:
        pass
    else:
        raise AssertionError("predict must refuse a batch in which nothing is present")
    good = torch.tensor([name in supported[-1] for name in subject.problem.names])
    for subset in subsets(subject.problem.names):
        if method.supports(subset):
            continue
        bad = torch.tensor([name in subset for name in subject.problem.names])
        for rows in ([bad, bad], [good, bad]):
            said = _refusal(method, complete.restrict(torch.stack(rows)))
            assert said is not None, f"predict must refuse the unsupported subset {subset}"
            assert all(subset_name(s) in said for s in supported), f"the refusal must name what would do; got {said}"


def _refusal(method: Method, batch: Batch) -> str | None:
    try:
        predicted(method, batch)
    except UnsupportedSubset as error:
        return str(error)
    return None


def check_encode_decode(subject: Subject) -> None:
    """`predict(batch) == decode(encode(batch), present)` where a method has them.

    Also where each modality was encoded by itself, as the predictor and the cache of encodings do, and where the features of
    absent rows hold NaN.
    """
    method = subject.build()
    if not method.encodes:
        return
    complete = make_batch(subject.problem, 3)
    for batch in [complete.keep(subset) for subset in subject.supported()] + [subject.mixed()]:
        whole = predicted(method, batch)
        apart = batch.with_inputs({**dict.fromkeys(batch.modalities, torch.zeros(len(batch), 1)), **encodings(method, batch)})
        with torch.no_grad():
            ways = {
                "encode": method.decode(method.encode(poison(batch)), batch.present),
                "encode of each modality by itself": method.decode(apart.encodings(), batch.present),
                "poisoned features": method.decode(poison(apart).encodings(), batch.present),
            }
        for way, found in ways.items():
            _assert_close(found, whole, list(range(len(batch))), f"of decode differs from predict: {way}")


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
            total = losses(method, stage, batch, seed=step)[1]
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
    "unlabelled_changes_nothing": check_unlabelled_changes_nothing,
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
    unknown = sorted((known or {}).keys() - CHECKS.keys())
    assert not unknown, f"known must name checks; got {unknown}. {nearest(unknown[0], CHECKS)}"
    subject = Subject(cls, problem, config if config is not None else cls.Config())
    for name, check in CHECKS.items():
        reason = (known or {}).get(name)
        try:
            check(subject)
        except AssertionError as error:
            if reason is None:
                raise AssertionError(f"{cls.__name__} fails {name}: {error}") from error
        except Exception as error:
            error.add_note(f"{cls.__name__} fails {name}")
            raise
        else:
            assert reason is None, f"{cls.__name__} no longer fails {name}; take it out of the table of exceptions ({reason})"
