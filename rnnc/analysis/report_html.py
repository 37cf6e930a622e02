"""A report as one self-contained page: no script, no file beside it, readable with light and dark settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING

from rnnc.analysis.report_flow import flow_of
from rnnc.analysis.report_svg import complex_plane, flow_graph, real_line
from rnnc.analysis.report_text import expected, facts_of_kind, spectrum_text, transition_text

if TYPE_CHECKING:
    from rnnc.analysis.report import GroupReport, Report
    from rnnc.verify.results import ClaimResult
    from rnnc.verify.spectra import Samples

STYLE = """
:root { --ink: #1c2733; --soft: #647282; --line: #d9dfe6; --paper: #ffffff; --panel: #f6f8fa; --proved: #cfe3f7;
  --sample: #d9622b; --link: #1f6fb5; --good: #18794e; --bad: #c62a2f; --warn: #946800; }
@media (prefers-color-scheme: dark) { :root { --ink: #dde4ec; --soft: #93a1b0; --line: #36424f; --paper: #161b22;
  --panel: #1e252e; --proved: #23466b; --sample: #f0945f; --link: #6cb2f0; --good: #4cc38a; --bad: #ff7b7f;
  --warn: #e0b341; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 24px 60px; max-width: 1080px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 27px; margin: 0; } h2 { font-size: 19px; margin: 38px 0 10px; }
h3 { font-size: 16px; margin: 22px 0 6px; }
.soft { color: var(--soft); } a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 500; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
code, pre, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 13px; }
pre { background: var(--panel); border-radius: 8px; padding: 12px 0; overflow-x: auto; line-height: 1.55; }
pre span { display: block; padding: 0 14px; white-space: pre; } pre span:target { background: var(--proved); }
pre i { font-style: normal; color: var(--soft); display: inline-block; width: 3.2em; user-select: none; }
.scroll { overflow-x: auto; } figure { margin: 8px 0; } figcaption { font-size: 13px; color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); } .off td { color: var(--soft); }
.chosen td:first-child { font-weight: 600; color: var(--good); } dl { display: grid; grid-template-columns: 110px 1fr; }
dt { color: var(--soft); } dd { margin: 0; } svg { max-width: 100%; height: auto; }
.label { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink); }
.label.soft { fill: var(--soft); font-size: 12px; } .label.strong { font-weight: 600; }
.label.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.proved { fill: var(--proved); } .hole { fill: var(--paper); } .sample, .dot { fill: var(--sample); }
.dot { fill-opacity: .75; } .axis { stroke: var(--soft); stroke-width: 1; }
.unit { fill: none; stroke: var(--soft); stroke-dasharray: 4 4; }
.circle { fill: none; stroke: var(--link); stroke-width: 3; stroke-opacity: .5; }
.end { fill: var(--link); stroke: var(--link); stroke-width: 2; } .end.open { fill: var(--paper); }
.box { fill: var(--panel); stroke: var(--line); stroke-width: 1.2; } .box.group { stroke: var(--link); }
.edge { fill: none; stroke: var(--soft); stroke-width: 1.3; } .dashed { stroke-dasharray: 5 4; }
.tip { fill: var(--soft); }
.compare th { width: 1%; white-space: nowrap; } .compare td { width: 40%; }
.compare h3 { margin: 12px 0 0; color: var(--ink); }
.differs td { background: color-mix(in srgb, var(--sample) 14%, transparent); }
"""

VERDICTS = {
    "proved": ("good", "✓ proved"),
    "proved_conditional": ("warn", "✓ proved under a conjecture"),
    "refuted": ("bad", "✗ refuted"),
    "unknown": ("warn", "? unknown"),
}


def page(report: Report) -> str:
    """The whole page; `Report.to_html`."""
    return document(report.cell, "".join(_report(report, 0)))


def document(title: str, body: str) -> str:
    """A page with the style of reports; `body` is HTML."""
    head = f'<meta charset="utf-8"><title>{escape(title)}: rnnc</title><style>{STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _report(report: Report, depth: int) -> Iterator[str]:
    settings = ", ".join(f"{k} = {v}" for k, v in report.hyperparameters)
    title = "h1" if depth == 0 else "h2"
    yield f"<{title}>{escape(report.cell)}</{title}>"
    yield f'<p class="soft">{escape(report.file)}{" · " if report.file and settings else ""}{escape(settings)}</p>'
    if report.expressivity:
        yield "<h2>What it can and cannot do</h2>" + _claims(report.expressivity)
    if report.groups:
        names = tuple(g.transition for g in report.groups)
        drawn = flow_graph(flow_of(report.recurrence, names))
        note = "Dashed: a value of an earlier step. A prime marks a state's value after the step."
        yield f'<h2>What reads what</h2><figure class="scroll">{drawn}<figcaption>{note}</figcaption></figure>'
        yield "<h2>The recurrence</h2>" + _states(report)
    for g in report.groups:
        yield from _group(report, g)
    if report.ranges:
        yield "<h2>Declared ranges</h2>" + _ranges(report)
    if report.source:
        yield "<h2>Source</h2>" + _source(report.source)
    for part in report.parts:
        yield from _report(part, depth + 1)


def _table(head: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """`rows` are (class, cells); cells are HTML already."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    lines = (f'<tr class="{kind}">' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>" for kind, cells in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{"".join(lines)}</table></div>'


def _at(line: int, text: str) -> str:
    return f'<a href="#L{line}">{text}</a>' if line else text


def _claims(results: Iterable[ClaimResult]) -> str:
    rows = []
    for r in results:
        kind, verdict = VERDICTS[r.verdict]
        source = (
            f'<br><span class="soft">{escape(r.evidence.source)}</span>' if r.evidence and r.evidence.source else ""
        )
        where = _at(r.line, f"<code>{escape(r.claim)}</code>")
        shown = f'<span class="{kind}">{verdict}</span><br><span class="soft">{escape(r.precision)}</span>'
        rows.append(("", [where, shown, escape(r.reason) + source]))
    return _table(("claim", "verdict", "why"), rows)


def _states(report: Report) -> str:
    rows = []
    for s in report.states:
        shape = f"{s.dtype}[{', '.join(map(str, s.shape))}]" if s.shape else s.dtype
        span = report.recurrence.cell.state(s.name).span
        rows.append(
            ("", [_at(span.line if span else 0, f"<code>{escape(s.name)}</code>"), escape(shape), str(s.group)])
        )
    return _table(("state", "type", "group"), rows)


def _group(report: Report, g: GroupReport) -> Iterator[str]:
    group = g.group
    yield f'<h3 id="group{group.index}">Group {group.index}: {escape(", ".join(group.states))}</h3><dl>'
    yield f"<dt>update</dt><dd>{escape(facts_of_kind(g))}</dd>"
    for message, node in group.because:
        span = report.recurrence.cell.nodes[node].span
        yield f"<dt>because</dt><dd>{_at(span.line if span else 0, escape(message))}</dd>"
    if group.kind != "nonlinear":
        yield f"<dt>transition</dt><dd>{escape(transition_text(g))}</dd>"
        yield f"<dt>spectrum</dt><dd>{escape(spectrum_text(g))}</dd>"
    yield f"<dt>jacobian</dt><dd>{escape(group.jacobian.replace('_', ' '))}</dd></dl>"
    if group.kind != "nonlinear" and group.semiring == "plus_times":
        yield _eigenvalues(report, g)
    rows = []
    for o in g.plan.options:
        kind = "chosen" if o.name == g.plan.strategy else "" if o.legal else "off"
        mark = "✓" if o.legal else "✗"
        cost = [o.depth, o.flops_per_token, o.bytes_per_token, o.memory] if o.legal else [""] * 4
        said = [part for part in (o.why, o.safety, o.remedy) if part]
        name = o.name + (" (chosen)" if kind == "chosen" else "")
        rows.append((kind, [f"{mark} {escape(name)}", *map(escape, cost), "<br>".join(map(escape, said))]))
    for o in () if g.native is None else g.native.natives:
        kind = "chosen" if g.native is not None and o == g.native.chosen else ""
        name = f"{o.name} in C" + (" (chosen on a CPU)" if kind else "")
        cost = [o.depth, o.flops_per_token, o.bytes_per_token, ""]
        rows.append((kind, [f"✓ {escape(name)}", *map(escape, cost), escape(o.why)]))
    yield _table(("strategy", "depth", "FLOPs / token", "bytes / token", "memory, bytes", "why"), rows)
    yield f'<p class="soft">expected: {escape(expected(g))}</p>'


def _eigenvalues(report: Report, g: GroupReport) -> str:
    from rnnc.verify.spectra import outside, sample_spectrum

    samples = sample_spectrum(report.recurrence.cell, g.group)
    if samples is None or not samples.norms.size:
        return '<p class="soft">No samples: no choice of sizes makes the transition a small matrix.</p>'
    s = g.spectrum
    real = bool(abs(samples.eigenvalues.imag).max() <= 1e-6)
    drawn = real_line(samples, s.interval) if real else complex_plane(samples, s.modulus)
    wrong = outside(samples, s)
    alarm = "".join(
        f'<p class="bad">A sample contradicts the proof, please report this: {escape(w)}</p>' for w in wrong
    )
    return (
        f'<figure class="scroll">{drawn}<figcaption>{escape(_caption(samples, g, real))}</figcaption></figure>{alarm}'
    )


def _caption(samples: Samples, g: GroupReport, real: bool) -> str:
    s = g.spectrum
    region = s.interval if real else s.modulus
    shaded = f"Shaded: proved for all weights and inputs, {region}" if region is not None else "Nothing is proved"
    sizes = ", ".join(f"{k} = {v}" for k, v in samples.dims.items())
    values = samples.eigenvalues.real if real else abs(samples.eigenvalues)
    seen = f"{_short(values.min())} to {_short(values.max())}".replace("-", "−")
    skipped = f"; {samples.skipped} more overflowed" if samples.skipped else ""
    what = "eigenvalues" if real else "eigenvalues, of modulus"
    return (
        f"{shaded}. Dots and bars: {len(samples.eigenvalues)} {what} {seen}, of {len(samples.norms)} transitions at "
        f"random and extreme weights and inputs{skipped} ({sizes})."
    )


def _short(value: float) -> str:
    return f"{round(value, 6) + 0.0:.6g}"


def _ranges(report: Report) -> str:
    rows = []
    for r in report.ranges:
        known = "|·| = 1, up to eps" if r.proved is None else str(r.proved)
        of = f" <span class='soft'>({escape(r.what)})</span>" if r.what else ""
        kind = "gate" if r.required else "value"
        rows.append(("", [_at(r.line, f"<code>{escape(r.name)}</code>") + of, kind, escape(r.declared), escape(known)]))
    return _table(("name", "kind", "declared", "proved"), rows)


def _source(text: str) -> str:
    lines = (f'<span id="L{i}"><i>{i}</i>{escape(line)}</span>' for i, line in enumerate(text.splitlines(), 1))
    return f"<pre>{''.join(lines)}</pre>"
