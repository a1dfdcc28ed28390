"""Train on several MRI sequences, predict from any of them: the whole of comodal in one short script.

    python examples/segment_any_subset.py OUT [STEPS]

It writes a small brain phantom in the layout of BraTS, trains a U-Net with modality dropout, prints the table of all subsets,
and predicts one patient from FLAIR alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import comodal
from comodal import api


def main(out: Path, steps: int) -> None:
    """Everything, into the folder `out`."""
    cohort = api.phantom("brain", out, cases=12, size=48, seed=1)
    made = api.init("moddrop", cohort, out=out / "config.yaml", minutes=1)
    print(f"configuration: {len(made.text.splitlines())} lines, each with its reason, in {out / 'config.yaml'}")

    settings = [f"method.steps={steps}", "method.width=8", "training.validations=2", "training.device=cpu"]
    comodal.train(out / "config.yaml", out=out / "run", overrides=settings)

    results = comodal.evaluate(out / "run", device="cpu")
    for row in results.subsets:
        dsc = row.metrics["DSC/mean"]
        print(f"{row.name:<20} DSC {dsc.value:.3f}  n {dsc.n}")

    patient = next((out / "files").glob("*/*_flair.nii.gz"))
    written = comodal.predict(out / "run", inputs={"flair": patient}, out=out / "predictions", device="cpu")
    print(f"from {', '.join(written[0].used)}: {written[0].files[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 300)
