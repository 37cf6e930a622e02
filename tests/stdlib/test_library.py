"""The files of the standard library: headers, size, that they parse and check, and the templates."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import rnnc
from rnnc.stdlib import FOLDER, Entry, entries, path_of, tagger_source

WAVE_1 = """
    rnn lstm gru mingru minlstm lru s4d s5 retnet gla mamba mamba2 rglru hgrn hgrn2
    deltanet gated_deltanet deltaproduct mlstm slstm
"""
CELLS = [(entry.name, cell) for entry in entries() for cell in entry.cells]


def test_every_architecture_of_the_first_wave_is_there() -> None:
    assert set(WAVE_1.split()) <= {entry.name for entry in entries()}


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_a_file_has_a_header_and_fits_on_a_page(entry: Entry) -> None:
    assert ": " in entry.title
    assert entry.paper
    assert "<-" in entry.update
    assert entry.cells
    text = entry.path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    assert max(map(len, text.splitlines())) <= 120
    assert "expect {" in text


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.rnn")), ids=lambda path: path.stem)
def test_a_file_checks_clean(path: Path) -> None:
    diagnostics = rnnc.load(path).check()
    assert not diagnostics.items, [d.message for d in diagnostics.items]


@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_every_cell_lowers_with_its_defaults(name: str, cell: str) -> None:
    lowered = rnnc.stdlib(name).lower(cell)
    assert lowered.name == cell
    assert lowered.states
    assert lowered.outputs


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="gated_deltanet"):
        path_of("gru2")
    with pytest.raises(KeyError):
        path_of("std/gates")


@pytest.mark.parametrize("cell", ["GRU", "DeltaNet", "S4D", "Mamba", "sLSTM", "RetNet"])
def test_a_tagger_can_be_made_of_any_cell(cell: str) -> None:
    spec = rnnc.parse(tagger_source(cell))
    assert not spec.check().items
    model = spec.lower("Tagger")
    assert [output.name for output in model.outputs] == ["logits"]


def test_the_document_is_in_step_with_the_files() -> None:
    spec = importlib.util.spec_from_file_location("stdlib_doc_table", Path(__file__).parent / "doc_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.generated() in module.DOC.read_text(encoding="utf-8"), "run python tests/stdlib/doc_table.py"
