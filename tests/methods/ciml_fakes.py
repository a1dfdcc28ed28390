"""Small CIMLs, batches for them and what is asked of both, for the tests of `ciml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from comodal.batch import Batch
from comodal.method import Losses, Prediction, Problem
from comodal.methods.ciml import CIML, CIMLConfig
from comodal.modality import Modality, Target
from comodal.networks.assignment import Share
from comodal.testing import make_batch

SEQUENCES = ("flair", "t1", "t1ce", "t2")
REGIONS = Target("seg", "regions", ("WT", "TC", "ET"), ((1, 2, 4), (1, 4), (4,)), (2, 1, 4))
ORGANS = Target("organs", "labels", ("background", "liver", "spleen"), ((0,), (1,), (2,)), (0, 1, 2))
OWNERS = {"flair": ["WT"], "t1": ["TC"], "t1ce": ["TC", "ET"], "t2": ["WT", "TC"]}
TINY: dict[str, Any] = {"width": 4, "levels": 2}
TABLE_5: dict[str, dict[str, Any]] = {
    "baseline": {"messages": False},
    "message": {"attention": False, "filter": False},
    "message and attention": {"filter": False},
    "message and filter": {"attention": False},
    "whole": {},
}


def problem(patch: tuple[int, ...] = (16, 16), *targets: Target, names: Sequence[str] = SEQUENCES) -> Problem:
    return Problem(tuple(Modality(n) for n in names), targets or (REGIONS,), len(patch), patch)


def method(made_for: Problem | None = None, **more: Any) -> CIML:
    torch.manual_seed(0)
    return CIML(made_for or problem(), CIMLConfig.model_validate({**TINY, **more}))


def losses(built: CIML, batch: Batch, *, seed: int = 0) -> Losses:
    torch.manual_seed(seed)
    return built.losses(batch, built.stages()[0])


def predicted(built: CIML, batch: Batch) -> Prediction:
    with torch.no_grad():
        return built.eval().predict(batch)


def rows(*names: str) -> Tensor:
    """ "flair t2" is a row with these two; "all" has all."""
    return torch.tensor([[row == "all" or name in row.split() for name in SEQUENCES] for row in names])


def batch_of(*names: str) -> Batch:
    return make_batch(problem(), len(names), present=rows(*names))


def share_of(built: CIML, name: str) -> Share:
    return next(share for share in built.shares if share.name == name)


def total(terms: Mapping[str, Tensor], start: str = "") -> Tensor:
    return torch.stack([value for name, value in terms.items() if name.startswith(start)]).sum()


def gradients(built: CIML, batch: Batch, *, of: Sequence[str] | None = None) -> dict[str, Tensor]:
    built.zero_grad()
    terms = losses(built, batch)
    torch.stack([value for name, value in terms.items() if of is None or name in of]).sum().backward()
    return {name: p.grad.clone() for name, p in built.named_parameters() if p.grad is not None}


def opinions(built: CIML, batch: Batch) -> dict[str, dict[str, Tensor]]:
    """{segmentor: {region: (b, *spatial) probabilities}} of those that have their images, one by one."""
    found: dict[str, dict[str, Tensor]] = {}
    with torch.no_grad():
        encoded = built.eval().network.generate(batch)
        for share in built.owners:
            heard = built.network.listen(share, encoded, batch.present)
            if len(heard.rows):
                logits = built.network.predictor(share).last(heard.features)
                names = [name for target in share.owned for name in target.classes]
                found[share.name] = dict(zip(names, logits.sigmoid().unbind(dim=1), strict=True))
    return found
