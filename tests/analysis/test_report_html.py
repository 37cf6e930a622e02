"""The page: self-contained and well-formed; every sample lies in the proved region; links lead somewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from xml.etree import ElementTree

import pytest

import rnnc
from rnnc.analysis.forms import Group
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.analysis.report_flow import flow_of
from rnnc.analysis.spectrum import spectrum_of
from rnnc.frontend.modules import stdlib_folder
from rnnc.ir.graph import CellIR
from rnnc.ir.types import Interval
from rnnc.verify.spectra import outside, sample_spectrum

PATHS = sorted(stdlib_folder().glob("*.rnn"))


def linear_groups(path) -> list[tuple[CellIR, Group]]:
    spec = rnnc.load(path)
    found = []
    for name in spec.cells:
        recurrence = analyse_recurrence(spec.lower(name))
        found += [(recurrence, g) for g in recurrence.groups if g.kind != "nonlinear" and g.semiring == "plus_times"]
    return found


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_samples_lie_in_the_proved_region(path):
    for recurrence, group in linear_groups(path):
        samples = sample_spectrum(recurrence.cell, group, weights=5, inputs=6)
        assert samples is not None
        assert samples.norms.size >= 20
        assert outside(samples, spectrum_of(recurrence, group)) == []


def test_a_wrong_region_is_seen():
    recurrence = analyse_recurrence(rnnc.stdlib("deltanet").lower("DeltaNet", reach=2))
    (group,) = recurrence.groups
    samples = sample_spectrum(recurrence.cell, group)
    spectrum = spectrum_of(recurrence, group)
    assert samples.eigenvalues.real.min() < -0.9
    assert outside(samples, spectrum) == []
    for wrong in (
        {"interval": Interval(lo=0, hi=1)},
        {"modulus": Interval(lo=0, hi=Fraction(9, 10))},
        {"norm": Interval(hi=Fraction(1, 2))},
    ):
        assert outside(samples, replace(spectrum, **wrong))


@pytest.fixture(scope="module", params=["deltanet:DeltaNet", "mlstm:mLSTM", "lru:LRU", "gru:GRU"])
def page(request) -> str:
    name, cell = request.param.split(":")
    return rnnc.analyze(rnnc.stdlib(name), cell).to_html()


def test_it_needs_nothing_else(page):
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "<script" not in page
    assert "contradicts" not in page


def test_links_lead_to_lines(page):
    targets = set(re.findall(r'href="#(\w+)"', page))
    assert targets
    assert targets <= set(re.findall(r'id="(\w+)"', page))


def test_drawings_are_xml(page):
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert drawings
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).find("title") is not None


def test_names_are_escaped():
    text = "cell C(d: dim) { input x: real[d]; state h: real[d] = 0; h <- x; output y: real[d] = h' } # <script>\"&"
    assert "&lt;script&gt;" in rnnc.analyze(rnnc.parse(text), "C").to_html()


def test_what_reads_what():
    recurrence = analyse_recurrence(rnnc.stdlib("mlstm").lower("mLSTM"))
    edges = {(e.source, e.target): e for e in flow_of(recurrence).edges}
    boxes = {b.name: b for b in flow_of(recurrence).boxes}
    assert boxes["group 0"].lines[0] == "m"
    assert [boxes[b].column for b in ("x", "group 0", "group 1", "group 2", "output y")] == [0, 1, 2, 2, 3]
    assert edges["group 0", "group 1"].label == "m′, m"
    assert edges["group 1", "output y"].label == "C′"
    assert not edges["group 1", "output y"].delayed
    assert ("group 1", "group 2") not in edges
