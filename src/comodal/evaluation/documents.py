"""JSON documents of a run folder: validated, written whole or not at all, and read without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from comodal.data.atomic import replacing
from comodal.errors import RunError, message


class Strict(BaseModel):
    """A part of a document: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Document(Strict):
    """A whole one, of schema 1. Subclasses say what it is called in errors, and what to do where it is missing or damaged."""

    owner: ClassVar[str]
    missing: ClassVar[str]
    damaged: ClassVar[str]

    def to_json(self) -> str:
        """One JSON document; what is not a number is null."""
        return self.model_dump_json(by_alias=True, indent=1)

    def save(self, path: Path | str) -> Path:
        """Writes the JSON file whole or not at all, and makes its folder."""
        with replacing(Path(path)) as file:
            file.write((self.to_json() + "\n").encode())
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads a file of `save`.

        Raises:
            RunError: It is missing, or not of this schema.
        """
        path = Path(path)
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            text = message(cls.owner, "be a readable file", error.strerror, file=str(path), do=cls.missing)
            raise RunError(text) from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            got = f"{'.'.join(str(part) for part in first['loc']) or 'file'}: {first['msg']}"
            raise RunError(message(cls.owner, "follow schema 1", got, file=str(path), do=cls.damaged)) from error
