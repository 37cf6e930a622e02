"""The compiler's cache: what is sound is used, everything else is built anew, and trouble has a clear message."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rnnc.runtime import compiled
from rnnc.runtime.compiled import NativeError

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")

SOURCE = "int answer(void) { return 42; }\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and nothing remembered from other tests."""
    monkeypatch.setenv("RNNC_CACHE", str(tmp_path / "cache"))
    for function in (compiled.compiler, compiled.load_library, compiled._private_folder, compiled._version):
        function.cache_clear()
    return tmp_path / "cache" / "native"


def answer(source: str = SOURCE) -> int:
    compiled.load_library.cache_clear()
    return int(compiled.load_library(source, False).answer())


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders in which something is compiled from now on."""
    found: list[Path] = []
    real = compiled._compile

    def counted(command: tuple[str, ...], text: str, options: tuple[str, ...], work: Path) -> Path:
        found.append(work)
        return real(command, text, options, work)

    monkeypatch.setattr(compiled, "_compile", counted)
    return found


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "fakecc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    found = sorted(p for p in folder.iterdir())
    return [p for p in found if p.suffix == ".so"], [p for p in found if p.suffix != ".so"]


def test_a_second_process_builds_nothing(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer() == 42
    builds = count_builds(monkeypatch)
    assert answer() == 42
    assert not builds
    libraries, others = entries(fresh)
    assert len(libraries) == len(others) == 1  # nothing temporary stays
    assert answer("int answer(void) { return 43; }") == 43
    assert len(builds) == 1


@pytest.mark.parametrize("harm", ["bytes", "truncated", "entry", "other_name", "link", "writable", "missing"])
def test_what_is_not_sound_is_built_anew(fresh: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    assert answer() == 42
    (library,), (entry,) = entries(fresh)
    evil, data = fresh.parent / "evil.so", library.read_bytes()
    if harm in ("bytes", "truncated"):
        library.unlink()  # this process has the file in its memory
    match harm:
        case "bytes":
            library.write_bytes(data[:-1] + b"x")
        case "truncated":
            library.write_bytes(data[:100])
        case "entry":
            entry.write_bytes(b"\xff\xfe")
        case "other_name":
            entry.write_text("../" + "a" * 61)
        case "link":
            shutil.copy(library, evil)
            library.unlink()
            library.symlink_to(evil)
        case "writable":
            library.chmod(0o777)
        case "missing":
            library.unlink()
    builds = count_builds(monkeypatch)
    assert answer() == 42
    assert len(builds) == 1
    assert answer() == 42
    assert len(builds) == 1  # and the cache is sound again


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_may_write_is_not_used(fresh: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    assert answer() == 42
    fresh.chmod(mode)
    builds = count_builds(monkeypatch)
    assert answer() == 42
    assert builds
    assert all(fresh not in (b, *b.parents) for b in builds)
    assert stat.S_IMODE(builds[0].stat().st_mode) == 0o700


def test_a_foreign_folder_is_not_used(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer() == 42
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    builds = count_builds(monkeypatch)
    assert answer() == 42
    assert builds
    assert all(fresh not in (b, *b.parents) for b in builds)


def test_a_cache_that_cannot_be_made_or_written(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file in the way, and a disk that takes nothing: the kernel is built for this process alone."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RNNC_CACHE", str(tmp_path / "file"))
    assert answer() == 42
    monkeypatch.setenv("RNNC_CACHE", str(fresh.parent))
    real = compiled.tempfile.TemporaryDirectory

    def refused(*args: object, **options: object) -> object:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(compiled.tempfile, "TemporaryDirectory", refused)
    assert answer() == 42
    monkeypatch.setattr(compiled.tempfile, "TemporaryDirectory", real)
    assert not list(fresh.iterdir())


def test_a_full_disk_has_a_clear_message(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = 'case "$1" in --version) echo 1;; *) echo "fatal error: No space left on device" >&2; exit 1;; esac'
    monkeypatch.setenv("CC", fake_compiler(tmp_path, script))
    with pytest.raises(NativeError, match=r"No space left on device.*RNNC_CACHE or TMPDIR"):
        answer()
    assert not list(fresh.iterdir())


def test_a_killed_compiler_leaves_nothing_behind(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The compiler dies after it has written half of its output."""
    script = (
        'case "$1" in --version) echo 1; exit;; esac\n'
        'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo half > "$2"; shift; done; kill -9 $$'
    )
    monkeypatch.setenv("CC", fake_compiler(tmp_path, script))
    with pytest.raises(NativeError, match="was killed \\(SIGKILL\\)"):
        answer()
    assert not list(fresh.iterdir())
    monkeypatch.delenv("CC")
    compiled.compiler.cache_clear()
    assert answer() == 42


@pytest.mark.parametrize(("cc", "message"), [("no-such-compiler", "`no-such-compiler` \\(from CC\\)"), ("", "cc, gcc")])
def test_no_compiler_has_a_clear_message(monkeypatch: pytest.MonkeyPatch, cc: str, message: str) -> None:
    monkeypatch.setenv("CC", cc)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NativeError, match=f'{message}.*backend="torch"'):
        answer()


def test_a_mistake_in_the_source_shows_the_compiler_s_words() -> None:
    with pytest.raises(NativeError, match=r"(?s)could not compile a kernel.*error"):
        answer("int answer(void) { return nothing; }")


def test_processes_that_build_at_once(fresh: Path) -> None:
    script = textwrap.dedent(f"""
        from rnnc.runtime.compiled import load_library
        assert load_library({SOURCE!r}, False).answer() == 42
    """)
    runs = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for _ in range(3)]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    assert answer() == 42
    libraries, others = entries(fresh)
    assert len(others) == 1
    assert libraries


def test_a_process_killed_while_it_builds(fresh: Path, tmp_path: Path) -> None:
    """What it leaves is not used, and the next process builds in peace."""
    slow = fake_compiler(tmp_path, 'case "$1" in --version) echo 1; exit;; esac; sleep 60')
    script = f"from rnnc.runtime.compiled import load_library; load_library({SOURCE!r}, False)"
    run = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "CC": slow}, start_new_session=True)
    while not (fresh.exists() and list(fresh.iterdir())):
        assert run.poll() is None
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert answer() == 42


def test_precision_is_part_of_the_name() -> None:
    source = "int answer(void) { return sizeof(T); }"
    assert answer(source) == 4
    assert isinstance(compiled.load_library(source, True), ctypes.CDLL)
    assert compiled.load_library(source, True).answer() == 8
