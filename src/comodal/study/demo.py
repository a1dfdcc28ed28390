"""The demonstration: a phantom and a study that `comodal demo` runs."""

from __future__ import annotations

from pathlib import Path

from comodal.study.cohorts import check_files, check_phantom, write_phantom
from comodal.training.events import Emit, Said, silent

DEMO_STUDY = """\
# The demonstration: two networks, trained alike but for modality dropout, on a brain phantom with four MRI sequences.
cohort: cohort.csv
methods:
  - name: unet
    config: {width: 8, levels: 4, steps: 700, rate: 0.003}
  - name: moddrop
    config: {width: 8, levels: 4, steps: 700, rate: 0.003}
reference: unet
data: {spatial_dims: 3, patch: [32, 32, 32], spacing: [5, 5, 5], draws_per_case: 4}
splits: {fractions: [0.55, 0.1, 0.35]}
training: {batch_size: 4, device: cpu, validations: 4, overlap: 0.25}
"""


def prepare_demo(out: Path, *, emit: Emit = silent) -> Path:
    """Writes the phantom and the study, as far as they are not there, and checks the files.

    Args:
        out: Folder.
        emit: Listener.

    Returns:
        The study.yaml.

    Raises:
        ConfigError: The folder holds a cohort that is not the phantom's.
    """
    cohort = out / "cohort.csv"
    check_phantom(cohort, "brain")
    if not cohort.is_file():
        emit(Said("info", "writing a brain phantom: 40 subjects with FLAIR, T1, T1ce and T2, in the layout of BraTS 2020"))
        write_phantom("brain", out, {"cases": 40, "size": 48, "seed": 0}, emit=emit)
    report = check_files(cohort, emit=emit)
    errors = [defect for defect in report.defects if defect.level == "error"]
    emit(Said("info", f"checked every file to its last byte: {len(report.defects)} remarks, {len(errors)} errors"))
    if not (out / "study.yaml").is_file():
        (out / "study.yaml").write_text(DEMO_STUDY, encoding="utf-8")
    return out / "study.yaml"
