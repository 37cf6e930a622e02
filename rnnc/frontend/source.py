"""The text of a spec from a file or from bytes, or the diagnostic that says why there is none."""

from __future__ import annotations

from pathlib import Path

from rnnc.diagnostics import Diagnostics
from rnnc.frontend.tokens import MAX_CHARACTERS

MAX_BYTES = 4 * MAX_CHARACTERS + 1


def read_source(path: str | Path) -> tuple[str | None, Diagnostics]:
    """The text of a spec file, or None with the diagnostic that says why it cannot be read."""
    diagnostics = Diagnostics()
    file = Path(path)
    try:
        problem = _unreadable(file)
        if problem:
            diagnostics.error("E0401", f"`{path}` {problem}", None)
            return None, diagnostics
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        diagnostics.error("E0401", f"`{path}` cannot be read: {reason}", None)
        return None, diagnostics
    return decode_source(data, str(path))


def _unreadable(file: Path) -> str:
    """Why there is nothing to read at a path; empty where there is a file."""
    if file.is_file():
        return ""
    if file.is_dir():
        return "is a folder, not a spec"
    if file.is_symlink():
        return "is a link that leads nowhere"
    return "is no regular file" if file.exists() else "does not exist"


def decode_source(data: bytes, name: str) -> tuple[str | None, Diagnostics]:
    """The text of a spec from its bytes; line ends become `\\n` (positions count a `\\r\\n` as one character)."""
    diagnostics = Diagnostics()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"`{name}` is not UTF-8 text: byte {error.start} (line {line}) does not decode"
        diagnostics.error("E0106", message, None, help="save the file as UTF-8")
        return None, diagnostics
    return text.replace("\r\n", "\n").replace("\r", "\n"), diagnostics
