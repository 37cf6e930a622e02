"""Trouble with compiler, cache and disk as a user meets it: whole processes that compile a spec and run a layer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rnnc.runtime import compiled

pytestmark = [
    pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="limits of files, /proc"),
]

SPEC = "cell Leak(n: dim) {\\n  input x: real[n]\\n  state h: real[n] = 0\\n  h <- 0.5 * h + x\\n  output y = h'\\n}"
LAYER = f"""
import resource, sys, warnings
import torch
import rnnc

def run():
    layer = rnnc.compile(rnnc.parse("{SPEC}"), backend="cpu")(n=3)
    y, _ = layer(torch.ones(1, 4, 3))
    assert torch.equal(y[0, :, 0], torch.tensor([1.0, 1.5, 1.75, 1.875])), y
    print("kernel" if "Native(" in type(layer).source else "torch")
"""


def start(body: str, tmp: Path, within: str = "", **environment: str) -> subprocess.Popen[str]:
    """A process; `within` are commands of a shell that go before it, in file systems of its own."""
    (tmp / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-c", LAYER + textwrap.dedent(body)]
    if within:
        command = ["unshare", "-rm", "sh", "-ec", f'{within}\nexec "$@"', "sh", *command]
    settings = {**os.environ, "RNNC_CACHE": str(tmp / "cache"), "TMPDIR": str(tmp / "tmp"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        env=settings | environment,
        cwd=tmp,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out.strip(), errors


@pytest.mark.slow
def test_two_processes_at_once_and_a_third(tmp_path: Path) -> None:
    """On an empty cache both build or one waits for nothing: all have the same numbers, the third builds nothing."""
    both = [start("run()", tmp_path) for _ in range(2)]
    assert [finish(p)[0] for p in both] == ["kernel", "kernel"]
    third = start("from rnnc.runtime import compiled\ncompiled._compile = None\nrun()", tmp_path)
    assert finish(third)[0] == "kernel"
    assert not list((tmp_path / "tmp").iterdir())


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """The kernel is built for the process alone, and is gone with it."""
    assert finish(start("run()", tmp_path, RNNC_CACHE="/proc/rnnc"))[0] == "kernel"
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("room", [pytest.param(0, marks=pytest.mark.slow), 20_000])
def test_a_full_disk(tmp_path: Path, room: int) -> None:
    """No room for the source, or for what the compiler makes of it: the message says what to set."""
    body = f"""
        resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
        try:
            run()
        except rnnc.runtime.compiled.NativeError as problem:
            assert "set RNNC_CACHE or TMPDIR to a folder with space" in str(problem), problem
            print("refused")
    """
    body = "import rnnc.runtime.compiled\n" + textwrap.dedent(body)
    assert finish(start(body, tmp_path))[0] == "refused"
    assert not list((tmp_path / "cache" / "native").iterdir())


REFUSED = """
    try:
        run()
    except rnnc.runtime.compiled.NativeError as problem:
        assert {words!r} in str(problem), problem
        print("refused")
"""


def mounts() -> bool:
    """Whether a process may have file systems of its own here."""
    found = shutil.which("unshare") and subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    return bool(found) and found.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not mounts(), reason="needs mounts of its own")
def test_disks_that_are_full_or_read_only(tmp_path: Path) -> None:
    """Real ones: a full cache, or one that cannot be written, costs the cache; without any room there is a message."""
    for name in ("cache", "tmp"):
        (tmp_path / name).mkdir()
    full = f"mount -t tmpfs -o size=40k tmpfs {tmp_path}/"
    assert finish(start("run()", tmp_path, within=f"{full}cache"))[0] == "kernel"
    fixed = f"mount -t tmpfs tmpfs {tmp_path}/cache; mount -o remount,ro {tmp_path}/cache"
    assert finish(start("run()", tmp_path, within=fixed))[0] == "kernel"
    body = "import rnnc.runtime.compiled\n" + textwrap.dedent(REFUSED.format(words="set RNNC_CACHE or TMPDIR"))
    assert finish(start(body, tmp_path, within=f"{full}cache\n{full}tmp"))[0] == "refused"
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
def test_a_poisoned_cache(tmp_path: Path) -> None:
    """A sound library of somebody else's in the place of ours is not run: the next process builds its own."""
    assert finish(start("run()", tmp_path))[0] == "kernel"
    (library,) = (tmp_path / "cache" / "native").glob("*.so")
    evil = tmp_path / "evil.c"
    evil.write_text("__attribute__((constructor)) static void run(void) { __builtin_trap(); }\n")
    harms = [lambda: subprocess.run(["cc", "-shared", "-fPIC", evil, "-o", library], check=True)]
    if os.getuid() == 0:
        harms.append(lambda: os.chown(library, 12345, 12345))
    for harm in harms:
        harm()
        assert finish(start("run()", tmp_path))[0] == "kernel"
    third = start("from rnnc.runtime import compiled\ncompiled._compile = None\nrun()", tmp_path)
    assert finish(third)[0] == "kernel"


@pytest.mark.slow
def test_a_compiler_that_is_killed(tmp_path: Path) -> None:
    """As where memory runs out: the message says so, nothing stays, and the next process builds."""
    dying = tmp_path / "dyingcc"
    dying.write_text('#!/bin/sh\ncase "$1" in --version) exec cc --version;; esac\nkill -9 $$\n')
    dying.chmod(0o755)
    body = "import rnnc.runtime.compiled\n" + textwrap.dedent(REFUSED.format(words="was killed (SIGKILL)"))
    assert finish(start(body, tmp_path, CC=str(dying)))[0] == "refused"
    assert not list((tmp_path / "cache" / "native").iterdir())
    assert finish(start("run()", tmp_path))[0] == "kernel"


@pytest.mark.slow
def test_no_compiler(tmp_path: Path) -> None:
    """A warning, and the torch backend; a module that was emitted before says what to do."""
    out, errors = finish(start("run()", tmp_path, CC="/no/such/compiler"))
    assert out == "torch"
    assert "no C compiler" in errors
    emit = f'open("leak.py", "w").write(rnnc.compile(rnnc.parse("{SPEC}"), backend="cpu").source)'
    finish(start(emit, tmp_path))
    body = """
        sys.path.insert(0, "")
        import leak
        try:
            leak.Leak(n=3)(torch.ones(1, 4, 3))
        except RuntimeError as problem:
            assert "CC" in str(problem) and 'backend="torch"' in str(problem), problem
            print("refused")
    """
    assert finish(start(body, tmp_path, CC="/no/such/compiler"))[0] == "refused"


def test_killed_while_it_compiles(tmp_path: Path) -> None:
    """The process and its compiler die in the middle; the next one builds in peace and finds nothing half done."""
    slow = tmp_path / "slowcc"
    slow.write_text('#!/bin/sh\ncase "$1" in --version) exec cc --version;; esac\necho begun > "$0.begun"\nsleep 60\n')
    slow.chmod(0o755)
    process = start("run()", tmp_path, CC=str(slow))
    until = time.monotonic() + 60
    while not Path(f"{slow}.begun").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert finish(start("run()", tmp_path))[0] == "kernel"
