"""The student's own record of what is done: one small JSON file beside the notebooks.

It is a note to oneself, never sent anywhere; to delete it loses nothing that
``deploylab check`` cannot find out again.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMAT = 1
FILE = "progress.json"
#: Environment variable: another path, or "off".
VARIABLE = "DEPLOYLAB_PROGRESS"


def path() -> Path | None:
    """Where the record is kept; None if it is off.

    The nearest folder, from the current one upwards, that holds a record or the
    notebooks' index; else the current one.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        return None if wanted == "off" else Path(wanted)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file() or (folder / "index.ipynb").is_file():
            return folder / FILE
    return here / FILE


def read(file: Path | None) -> tuple[dict[str, dict[str, Any]], str]:
    """The record by exercise, and a remark if the file had to be set aside."""
    if file is None or not file.exists():
        return {}, ""
    try:
        content = json.loads(file.read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']!r}")
        record = content["exercises"]
        if not all(isinstance(r["status"], str) for r in record.values()):
            raise ValueError("a status is missing")
        return record, ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        aside = _free_name(file)
        file.rename(aside)
        return {}, (
            f"`{file.name}` could not be read ({type(error).__name__}: {error}). It is "
            f"kept as `{aside.name}`, and a new record begins; `deploylab check` fills "
            "it from your notebooks."
        )


def write(file: Path | None, name: str, entry: dict[str, Any]) -> str:
    """Enter one exercise; return a remark, or "" if there is nothing to say.

    Keys that the entry does not name keep their values. A full or read-only disk is
    a remark and not an error.
    """
    if file is None:
        return ""
    try:
        with _locked(file):
            record, remark = read(file)
            record[name] = record.get(name, {}) | entry
            _replace(file, {"format": FORMAT, "exercises": record})
            return remark
    except OSError as error:
        return (
            f"Your progress could not be written to `{file}` ({error.strerror}). The "
            "answer above holds all the same."
        )


def _replace(file: Path, content: dict[str, Any]) -> None:
    """Write beside, then rename: a reader never meets half a file."""
    fd, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(fd, "w") as stream:
            json.dump(content, stream, indent=1)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One writer at a time, over all open notebooks."""
    fd = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _free_name(file: Path) -> Path:
    number = 1
    while (aside := file.with_name(f"progress-set-aside-{number}.json")).exists():
        number += 1
    return aside
