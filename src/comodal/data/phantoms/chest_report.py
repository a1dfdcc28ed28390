"""The report of the chest phantom: sentences about findings, normal sentences, and sentences that help nobody.

What is said of each finding (its kind, its place, its size) is drawn in `chest_model`; here it is put into words. Two reports
that say the same differ in words and order. Everything else in a report is drawn apart from the findings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comodal.data.phantoms.chest_model import FINDINGS, KINDS, SIZES, Causes, Signs

# Words for each finding: in a sentence that affirms or doubts it, and in one that negates it.
NOUNS: dict[str, tuple[str, ...]] = {
    "Effusion": ("pleural effusion", "effusion"),
    "Cardiomegaly": ("cardiomegaly", "enlargement of the heart"),
    "Nodule": ("nodule", "nodular opacity"),
    "Pneumothorax": ("pneumothorax",),
    "Consolidation": ("consolidation", "area of consolidation"),
    "Atelectasis": ("atelectasis", "band of atelectasis"),
    "Mass": ("mass", "mass lesion"),
    "Infiltration": ("infiltrate", "patchy infiltrate"),
    "Pneumonia": ("pneumonia", "lobar pneumonia"),
    "Emphysema": ("emphysema", "emphysematous change"),
    "Fibrosis": ("fibrosis", "fibrotic change"),
    "Pleural_Thickening": ("pleural thickening", "thickening of the pleura"),
    "Hernia": ("hiatal hernia", "hernia of the hiatus"),
}
NO_ARTICLE = ("cardiomegaly", "atelectasis", "emphysema", "fibrosis", "thickening", "change", "enlargement", "consolidation")
SIZE_WORDS = (("small", "minor", "mild"), ("moderate", "medium"), ("large", "extensive", "marked"))
# Normal sentences that say of one finding that it is not there, word for word the same in many reports.
NORMAL: dict[str, tuple[str, ...]] = {
    "Edema": ("Pulmonary vascularity is normal.", "No pulmonary edema."),
    "Cardiomegaly": ("The heart is normal in size.", "Heart size is within normal limits."),
    "Nodule": ("No nodule is seen in either lung.",),
    "Consolidation": ("The lungs are clear of consolidation.",),
    "Emphysema": ("The lungs are normally inflated without emphysema.",),
}
GRADE_WORDS = {
    1: ("pulmonary vascular congestion", "congestion of the pulmonary vessels"),
    2: ("interstitial pulmonary edema", "interstitial edema"),
    3: ("alveolar pulmonary edema", "alveolar edema"),
}
# Of what the phantom knows nothing: true of everybody, and no help.
UNHELPFUL = (
    "The bony structures are intact.",
    "The trachea is in the midline.",
    "Degenerative changes of the spine.",
    "{mark} clips project over the upper abdomen.",
    "Comparison {mark}.",
    "Compared with the study of {mark}, no relevant change of the soft tissues.",
    "The upper abdomen is unremarkable.",
    "Discussed with {mark} by telephone.",
    "The study is slightly rotated.",
    "Calcified granuloma, unchanged.",
    "Technique: {mark} view of the chest.",
    "The mediastinal contours are unremarkable.",
)
# Headings of what was unhelpful, by a word of its sentence; none of them is a finding.
UNHELPFUL_TERMS = {"granuloma": "Calcified Granuloma/lung", "spine": "Spine/degenerative"}
INDICATIONS = (
    "Chest pain.",
    "Shortness of breath.",
    "Cough for {mark} days.",
    "{mark}-year-old with fever.",
    "Preoperative.",
    "{mark}.",
)
COMPARISONS = ("None.", "{mark}.", "Radiograph of {mark}.", "")
WELL = ("No acute cardiopulmonary abnormality.", "No acute disease.", "Normal chest.")
MARKS = {"open-i": "XXXX", "mimic-cxr": "___"}


@dataclass(frozen=True)
class Written:
    """A report.

    Attributes:
        sections: {title in lower case: text}.
        terms: Of what was unhelpful, as MeSH headings.
        affirmed: (number in FINDINGS, sentence) of each that says that a finding is there.
    """

    sections: dict[str, str]
    terms: tuple[str, ...]
    affirmed: tuple[tuple[int, str], ...]


def write_report(causes: Causes, release: str, rng: np.random.Generator, *, unhelpful: int) -> Written:
    """Puts what is said of one case into words.

    Args:
        causes: Of one case.
        release: Key of MARKS: what de-identification leaves.
        rng: Of words and order.
        unhelpful: At most so many sentences that say nothing of findings.
    """
    pick = _Picker(rng)
    said = {kind: [j for j, signs in enumerate(causes.signs) if KINDS[signs.kind[0]] == kind] for kind in KINDS}
    affirmed = [affirm(causes.signs[j], j, pick) for j in said["positive"]]
    lines = [*affirmed, *(doubt(causes.signs[j], j, pick) for j in said["uncertain"]), *negations(said["negated"], pick)]
    order = rng.permutation(len(UNHELPFUL))[: rng.integers(unhelpful + 1)]
    extra = [UNHELPFUL[i] for i in order]
    lines = pick.shuffled([*lines, *extra]) or [UNHELPFUL[0]]
    # The conclusion repeats what was affirmed; it never says more.
    repeated = [affirm(causes.signs[j], j, pick) for j in said["positive"]]
    conclusion = repeated or [pick.one(WELL if said["negated"] else ("As above.",))]
    sections = {
        "comparison": pick.one(COMPARISONS),
        "indication": pick.one(INDICATIONS),
        "findings": " ".join(lines),
        "impression": " ".join(conclusion),
    }
    mark = MARKS[release]
    terms = tuple(term for word, term in UNHELPFUL_TERMS.items() if any(word in line for line in extra))
    spoken = tuple(dict.fromkeys(zip(2 * said["positive"], [*affirmed, *repeated], strict=True)))
    return Written({name: text.replace("{mark}", mark) for name, text in sections.items()}, terms, spoken)


class _Picker:
    """Draws words."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def one(self, words: tuple[str, ...]) -> str:
        """One of several."""
        return words[int(self.rng.integers(len(words)))]

    def shuffled(self, lines: list[str]) -> list[str]:
        """In another order."""
        return [lines[i] for i in self.rng.permutation(len(lines))]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _with_article(phrase: str, noun: str) -> str:
    if any(word in noun for word in NO_ARTICLE) and not noun.startswith(("area", "band")):
        return phrase
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def where(signs: Signs, j: int) -> tuple[str, str]:
    """(adjective before the noun, phrase behind it) that say where, both "" where the report does not.

    Args:
        signs: Of one case.
        j: Of FINDINGS.
    """
    sites = FINDINGS[j].sites
    if signs.named[0] < 0 or len(sites) == 1:
        return "", ""
    words = sites[signs.named[0]].split()
    return (words[0], "") if len(words) == 1 else ("", f"in the {words[0]} {words[1]} lung zone")


def _what(signs: Signs, j: int, pick: _Picker) -> tuple[str, str]:
    """(noun phrase with its article, where) of a sentence that affirms or doubts."""
    if FINDINGS[j].name == "Edema":
        return pick.one(GRADE_WORDS[int(signs.named[0])]), ""
    noun = pick.one(NOUNS[FINDINGS[j].name])
    side, place = where(signs, j)
    # The size is that of what lies there, finding or not: it tells nothing more than the place does.
    size = pick.one(SIZE_WORDS[signs.sizes[0, signs.named[0]]]) if signs.named[0] >= 0 else ""
    phrase = " ".join(word for word in (size, side, noun) if word)
    return _with_article(phrase, noun), place


def affirm(signs: Signs, j: int, pick: _Picker) -> str:
    """A sentence that says that a finding is there."""
    what, place = _what(signs, j, pick)
    tail = f" {place}" if place else ""
    form = pick.one(
        ("there is {what}{tail}", "{what} is present{tail}", "{what} is seen{tail}", "{what}{tail}", "{Tail}there is {what}")
    )
    return _sentence(form.format(what=what, tail=tail, Tail=f"{place} " if place else ""))


def doubt(signs: Signs, j: int, pick: _Picker) -> str:
    """A sentence that says that a finding may be there."""
    what, place = _what(signs, j, pick)
    bare = what.removeprefix("an ").removeprefix("a ")
    tail = f" {place}" if place else ""
    form = pick.one(
        ("possible {bare}{tail}", "{what}{tail} cannot be excluded", "questionable {bare}{tail}", "there may be {what}{tail}")
    )
    return _sentence(form.format(what=what, bare=bare, tail=tail))


def negations(which: list[int], pick: _Picker) -> list[str]:
    """Sentences that say what is not there; some negate two findings at once.

    Args:
        which: Of FINDINGS.
        pick: Draws words.
    """
    lines, plain = [], []
    for j in which:
        name = FINDINGS[j].name
        if name in NORMAL and (name not in NOUNS or pick.rng.uniform() < 0.6):
            lines.append(pick.one(NORMAL[name]))
        else:
            plain.append(NOUNS[name][0])
    plain = pick.shuffled(plain)
    while plain:
        form = pick.one(("no {what}", "no evidence of {what}", "{what} is not seen", "there is no {what}"))
        taken, plain = plain[: 1 + int(pick.rng.integers(2))], plain[1:]
        plain = plain[len(taken) - 1 :]
        lines.append(_sentence(form.format(what=" or ".join(taken))))
    return lines


def mesh_terms(causes: Causes) -> tuple[list[str], list[str]]:
    """(major, automatic) MeSH terms of the true findings of one case; both empty without any.

    Args:
        causes: Of one case.
    """
    major, automatic = [], []
    for j, signs in enumerate(causes.signs):
        if not causes.present[0, j]:
            if FINDINGS[j].name == "Edema" and causes.grade[0] == 1:
                major.append("Pulmonary Congestion/mild")  # no edema yet
            continue
        name = FINDINGS[j].name
        place = "/".join(reversed(FINDINGS[j].sites[signs.site[0]].split())) if len(FINDINGS[j].sites) > 1 else ""
        size = "mild" if name == "Edema" else SIZES[signs.sizes[0, signs.site[0]]]
        heading, term = HEADINGS[name]
        major.append("/".join(part for part in (heading, place, size) if part))
        automatic += [term] if term else []
    return major, automatic


HEADINGS: dict[str, tuple[str, str]] = {
    "Atelectasis": ("Pulmonary Atelectasis", "atelectasis"),
    "Cardiomegaly": ("Cardiomegaly", "cardiomegaly"),
    "Effusion": ("Pleural Effusion", "pleural effusion"),
    "Infiltration": ("Infiltrate", "infiltrate"),
    "Mass": ("Mass", "mass"),
    "Nodule": ("Nodule", ""),
    "Pneumonia": ("Pneumonia", "pneumonia"),
    "Pneumothorax": ("Pneumothorax", "pneumothorax"),
    "Consolidation": ("Consolidation", "consolidation"),
    "Edema": ("Pulmonary Edema", "pulmonary edema"),
    "Emphysema": ("Pulmonary Emphysema", "emphysema"),
    "Fibrosis": ("Pulmonary Fibrosis", "pulmonary fibrosis"),
    "Pleural_Thickening": ("Thickening/pleura", ""),
    "Hernia": ("Hernia, Hiatal", "hiatal hernia"),
}
