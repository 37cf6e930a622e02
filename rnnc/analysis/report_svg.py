"""Drawings of a report as plain SVG: proved eigenvalue regions with samples in them, and what reads what.

Colours are CSS variables of the page (`--ink`, `--soft`, `--proved`, `--sample`, ...), so that a drawing follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil
from typing import TYPE_CHECKING

from rnnc.ir.types import Interval

if TYPE_CHECKING:
    from rnnc.analysis.report_flow import Box, Edge, Flow
    from rnnc.verify.spectra import Samples

Point = tuple[float, float]


def _tag(name: str, text: str = "", **attributes: object) -> str:
    inside = "".join(f' {k.rstrip("_").replace("_", "-")}="{_value(v)}"' for k, v in attributes.items())
    return f"<{name}{inside}>{text}</{name}>"


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else escape(str(value))


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    body = _tag("title", escape(title)) + "".join(parts)
    return _tag("svg", body, viewBox=f"0 0 {width:g} {height:g}", width=width, height=height, role="img")


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    return _tag("text", escape(text), x=x, y=y, text_anchor=anchor, class_=f"label {kind}".strip())


# ---------------------------------------------------------------- real eigenvalues


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """Numbers lo..hi at pixels left..right."""

    lo: float
    hi: float
    left: float
    right: float

    def at(self, value: float) -> float:
        share = (min(max(value, self.lo), self.hi) - self.lo) / (self.hi - self.lo)
        return self.left + share * (self.right - self.left)


LEAST, MOST = -1.5, 1.5  # what is always shown
FAR = 4.0  # beyond it, samples are counted and not drawn


def real_line(samples: Samples, region: Interval | None, width: int = 620) -> str:
    """Real eigenvalues: the proved interval as a band with its ends, a histogram of the samples over it."""
    values = [float(v) for v in samples.eigenvalues.real]
    near = [v for v in values if -FAR <= v <= FAR]
    ends = [float(e) for e in ((region.lo, region.hi) if region else ()) if e is not None and abs(e) <= FAR]
    shown = [*near, *ends]
    axis = _Axis(
        lo=min(LEAST, *(v - 0.3 for v in shown)) if shown else LEAST,
        hi=max(MOST, *(v + 0.3 for v in shown)) if shown else MOST,
        left=14,
        right=width - 14,
    )
    base = 122.0
    parts = [*_band(axis, region, base), *_bars(axis, near, base), *_scale(axis, base), *_ends(axis, region, base)]
    beyond = len(values) - len(near)
    if beyond:
        parts.append(_text(width - 14, 14, f"{beyond} samples beyond {FAR:g}", "end", "soft"))
    return _svg(width, 150, f"eigenvalues: {len(values)} samples in {region or 'no proved interval'}", parts)


def _band(axis: _Axis, region: Interval | None, base: float) -> list[str]:
    if region is None:
        return []
    left = axis.left if region.lo is None else axis.at(float(region.lo))
    right = axis.right if region.hi is None else axis.at(float(region.hi))
    return [_tag("rect", x=left, y=22.0, width=max(right - left, 2.0), height=base - 22, class_="proved")]


def _bars(axis: _Axis, values: Sequence[float], base: float) -> list[str]:
    """Heights are roots of counts: one sample stays visible beside a thousand."""
    count = int((axis.right - axis.left) / 5)
    bins: dict[int, int] = {}
    for v in values:
        at = min(int((axis.at(v) - axis.left) / 5), count - 1)
        bins[at] = bins.get(at, 0) + 1
    most = max(bins.values(), default=1)
    return [
        _tag(
            "rect",
            x=axis.left + 5 * i + 0.5,
            y=base - 2 - 88 * (n / most) ** 0.5,
            width=4.0,
            height=2 + 88 * (n / most) ** 0.5,
            class_="sample",
        )
        for i, n in sorted(bins.items())
    ]


def _scale(axis: _Axis, base: float) -> list[str]:
    parts = [_tag("line", x1=axis.left, x2=axis.right, y1=base, y2=base, class_="axis")]
    for v in range(ceil(axis.lo), int(axis.hi) + 1):
        x = axis.at(v)
        parts.append(_tag("line", x1=x, x2=x, y1=base, y2=base + 5, class_="axis"))
        parts.append(_text(x, base + 20, f"{v}".replace("-", "−"), kind="soft"))
    return parts


def _ends(axis: _Axis, region: Interval | None, base: float) -> list[str]:
    """A filled dot where the end belongs to the interval, a hollow one where it does not."""
    if region is None:
        return []
    parts = []
    for end, is_open in ((region.lo, region.lo_open), (region.hi, region.hi_open)):
        if end is not None:
            kind = "end open" if is_open else "end"
            parts.append(_tag("circle", cx=axis.at(float(end)), cy=base, r=5.0, class_=kind))
    return parts


# ---------------------------------------------------------------- complex eigenvalues


def complex_plane(samples: Samples, modulus: Interval | None, size: int = 330) -> str:
    """Eigenvalues in the plane: the proved moduli as a ring, the unit circle dashed."""
    values = [complex(v) for v in samples.eigenvalues if abs(v) <= FAR]
    reach = max([1.25, *(1.1 * abs(v) for v in values)])
    centre = size / 2
    unit = (centre - 8) / reach
    parts = [_tag("rect", x=0.0, y=0.0, width=size, height=size, fill="none"), *_ring(modulus, centre, unit, reach)]
    parts += [
        _tag("line", x1=8.0, x2=size - 8.0, y1=centre, y2=centre, class_="axis"),
        _tag("line", x1=centre, x2=centre, y1=8.0, y2=size - 8.0, class_="axis"),
        _tag("circle", cx=centre, cy=centre, r=unit, class_="unit"),
        _text(centre + unit + 5, centre + 14, "1", "start", "soft"),
        _text(centre - unit - 5, centre + 14, "−1", "end", "soft"),
    ]
    parts += [
        _tag("circle", cx=centre + unit * v.real, cy=centre - unit * v.imag, r=1.9, class_="dot")
        for v in _thinned(values)
    ]
    return _svg(size, size, f"eigenvalues in the plane: {len(values)} samples", parts)


def _thinned(values: Sequence[complex]) -> list[complex]:
    """One of those that would be drawn at one place."""
    return list({(round(v.real, 2), round(v.imag, 2)): v for v in values}.values())


def _ring(modulus: Interval | None, centre: float, unit: float, reach: float) -> list[str]:
    if modulus is None:
        return []
    outer = unit * (1.5 * reach if modulus.hi is None else float(modulus.hi))
    inner = 0.0 if modulus.lo is None else unit * float(modulus.lo)
    parts = [_tag("circle", cx=centre, cy=centre, r=max(outer, 1.0), class_="proved")]
    if inner > 0 and inner < outer:
        parts.append(_tag("circle", cx=centre, cy=centre, r=inner, class_="hole"))
    if inner == outer:
        parts = [_tag("circle", cx=centre, cy=centre, r=outer, class_="circle")]
    return parts


# ---------------------------------------------------------------- what reads what

GAP, ROW, MARGIN, LETTER = 105.0, 78.0, 20.0, 6.7  # pixels; LETTER is the width of one character


def flow_graph(flow: Flow) -> str:
    """Inputs on the left, groups of states in the order they run, outputs on the right."""
    columns: dict[int, list[Box]] = {}
    for box in flow.boxes:
        columns.setdefault(box.column, []).append(box)
    tallest = max(len(boxes) for boxes in columns.values())
    place: dict[str, _Place] = {}
    x = MARGIN
    for column in sorted(columns):
        boxes = columns[column]
        width = max([90.0, *(24 + LETTER * len(line) for box in boxes for line in box.lines)])
        first = MARGIN + 26 + (tallest - len(boxes)) * ROW / 2
        for i, box in enumerate(boxes):
            at = _Place(x=x, y=first + i * ROW, width=width, height=20.0 + 17 * len(box.lines), column=column)
            place[box.name] = at
        x += width + GAP
    lowest = max(p.y + p.height for p in place.values())
    detours = sorted({(e.source, e.target) for e in flow.edges if place[e.target].column > place[e.source].column + 1})
    lanes = {pair: lowest + 18 + 16 * i for i, pair in enumerate(detours)}
    height = max([lowest, *lanes.values()]) + MARGIN
    parts = [_MARKER, *(_edge(e, place, lanes.get((e.source, e.target))) for e in flow.edges)]
    parts += [_box(box, place[box.name]) for box in flow.boxes]
    return _svg(x - GAP + MARGIN, height, "what reads what", parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    x: float
    y: float
    width: float
    height: float
    column: int


def _box(box: Box, at: _Place) -> str:
    drawn = _tag("rect", x=at.x, y=at.y, width=at.width, height=at.height, rx=7, class_=f"box {box.kind}")
    lines = [
        _text(at.x + at.width / 2, at.y + 20 + 17 * i, line, kind="strong" if i == 0 else "soft")
        for i, line in enumerate(box.lines)
    ]
    content = drawn + "".join(lines)
    return _tag("a", content, href=f"#L{box.line}") if box.line else content


_MARKER = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
)


def _edge(edge: Edge, place: Mapping[str, _Place], lane: float | None) -> str:
    """An arrow; `lane` is the height at which it passes below the columns between."""
    kind = "edge dashed" if edge.delayed else "edge"
    a, b = place[edge.source], place[edge.target]
    if edge.source == edge.target:
        middle = a.x + a.width / 2
        points = ((middle + 24, a.y), (middle + 36, a.y - 30), (middle - 36, a.y - 30), (middle - 24, a.y - 2))
        return _curve(kind, points) + _text(middle, a.y - 27, edge.label, kind="soft halo")
    start, end = (a.x + a.width, a.y + a.height / 2), (b.x - 3, b.y + b.height / 2)
    if lane is not None:
        left, right = (start[0] + GAP, lane), (end[0] - GAP, lane)
        turn = GAP / 2
        drawn = _tag(
            "path",
            d=f"M{_xy(start)}C{_xy((start[0] + turn, start[1]))} {_xy((left[0] - turn, lane))} {_xy(left)}L{_xy(right)}"
            f"C{_xy((right[0] + turn, lane))} {_xy((end[0] - turn, end[1]))} {_xy(end)}",
            class_=kind,
            marker_end="url(#tip)",
        )
        return drawn + _text((left[0] + right[0]) / 2, lane - 4, edge.label, kind="soft halo")
    bend = (end[0] - start[0]) / 2
    drawn = _curve(kind, (start, (start[0] + bend, start[1]), (end[0] - bend, end[1]), end))
    where = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - 5)
    return drawn + _text(*where, edge.label, kind="soft halo")


def _curve(kind: str, points: tuple[Point, Point, Point, Point]) -> str:
    a, b, c, d = map(_xy, points)
    return _tag("path", d=f"M{a}C{b} {c} {d}", class_=kind, marker_end="url(#tip)")


def _xy(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
