"""C source to a loaded library: compiled once by the system's compiler, cached by content.

A library's name in the cache is the hash of its own bytes; an entry, whose name is the hash of everything that went
into the build (source, flags, compiler, processor), says which one belongs to it.  Both are written beside their place
and renamed into it, so that processes that build the same thing at once do not disturb each other, and a build that is
killed leaves nothing that is used.  What is not this user's own, or has not the bytes it should have, is built anew.

    RNNC_CACHE   where the cache is (else XDG_CACHE_HOME/rnnc, else ~/.cache/rnnc)
    CC           the compiler (else cc, gcc or clang, whichever is found first)
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["NativeError", "cache_folder", "compiler", "header", "load_library", "own_path"]

FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-fno-math-errno", "-w")
CHOICES = (("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())  # the first that the compiler takes
SECONDS = 300  # of one compilation
DISK = {  # what a compiler says where the disk is at fault, not the source
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Read-only file system": errno.EROFS,
}


class NativeError(RuntimeError):
    """A kernel cannot be built here; the message says why, and what to do."""


def header() -> str:
    """The C that every kernel includes."""
    return Path(__file__).with_name("vector_math.h").read_text()


@cache
def compiler() -> tuple[str, ...] | None:
    """The C compiler's command, or None where there is none."""
    named = os.environ.get("CC", "").strip()
    if named:
        words = shlex.split(named)
        return tuple(words) if shutil.which(words[0]) else None
    found = (shutil.which(name) for name in ("cc", "gcc", "clang"))
    return next(((path,) for path in found if path), None)


@cache
def load_library(source: str, double: bool, half: int = 0) -> ctypes.CDLL:
    """The library made of `source` (which does not include the header) for float64 or float32; with long arrays in
    bfloat16 (`half` 1) or float16 (2).  Raises NativeError.
    """
    command = compiler()
    if command is None:
        asked = os.environ.get("CC", "").strip()
        raise NativeError(
            (f"the C compiler `{asked}` (from CC) is not there" if asked else "no C compiler found (cc, gcc or clang)")
            + ': install one or set CC, or compile the spec with backend="torch", which needs none'
        )
    text = header() + "\n" + source
    options = ("-DRNNC_F64",) if double else (f"-DRNNC_E={half}",) if half else ()
    key = _digest("\n".join([text, *FLAGS, *options, *map(str, CHOICES), _version(command), _processor()]).encode())
    folder = cache_folder("native")
    if folder is not None:
        path = _cached(folder, key)
        if path is not None:
            return ctypes.CDLL(str(path))
    return ctypes.CDLL(str(_build(command, text, options, folder, key)))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def _version(command: tuple[str, ...]) -> str:
    found = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return found.stdout


@cache
def _processor() -> str:
    """What `-march=native` depends on: a cache may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


# ---------------------------------------------------------------- the cache


def cache_folder(part: str) -> Path | None:
    """The cache's folder for one kind of thing, made where it is missing; None where there is none that only this user
    can write.
    """
    named = os.environ.get("RNNC_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(named) if named else Path(base) / "rnnc"
    folder = folder / part
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if own_path(folder, stat.S_ISDIR) else None
    except OSError:
        return None


def own_path(path: Path, kind: object) -> bool:
    """Whether a path is of that kind, this user's, and nobody else's to write; links are neither."""
    found = path.lstat()
    same = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return kind(found.st_mode) and same and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)  # type: ignore[operator,no-any-return]


def _cached(folder: Path, key: str) -> Path | None:
    """The library of an entry, if both are sound."""
    try:
        entry = folder / key
        if not own_path(entry, stat.S_ISREG):
            return None
        name = entry.read_text()
        path = folder / f"{name}.so"
        if len(name) == 64 and name.isalnum() and own_path(path, stat.S_ISREG) and _digest(path.read_bytes()) == name:
            return path
    except (OSError, UnicodeDecodeError):
        return None
    return None


def _build(command: tuple[str, ...], text: str, options: tuple[str, ...], folder: Path | None, key: str) -> Path:
    """Compile, and put the result into the cache where that can be written; else into a folder of this process."""
    if folder is not None:
        try:
            with tempfile.TemporaryDirectory(dir=folder) as work:
                built = _compile(command, text, options, Path(work))
                name = _digest(built.read_bytes())
                built.chmod(0o700)
                os.replace(built, folder / f"{name}.so")
                entry = Path(work) / key
                entry.write_text(name)
                os.replace(entry, folder / key)
            return folder / f"{name}.so"
        except OSError:  # read-only, full, ...: the cache is a convenience
            pass
    try:
        return _compile(command, text, options, _private_folder())
    except OSError as problem:
        raise NativeError(
            f"a kernel cannot be written to the disk: {problem}; set RNNC_CACHE or TMPDIR to a folder with space"
        ) from problem


@cache
def _private_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="rnnc-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


# ---------------------------------------------------------------- the compiler


def _compile(command: tuple[str, ...], text: str, options: tuple[str, ...], work: Path) -> Path:
    """The library, in the folder `work`.  Raises NativeError where the compiler fails, OSError where the disk does."""
    name = _digest(text.encode() + repr(options).encode())[:16]
    source, built = work / f"{name}.c", work / f"{name}.so"
    source.write_text(text)
    message = ""
    for choice in CHOICES:
        try:
            done = subprocess.run(
                [*command, *FLAGS, *choice, *options, str(source), "-o", str(built), "-lm"],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as problem:
            raise NativeError(f"`{command[0]}` took over {SECONDS} seconds for a kernel and was stopped") from problem
        if done.returncode < 0:
            with contextlib.suppress(OSError):
                built.unlink()
            killed = signal.Signals(-done.returncode).name
            raise NativeError(f"`{command[0]}` was killed ({killed}) while it compiled a kernel: try again")
        if done.returncode == 0 and built.exists():
            return built
        message = message or done.stderr
        found = next((words for words in DISK if words in done.stderr), None)
        if found is not None:
            raise OSError(DISK[found], found)
    raise NativeError(f"`{command[0]}` could not compile a kernel:\n{message[:2000]}")
