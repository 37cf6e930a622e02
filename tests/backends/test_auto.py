"""What `backend="auto"` means: C where it can be built and no accelerator is there, else PyTorch, with a word why."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator

import pytest
import torch

import rnnc
from rnnc.compile import _no_kernels, automatic, emit_source
from rnnc.diagnostics import SpecError
from rnnc.runtime import compiled

SPEC = "cell Leak(n: dim) { input x: real[n]; state h: real[n] = 0; h <- 0.5 * h + tanh(x); output y: real[n] = h' }"


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As for a user: nothing in the environment decides."""
    monkeypatch.delenv("RNNC_BACKEND", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda *_: False)
    _no_kernels.cache_clear()
    yield monkeypatch
    _no_kernels.cache_clear()


@pytest.fixture
def no_compiler(free: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    free.setenv("CC", "no-such-compiler-anywhere")
    compiled.compiler.cache_clear()
    compiled.load_library.cache_clear()
    yield free
    free.undo()
    compiled.compiler.cache_clear()
    compiled.load_library.cache_clear()


def test_kernels_are_taken_where_there_is_a_compiler(free: pytest.MonkeyPatch) -> None:
    assert automatic() == "cpu"
    layer = rnnc.compile(rnnc.parse(SPEC))
    assert layer.request.backend == "cpu"
    assert "a native kernel" in layer.__doc__
    x = torch.randn(3, 5, 7, requires_grad=True)
    by_torch = rnnc.compile(rnnc.parse(SPEC), backend="torch")(7)
    assert "native" not in type(by_torch).__doc__
    torch.testing.assert_close(layer(7)(x)[0], by_torch(x)[0], rtol=1e-5, atol=1e-6)


def test_a_text_stays_portable(free: pytest.MonkeyPatch) -> None:
    assert emit_source(rnnc.parse(SPEC)) == emit_source(rnnc.parse(SPEC), backend="torch")


def test_where_tensors_may_be_elsewhere_pytorch_runs_them(free: pytest.MonkeyPatch) -> None:
    free.setattr(torch.accelerator, "is_available", lambda *_: True)
    assert automatic() == "torch"


def test_without_a_compiler_a_word_and_pytorch(no_compiler: pytest.MonkeyPatch) -> None:
    with pytest.warns(RuntimeWarning, match=r"no-such-compiler-anywhere.*run by PyTorch instead"):
        layer = rnnc.compile(rnnc.parse(SPEC))
    assert layer.request.backend == "torch"
    layer(3)(torch.randn(1, 2, 3))


def test_a_compiler_that_fails_is_none(free: pytest.MonkeyPatch, tmp_path: object) -> None:
    def fail(source: str, double: bool, half: int = 0) -> None:
        raise compiled.NativeError("`cc` could not compile a kernel")

    free.setattr(compiled, "load_library", fail)
    with pytest.warns(RuntimeWarning, match="could not compile"):
        assert automatic() == "torch"


def test_what_was_chosen_is_chosen_again_on_another_machine(free: pytest.MonkeyPatch) -> None:
    kind = rnnc.compile(rnnc.parse(SPEC))
    layer = kind(4)
    text = pickle.dumps(layer)
    assert type(pickle.loads(text)) is kind
    asked = pickle.dumps(rnnc.compile(rnnc.parse(SPEC), backend="cpu"))
    free.setattr(torch.accelerator, "is_available", lambda *_: True)  # "another machine"
    there = pickle.loads(text)
    assert type(there).request.backend == "torch"
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(there(x)[0], layer(x)[0], rtol=1e-5, atol=1e-6)
    assert pickle.loads(asked).request.backend == "cpu"


def test_the_environment_decides(free: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("torch", "cpu"):
            free.setenv("RNNC_BACKEND", name)
            assert automatic() == name
    free.setenv("RNNC_BACKEND", "fast")
    with pytest.raises(SpecError, match="RNNC_BACKEND is `fast`"):
        automatic()
