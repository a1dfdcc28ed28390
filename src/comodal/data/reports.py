"""Reports as data sets store them: plain text, text with titles in capitals (MIMIC-CXR), XML (Open-I)."""

from __future__ import annotations

from collections.abc import Sequence

from comodal.errors import DataError, message


def report_text(text: str, sections: Sequence[str], *, subject: str = "", modality: str = "", file: str | None = None) -> str:
    """The words of a report.

    Args:
        text: As the file or the cell holds it.
        sections: Titles in lower case, in the order in which they are to be read; all of the text where empty.
        subject: For the error text, as are modality and file.
        modality: See subject.
        file: See subject.

    Returns:
        The text of these sections, "" where it has none of them.

    Raises:
        DataError: XML of another kind, or damaged.
    """
    if text.lstrip().startswith("<") and sections:
        do = "Leave `sections` out"
        raise DataError(message("report", "be plain text", "XML", subject=subject, modality=modality, file=file, do=do))
    return text
