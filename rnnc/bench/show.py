"""A measurement as a table and as a picture."""

from __future__ import annotations

from html import escape
from pathlib import Path

from rnnc.bench.run import DIRECTIONS, Result, Row

BAR, LEFT, WIDTH, ROW = 420, 260, 900, 22  # of the picture, in pixels
COLOURS = {"strategy": "#3b6ea5", "loop": "#9aa0a6", "peer": "#c0762f"}


def table(result: Result) -> str:
    """The rows as text: medians with quartiles, the ratio to the first row, and the part of the limit reached."""
    sizes = ", ".join(f"{k} = {v}" for k, v in result.sizes.items())
    machine = result.machine
    lines = [
        f"{result.cell}: {sizes}",
        f"{machine['cpu']}, {machine['threads']} threads, load {machine['load_before']}",
    ]
    for direction in DIRECTIONS:
        limit = f"{result.bound_ms[direction]:.3g} ms, set by {result.set_by[direction]}"
        lines += ["", f"{direction} (the machine allows {limit})"]
        width = max(len(r.name) for r in result.rows) + 2
        for r in sorted(timed(result, direction), key=lambda r: r.timings[direction].median_ms):
            lines.append(f"  {'*' if r.chosen else ' '} {r.name:{width}s} {_figures(r, direction)}")
    lines += ["", *(f"* {w}" for w in result.why), f'backend="auto" is {result.automatic} here', *_faster(result)]
    lines += [f"left out: {name}: {why}" for name, why in result.left_out]
    return "\n".join(lines)


def timed(result: Result, direction: str) -> list[Row]:
    """Those that were measured in a direction: what has no backward is timed forward only."""
    return [r for r in result.rows if direction in r.timings]


WORTH = 1.2  # from how much faster another backend is named


def _faster(result: Result) -> list[str]:
    """How to compile, where something else than what `backend="auto"` takes is faster forward and backward."""
    both = DIRECTIONS[1]
    own = next((r for r in result.rows if r.name == f"{result.automatic}: auto"), None)
    rows = [r for r in result.rows if r.kind == "strategy"]
    fastest = min(rows, key=lambda r: r.timings[both].median_ms, default=None)
    if own is None or fastest is None:
        return []
    ratio = own.timings[both].median_ms / fastest.timings[both].median_ms
    backend, _, strategy = fastest.name.partition(": ")
    if ratio < WORTH:
        return []
    how = f'backend="{backend}"' + ("" if strategy == "auto" else f', strategy="{strategy}"')
    return [f"faster here: {fastest.name}, {ratio:.3g} times forward + backward: compile with {how}"]


def _figures(r: Row, direction: str) -> str:
    t = r.timings[direction]
    low, high = t.quartiles_ms
    fast, slow = t.speedup_quartiles
    ratio = f"x{t.speedup:<7.3g} [{fast:.3g}, {slow:.3g}]"
    spread = f"[{low:.3f}, {high:.3f}]"
    return f"{t.median_ms:9.3f} ms {spread:20s} {ratio:26s} {100 * r.roofline[direction]:5.1f} % of the limit"


def plot(result: Result, where: Path) -> None:
    """A bar for each competitor and direction; `.svg` needs nothing, any other suffix matplotlib."""
    where.parent.mkdir(parents=True, exist_ok=True)
    if where.suffix == ".svg":
        where.write_text(svg(result), encoding="utf-8")
        return
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(14, 1.5 + 0.35 * len(result.rows)), layout="constrained")
    for axis, direction in zip(axes, DIRECTIONS, strict=True):
        rows = list(reversed(timed(result, direction)))
        times = [r.timings[direction] for r in rows]
        spread = [
            [t.median_ms - t.quartiles_ms[0] for t in times],
            [t.quartiles_ms[1] - t.median_ms for t in times],
        ]
        colours = [COLOURS[r.kind] for r in rows]
        axis.barh([r.name for r in rows], [t.median_ms for t in times], xerr=spread, color=colours)
        axis.axvline(result.bound_ms[direction], color="black", linestyle=":")
        axis.set_xscale("log")
        axis.set_xlabel("ms (dotted: what the machine allows)")
        axis.set_title(direction)
    figure.suptitle(_title(result))
    figure.savefig(where, dpi=150)
    plt.close(figure)


def _title(result: Result) -> str:
    return f"{result.cell}: {', '.join(f'{k} = {v}' for k, v in result.sizes.items())}"


def svg(result: Result) -> str:
    """The picture without any library: bars on a logarithmic scale, lines for the quartiles and the limit."""
    height = 60 + sum(40 + ROW * len(timed(result, d)) for d in DIRECTIONS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13"><rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="24" font-size="15">{escape(_title(result))}</text>',
    ]
    y = 50
    for direction in DIRECTIONS:
        parts.append(f'<text x="10" y="{y + 4}" font-weight="bold">{direction}</text>')
        y += 14
        rows = timed(result, direction)
        times = [t for r in rows for t in (r.timings[direction].fastest_ms, *r.timings[direction].quartiles_ms)]
        scale = _Scale(min([*times, result.bound_ms[direction]]), max(times))
        for r in rows:
            parts += _bar(r, direction, y, scale)
            y += ROW
        x = scale.x(result.bound_ms[direction])
        top = y - ROW * len(rows)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{y}" stroke="black" stroke-dasharray="2 3"/>')
        y += 26
    parts.append(f'<text x="10" y="{height - 10}">dotted: what the machine allows; times on a logarithmic scale</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    """Times to pixels, logarithmic."""

    def __init__(self, low: float, high: float) -> None:
        self.low = max(low, 1e-6) / 2
        self.high = max(high, 2 * self.low)

    def x(self, ms: float) -> float:
        from math import log

        return LEFT + BAR * log(max(ms, self.low) / self.low) / log(self.high / self.low)


def _bar(r: Row, direction: str, y: int, scale: _Scale) -> list[str]:
    t = r.timings[direction]
    low, high = (scale.x(ms) for ms in t.quartiles_ms)
    end, middle = scale.x(t.median_ms), y + ROW / 2
    star = " *" if r.chosen else ""
    return [
        f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(r.name)}{star}</text>',
        f'<rect x="{LEFT}" y="{y + 3}" width="{end - LEFT:.1f}" height="{ROW - 6}" fill="{COLOURS[r.kind]}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="black"/>',
        f'<text x="{max(end, high) + 6:.1f}" y="{middle + 4}">{t.median_ms:.3g} ms, x{t.speedup:.3g}</text>',
    ]
