"""The chest phantom: radiographs with findings in regions, and reports, in the layout of Open-I or of MIMIC-CXR.

The generative model, drawn anew for each case k from (seed, k) alone:

1. Two factors, congestion and infection, ~ N(0, 1) each. A finding j has the liability l_j . factors + sqrt(1 - |l_j|^2) N(0,
   1), and is there where that lies above the quantile of its prevalence (`chest_model.FINDINGS`). The grade of edema, 0 to 3,
   is cut from such a liability at GRADE_SHARES; the finding Edema is a grade of 2 or more.
2. A site of each finding, uniform among its sites (six lung zones, two sides, two sides at two heights, heart, hiatus, both
   lungs).
3. SHARED by pictures and report: the finding and its site. `visible` ~ Bernoulli(visible): a finding that is not visible
   leaves no trace in any picture, so that what the report says of it is UNIQUE TO THE REPORT.
4. Contrasts: every site of every finding, in every case, has max(0, N(0, 1)), drawn with its own size (uniform of three) and
   place: what looks like the finding and is not. At the site of a finding that is there and visible, `contrast x distance` is
   added before the cut. The contrasts are all that a picture tells of findings. What is there and not mentioned is UNIQUE TO
   THE PICTURES.
5. The report speaks of each finding on its own. With the finding (or a grade above 0), given m = `mentioned`: it affirms it
   with 0.87 m, doubts with 0.13 m, negates with 0.25 (1 - m), else is silent; without: 0.02, 0.04, `negated`, else silent. A
   sentence that affirms or doubts names the site with probability 0.85, and then the size of what lies there; without the
   finding it names any site. Of edema it names the right grade with 0.8, else one beside it; without edema, grade 1. Whether a
   finding is mentioned and whether it is visible are drawn apart.
6. NOISE, drawn apart from all of the above. In pictures: the body (lungs, diaphragm, ribs, vessels, breasts, nipples that look
   like nodules, air in the stomach), turn, magnification, exposure, the marker, textures, quantum noise. In reports: synonyms,
   forms and order of sentences, normal sentences repeated word for word, sentences that help nobody, comparison and
   indication, the marks of de-identification.

A lateral view, where asked for, shows the same contrasts once more and nothing else that matters. Labels are the truth: in
Open-I as MeSH terms, in MIMIC as CheXpert's columns, of which some are uncertain or blank at random, and as grades of edema
(of the test split by consensus on images, of most other studies by rules on reports, both the truth here). Patients of MIMIC
have one to three studies; these share the body and nothing else.

`hidden_causes.csv` has all of it for each case, and `phrases.csv` each sentence that affirms a finding, names its site and has
something to point at in the frontal picture, with the centre of mass of what is drawn: nothing there is read by a layout. Case
k does not depend on how many cases or findings there are, nor on which files are missing; between the releases the bodies of
patients with several studies differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from comodal.data.phantoms import chest_files as files
from comodal.data.phantoms.chest_anatomy import Anatomy, draw_anatomy, make_frame, to_picture
from comodal.data.phantoms.chest_image import frontal, lateral
from comodal.data.phantoms.chest_model import (
    ANATOMY_USE,
    FACTORS,
    FILM_USE,
    FINDINGS,
    FRONTAL_USE,
    GRADES,
    KINDS,
    LATERAL_USE,
    MISSING_USE,
    REPORT_USE,
    SIZES,
    SPLIT_USE,
    TABLES_USE,
    Causes,
    Chances,
    Floats,
    draw_causes,
)
from comodal.data.phantoms.chest_report import Written, mesh_terms, write_report
from comodal.data.phantoms.chest_signs import TEMPLATES, place, template
from comodal.data.phantoms.writing import Role, claim, stream, write_bytes, write_causes
from comodal.errors import ConfigError, message, nearest

DEFAULT_RATES: dict[str, dict[str, float]] = {
    "random": {"frontal": 0.2, "lateral": 0.2, "report": 0.2},
    "imbalanced": {"frontal": 0.1, "lateral": 0.6, "report": 0.4},
}
PHRASES = ("subject", "sentence", "finding", "x", "y")
PRESETS: dict[str, dict[str, Any]] = {"small": {"size": 64, "findings": 4, "unhelpful": 1}}


class ChestPhantom(BaseModel):
    """Configuration of the chest phantom.

    Attributes:
        preset: "small" sets size 64, 4 findings and short reports, where these are not given. cases: Number of studies, at
            least 1. size: Pixels along X and Y, 64 to 1024. seed: Same seed, same files. release: "open-i" or "mimic-cxr": how
            it lies on disk, and which labels there are. findings: How many of the 14 findings there are, 2 to 14, in the order
            of `chest_model.FINDINGS`. lateral: Whether there is a lateral view too. missing: "none"; "random" or "imbalanced":
            files are missing at `rates`. rates: Probability that a modality (frontal, lateral, report) is missing, in [0, 1).
            Empty takes DEFAULT_RATES. A study that would lose all keeps one, drawn at random.
        visible: Probability that a finding shows in pictures.
        contrast: Factor of the contrast of what shows: at 0 pictures tell nothing.
        mentioned: Probability that the report affirms or doubts a finding that is there.
        negated: Probability that it negates one that is not, at most 0.94.
        unhelpful: At most so many sentences of a report that say nothing of findings, 0 to 12.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["", "small"] = ""
    cases: int = 200
    size: int = 128
    seed: int = 0
    release: Literal["open-i", "mimic-cxr"] = "open-i"
    findings: int = 6
    lateral: bool = False
    missing: Literal["none", "random", "imbalanced"] = "none"
    rates: dict[str, float] = Field(default_factory=dict)
    visible: float = 0.8
    contrast: float = 1.0
    mentioned: float = 0.78
    negated: float = 0.5
    unhelpful: int = 4

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        """What is given comes before what the preset sets."""
        return {**PRESETS.get(str(given.get("preset")), {}), **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _check(self) -> ChestPhantom:
        limits = (
            ("cases", 1, 100_000), ("size", 64, 1024), ("seed", 0, 2**63 - 1), ("findings", 2, len(FINDINGS)),
            ("unhelpful", 0, 12), ("visible", 0, 1), ("contrast", 0, 3), ("mentioned", 0, 1), ("negated", 0, 0.94),
        )  # fmt: skip
        for name, low, high in limits:
            if not low <= getattr(self, name) <= high:
                raise ConfigError(_text(name, f"lie in {low}..{high}", getattr(self, name), f"Set {name} within these limits"))
        if self.rates and self.missing == "none":
            do = "Set missing to random or imbalanced, or leave rates out"
            raise ConfigError(_text("rates", "be empty where missing is none", self.rates, do))
        for name, rate in self.rates.items():
            if name not in self.modalities:
                raise ConfigError(_text("rates", "name modalities of the phantom", repr(name), nearest(name, self.modalities)))
            if not 0 <= rate < 1:
                raise ConfigError(_text(f"rates[{name}]", "lie in [0, 1)", rate, "Set a probability below 1"))
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities, in the order of the layouts.

        >>> ChestPhantom().modalities
        ('frontal', 'report')
        """
        return ("frontal", "lateral", "report") if self.lateral else ("frontal", "report")

    @property
    def views(self) -> tuple[files.View, ...]:
        """The modalities that are pictures."""
        return ("frontal", "lateral") if self.lateral else ("frontal",)

    def chances(self) -> Chances:
        """What is tuned of the model."""
        return Chances(self.findings, self.visible, self.contrast, self.mentioned, self.negated)

    def case_id(self, k: int) -> str:
        """How the layout calls case k.

        >>> ChestPhantom().case_id(0), ChestPhantom(release="mimic-cxr").case_id(0)
        ('CXR1', '10000032_50000267')
        """
        return f"CXR{k + 1}" if self.release == "open-i" else f"{files.subject_id(k)}_{files.study_id(k)}"

    def file_name(self, k: int, modality: str) -> str:
        """Path of a file of case k below the root.

        >>> ChestPhantom().file_name(0, "frontal")
        'NLMCXR_png/CXR1_1_IM-0001-3001.png'
        """
        view: files.View = "lateral" if modality == "lateral" else "frontal"
        if self.release == "open-i":
            report = f"NLMCXR_reports/ecgen-radiology/{k + 1}.xml"
            return report if modality == "report" else f"NLMCXR_png/{files.openi_image(k, view)}.png"
        folder = files.study_folder(k)
        if modality == "report":
            return f"{files.TEXT}/files/{folder}.txt"
        return f"{files.JPG}/files/{folder}/{files.dicom_id(self.seed, k, view)}.jpg"

    def present(self, k: int) -> tuple[str, ...]:
        """The modalities of case k that are there, never none."""
        rates = self.rates or DEFAULT_RATES.get(self.missing, {})
        rng = stream(self.seed, k, MISSING_USE)
        draws = dict(zip(("frontal", "lateral", "report"), rng.uniform(size=3), strict=True))
        last = self.modalities[int(rng.integers(len(self.modalities)))]
        kept = tuple(name for name in self.modalities if draws[name] >= rates.get(name, 0.0))
        return kept or (last,)


def _text(name: str, rule: str, got: object, do: str) -> str:
    return message(f"phantom chest: {name}", rule, got, do=do)


def write_chest(out: Path, config: ChestPhantom, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the phantom. An interrupted call is completed by calling it again.

    Args:
        out: The root: a new or empty folder, or one that holds this very phantom. It gets the folders of the release, and
            `phantom.json`, `SYNTHETIC.txt`, `hidden_causes.csv`, `hidden_causes.json` and `phrases.csv`.
        config: What to write.
        on_progress: Called with (cases done, all cases) after each case.

    Raises:
        DataError: The folder holds something else.
    """
    claim(out, "chest", config.model_dump(mode="json"))
    rows: list[dict[str, Any]] = []
    phrases: list[dict[str, object]] = []
    for k in range(config.cases):
        causes, anatomy = draw_case(config, k), draw_body(config, k)
        written = write_report(causes, config.release, stream(config.seed, k, REPORT_USE), unhelpful=config.unhelpful)
        for name, content in _case_files(config, k, (causes, anatomy, written)):
            write_bytes(out / name, content)
        rows.append(_row(config, k, (causes, anatomy)))
        phrases += _phrases(config, k, (causes, anatomy, written))
        if on_progress is not None:
            on_progress(k + 1, config.cases)
    for name, content in _tables(config):
        write_bytes(out / name, content)
    write_bytes(out / "phrases.csv", files.table(PHRASES, phrases))
    write_causes(out, rows, _meanings(config))


def draw_case(config: ChestPhantom, k: int) -> Causes:
    """The hidden causes of case k."""
    return draw_causes(config.chances(), functools.partial(stream, config.seed, k), 1)


def draw_body(config: ChestPhantom, k: int) -> Anatomy:
    """The body of the patient of case k, and how it lies on the film."""
    owner = k - files.patient(k)[1] if config.release == "mimic-cxr" else k
    return draw_anatomy(stream(config.seed, owner, ANATOMY_USE), stream(config.seed, k, FILM_USE))


def make_picture(config: ChestPhantom, k: int, view: files.View, *, causes: Causes, anatomy: Anatomy) -> Floats:
    """A picture of case k before it is rounded: (rows, columns) in 0..1.

    Args:
        config: The phantom.
        k: Case.
        view: Which.
        causes: Of the case.
        anatomy: Of the case.
    """
    if view == "lateral":
        noise = stream(config.seed, k, LATERAL_USE)
        return lateral(causes, config.chances(), anatomy, size=config.size, noise=noise)
    frame, noise = make_frame(anatomy, config.size), stream(config.seed, k, FRONTAL_USE)
    return frontal(causes, config.chances(), frame, seed=(config.seed, k), noise=noise)


def _case_files(config: ChestPhantom, k: int, drawn: tuple[Causes, Anatomy, Written]) -> Iterator[tuple[str, bytes]]:
    """(path below the root, content) of what case k has."""
    causes, anatomy, written = drawn
    present, openi = config.present(k), config.release == "open-i"
    for view in config.views:
        if view in present:
            image = make_picture(config, k, view, causes=causes, anatomy=anatomy)
            yield config.file_name(k, view), files.picture(image, "PNG" if openi else "JPEG")
    if openi:  # the labels and the names of the pictures stand in the XML, which is there without a word too
        major, automatic = mesh_terms(causes)
        major = [*major, *written.terms] if "report" in present else major
        sections = written.sections if "report" in present else {}
        terms = (major or ["normal"], automatic or ["normal"] * (not major))
        yield config.file_name(k, "report"), files.openi_xml(k, sections, terms, views=config.views)
    elif "report" in present:
        yield config.file_name(k, "report"), files.mimic_text(written.sections, lateral=config.lateral)


def _phrases(config: ChestPhantom, k: int, drawn: tuple[Causes, Anatomy, Written]) -> Iterator[dict[str, object]]:
    """The sentences of case k that speak of a place in its frontal picture where something is, and its centre of mass."""
    causes, anatomy, written = drawn
    if not {"frontal", "report"} <= set(config.present(k)):
        return
    frame = make_frame(anatomy, config.size)
    for j, sentence in written.affirmed:
        signs, site = causes.signs[j], int(causes.signs[j].site[0])
        shows = signs.present[0] and signs.visible[0] and signs.contrasts[0, site] > 0
        if shows and signs.named[0] == site and len(FINDINGS[j].sites) > 1 and FINDINGS[j].name in TEMPLATES:
            drawn_there = np.abs(template(frame, signs, j, site=site, seed=(config.seed, k)))
            rows, columns = ((np.arange(config.size) + 0.5) / config.size for _ in range(2))
            y, x = rows @ drawn_there.sum(axis=1) / drawn_there.sum(), columns @ drawn_there.sum(axis=0) / drawn_there.sum()
            name = FINDINGS[j].name
            yield {"subject": config.case_id(k), "sentence": sentence, "finding": name, "x": f"{x:.4f}", "y": f"{y:.4f}"}


def _tables(config: ChestPhantom) -> Iterator[tuple[str, bytes]]:
    """(path below the root, content) of the tables of the release."""
    if config.release == "open-i":
        every = range(config.cases)
        shown = [{"image_id": files.openi_image(k, view), "view": view.capitalize()} for k in every for view in config.views]
        yield "views.csv", files.table(("image_id", "view"), shown)
        return
    images, labels, regex, consensus = [], [], [], []
    for k in range(config.cases):
        rng = stream(config.seed, k, TABLES_USE)
        owner = k - files.patient(k)[1]
        split = files.split_of(float(stream(config.seed, owner, SPLIT_USE).uniform()))
        study: dict[str, object] = {"subject_id": files.subject_id(k), "study_id": files.study_id(k), "split": split}
        for view in config.views:
            position = "LATERAL" if view == "lateral" else ("PA", "AP")[k % 2]
            images.append({
                **study, "dicom_id": files.dicom_id(config.seed, k, view), "ViewPosition": position, "Rows": config.size,
                "Columns": config.size, "StudyDate": "21800101", "StudyTime": "120000.0",
                "PerformedProcedureStepDescription": "CHEST",
            })  # fmt: skip
        causes = draw_case(config, k)
        labels.append({**study, **files.chexpert_row(causes.present[0], rng)})
        graded = {**study, "edema_severity": int(causes.grade[0])}
        if split == "test":
            consensus.append({**graded, "dicom_id": files.dicom_id(config.seed, k, "frontal")})
        elif rng.uniform() < files.GRADED:
            regex.append(graded)
    ids = ("subject_id", "study_id")
    gz: Mapping[str, bytes] = {
        "metadata": files.table(files.METADATA_COLUMNS, images),
        "split": files.table(("dicom_id", "study_id", "subject_id", "split"), images),
        "chexpert": files.table((*ids, *files.CHEXPERT_COLUMNS), labels),
    }
    for name, content in gz.items():
        yield f"{files.JPG}/mimic-cxr-2.0.0-{name}.csv.gz", files.packed(content)
    graded_by: list[tuple[str, tuple[str, ...], list[dict[str, object]]]] = [
        ("regex_report", ids, regex),
        ("consensus_image", (*ids, "dicom_id"), consensus),
    ]
    for name, columns, rows in graded_by:
        if rows:  # a small phantom may have no patient of the test split
            yield f"{files.SEVERITY}/{name}_edema_severity.csv", files.table((*columns, "edema_severity"), rows)


def _row(config: ChestPhantom, k: int, drawn: tuple[Causes, Anatomy]) -> dict[str, Any]:
    """The hidden causes of case k as one row."""
    causes, anatomy = drawn
    frame = make_frame(anatomy, 2)  # only to know where things lie
    row: dict[str, Any] = {"case": config.case_id(k)}
    row |= {name: f"{value:.6f}" for name, value in zip(FACTORS, causes.factors[0], strict=True)}
    row["edema_grade"] = int(causes.grade[0])
    for j, signs in enumerate(causes.signs):
        name, site, named = FINDINGS[j].name, int(signs.site[0]), int(signs.named[0])
        there = bool(signs.present[0])
        x, y = to_picture(anatomy, *place(frame, signs, j, site=site))
        row[name] = int(causes.present[0, j])
        row[f"{name}_site"] = FINDINGS[j].sites[site] if there else ""
        row[f"{name}_x"], row[f"{name}_y"] = (f"{x:.4f}", f"{y:.4f}") if there else ("", "")
        row[f"{name}_size"] = SIZES[int(signs.sizes[0, site])] if there else ""
        row[f"{name}_visible"] = int(signs.visible[0]) if there else ""
        row[f"{name}_contrasts"] = ";".join(f"{value:.6f}" for value in signs.contrasts[0])
        row[f"{name}_said"] = KINDS[int(signs.kind[0])]
        words = GRADES if name == "Edema" else FINDINGS[j].sites
        row[f"{name}_named"] = words[named] if named >= 0 else ""
    row |= {"body_turn": f"{anatomy.turn:.4f}", "exposure_gain": f"{anatomy.gain:.4f}", "present": ";".join(config.present(k))}
    return row


def _meanings(config: ChestPhantom) -> dict[str, tuple[Role, str, str]]:
    """What each column of the hidden causes is."""
    found: dict[str, tuple[Role, str, str]] = {
        "case": ("noise", "", "as the layout calls it"),
        "congestion": ("shared", "", "factor that edema, effusion and cardiomegaly have in common"),
        "infection": ("shared", "", "factor that consolidation, infiltration and pneumonia have in common"),
        "edema_grade": ("label", "", f"0 to 3: {', '.join(GRADES)}"),
    }
    for finding in FINDINGS[: config.findings]:
        name = finding.name
        found |= {
            name: ("label", "", "whether the finding is there; of edema, whether its grade is 2 or more"),
            f"{name}_site": ("shared", "", "where it is"),
            f"{name}_x": ("shared", "", "where in the frontal picture, as a share of its width from the left"),
            f"{name}_y": ("shared", "", "where in the frontal picture, as a share of its height from the top"),
            f"{name}_size": ("shared", "", "how large it is"),
            f"{name}_visible": ("unique", "frontal", "whether it shows in pictures; 0: only the report can tell"),
            f"{name}_contrasts": ("unique", "frontal", f"of what lies at {', '.join(finding.sites)}, in standard deviations"),
            f"{name}_said": ("unique", "report", "what the report says of it; silent or negated: only pictures can tell"),
            f"{name}_named": ("unique", "report", "where, or of which grade, the report says that it is"),
        }
    return found | {
        "body_turn": ("noise", "frontal", "rotation in radians"),
        "exposure_gain": ("noise", "frontal", "of the film"),
        "present": ("noise", "", "modalities that have a file"),
    }
