"""Reading a JSON file that came with a data set: bounded, and plain values only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comodal.errors import DataError, message

MAX_BYTES = 64 * 1024**2


def read_json_file(path: Path, kind: type[dict[str, Any] | list[Any]] = dict) -> Any:
    """Reads a JSON object or list; a byte order mark is fine.

    Args:
        path: The file.
        kind: dict for {key: value}, or list.

    Returns:
        What it holds, of this kind.

    Raises:
        DataError: It cannot be read, is longer than 64 MiB, is no JSON, holds the other kind, or is nested too deeply to be
            a description of data.
    """
    do = "Check the file, or copy it again"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(message("JSON file", f"have at most {MAX_BYTES // 1024**2} MiB", "more", do=do, file=str(path)))
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(message("JSON file", "be readable", error.strerror or str(error), do=do, file=str(path))) from None
    except RecursionError:
        raise DataError(
            message("JSON file", "describe a data set", "values nested too deeply", do=do, file=str(path))
        ) from None
    except ValueError as error:  # also of text that is not UTF-8
        raise DataError(message("JSON file", "be JSON in UTF-8", str(error)[:80], do=do, file=str(path))) from None
    if not isinstance(content, kind):
        rule = "hold an object with named keys" if kind is dict else "hold a list"
        raise DataError(message("JSON file", rule, f"a {type(content).__name__}", do=do, file=str(path)))
    return content
