"""A trace file's text as numbered lines, with what is wrong said where it is wrong."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

from traces.errors import TraceError, quoted

MAX_FILE_BYTES = 256 * 2**20
"""Largest file that is read, unpacked; a trace of a day at one line a millisecond is a tenth of it."""
COMMENT = "#"

Line = tuple[int, str]
"""Line number, counted from 1, and the line without white space at its ends."""


def read_text(path: Path) -> str:
    """A file's text, unzipped where its name ends in `.gz`.

    Raises:
        TraceError: no such file, too large, or not text.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TraceError(str(path), f"cannot be read: {reason}", "give a trace file or a name of the library") from None
    if len(content) > MAX_FILE_BYTES:
        raise TraceError(str(path), f"is larger than {MAX_FILE_BYTES // 2**20} MiB", "cut it into parts")
    return decode(content, path.name)


def decode(content: bytes, name: str) -> str:
    """Bytes as text; TraceError with the line where they are not UTF-8 text."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TraceError(name, "is not UTF-8 text", "give a trace as text", line) from None
    if "\0" in text:
        raise TraceError(name, "is not text (holds zero bytes)", line=text.count("\n", 0, text.index("\0")) + 1)
    return text


def numbered(text: str) -> list[Line]:
    """The lines that hold something, comments left out."""
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line and not line.startswith(COMMENT)]


def notes(text: str) -> dict[str, str]:
    """The `# key=value` comments at the head of a file that this project wrote."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith(COMMENT):
            break
        key, equals, value = line[1:].strip().partition("=")
        if equals:
            found[key.strip()] = value.strip()
    return found


def number(text: str, name: str, line: int, what: str = "value") -> float:
    """One finite number of a line."""
    try:
        value = float(text)
    except ValueError:
        raise TraceError(name, f"{what} {quoted(text)} is not a number", line=line) from None
    if not math.isfinite(value):
        raise TraceError(name, f"{what} {quoted(text)} is not finite", line=line)
    return value


def is_number(text: str) -> bool:
    """Whether a word is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
