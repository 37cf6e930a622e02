"""The C of a whole single step: a loop nest for each value that has memory of its own, in the order of the graph."""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.cpu.single import NUMBERS, SUMS, Single, axes, kept, outer_product
from rnnc.backends.cpu.single_loops import Writer
from rnnc.backends.cpu.single_places import Place, grouped, size_text, strides_text
from rnnc.backends.cpu.text import dim_c
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import Node, NodeId

HELPERS = """\
#define PARALLEL 262144 /* numbers of a matrix from which on two threads share it */
INLINE V load_strided(const T *p, int64_t stride, int n) {
  V x = {0};
  for (int i = 0; i < n; i++) x[i] = p[i * stride];
  return x;
}
INLINE void store_strided(T *p, int64_t stride, V x, int n) {
  for (int i = 0; i < n; i++) p[i * stride] = x[i];
}
INLINE V lanes_or(V x, int n, T otherwise) {
  M lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  return n == LANES ? x : pick(lane < splat_mask(1) * (W)-n, x, splat(otherwise));
}
INLINE T most(V x) {
  for (int i = 1; i < LANES; i++) x[0] = x[0] != x[0] || x[0] > x[i] ? x[0] : x[i];
  return x[0];
}
/* y = W x for each of a batch, W [rows, n]: four rows at once, each read once for all of the batch. */
static __attribute__((unused)) void rows_times_vector(const T *w, const T *x, int64_t x_batch, T *y, int64_t y_batch,
    int64_t batch, int64_t rows, int64_t n, int64_t threads) {
  const int64_t blocks = (rows + 3) / 4;
  (void)threads;
#pragma omp parallel for num_threads((int)threads) if (threads > 1 && rows * n >= PARALLEL) schedule(static)
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t from = 4 * block, count = rows - from < 4 ? rows - from : 4;
    const T *at[4];
    for (int r = 0; r < 4; r++) at[r] = w + (from + (r < count ? r : 0)) * n;
    for (int64_t b = 0; b < batch; b++) {
      const T *v = x + b * x_batch;
      V s0 = splat(0), s1 = splat(0), s2 = splat(0), s3 = splat(0);
      int64_t j = 0;
      for (; j + LANES <= n; j += LANES) {
        const V one = load(v + j, LANES);
        s0 += load(at[0] + j, LANES) * one;
        s1 += load(at[1] + j, LANES) * one;
        s2 += load(at[2] + j, LANES) * one;
        s3 += load(at[3] + j, LANES) * one;
      }
      if (j < n) {
        const int left = (int)(n - j);
        const V one = load(v + j, left);
        s0 += load(at[0] + j, left) * one;
        s1 += load(at[1] + j, left) * one;
        s2 += load(at[2] + j, left) * one;
        s3 += load(at[3] + j, left) * one;
      }
      const T sums[4] = {total(s0), total(s1), total(s2), total(s3)};
      for (int r = 0; r < count; r++) y[b * y_batch + from + r] = sums[r];
    }
  }
}
INLINE T least(V x) {
  for (int i = 1; i < LANES; i++) x[0] = x[0] != x[0] || x[0] < x[i] ? x[0] : x[i];
  return x[0];
}
"""


def single_text(single: Single) -> str:
    """The functions NAME_step and NAME_shapes of a step, behind `vector_math.h`."""
    w = Writer(single=single)
    nodes, cell = single.cell.nodes, single.cell
    for k, g in enumerate(single.given):
        w.places[g.node] = w.place(g.node, f"a{k}", g.static, g.buffer)
    memory = kept(single)
    first: dict[NodeId, int] = {}
    results = single.results
    for k, (i, buffer) in enumerate(results):
        leaf = nodes[i].op in ("input", "state", "param") or nodes[i].op in NUMBERS
        if i not in first and not buffer and i not in single.static and not leaf:
            first[i] = k
    written: list[str] = []
    for node in nodes:
        i = node.id
        if i not in memory and i not in first:
            continue
        if i in first:
            place = w.place(i, f"r{first[i]}", False, 0)
        else:
            static = i in single.static
            sizes = axes(node)
            batch = None if static else grouped(size_text(sizes))
            place = Place(pointer=f"w{i}", strides=strides_text(sizes), batch=batch)
            written.append(f"{size_text(sizes)}{'' if static else ' * batch'}")
            w.scratch.append(f"w{i}")
        title = node.name or next((o.name for o in cell.outputs if o.node == i), "")
        w.lines += [f"  /* {title} */"] if title else []
        _compute(w, i, place)
        w.places[i] = place
    for k, (i, buffer) in enumerate(results):
        if first.get(i) != k:
            place = w.place(i, f"r{k}", False, buffer)
            w.fill(i, place, lambda index, i=i: w.read(i, index))  # type: ignore[misc]
    return "\n".join([*_shapes(single), "", *_function(single, w, written)]) + "\n"


def steps_text(singles: Sequence[Single]) -> str:
    """The functions of some steps, with what they share."""
    return "\n".join([HELPERS, *(single_text(s) for s in singles)])


def _compute(w: Writer, i: NodeId, place: Place) -> None:
    node = w.nodes[i]
    if node.op in SUMS or (node.op == "einsum" and not outer_product(node)):
        w.contract(i, place)
    elif node.op == "concat":
        _concat(w, node, place)
    else:
        w.fill(i, place, lambda index: w.read(i, index))


def _concat(w: Writer, node: Node, place: Place) -> None:
    """Each part into its rows."""
    k = len(axes(node)) + int(node.attr("axis"))  # type: ignore[arg-type]
    before: list[Dim] = []
    for a in node.args:
        offset = " + ".join(dim_c(d) for d in before) or "0"
        stride = place.strides[k] or "1"
        part = Place(
            pointer=f"({place.pointer} + ({offset}) * {stride})",
            strides=_part(place, axes(w.nodes[a]), k),
            batch=place.batch,
        )
        w.fill(a, part, lambda index, a=a: w.read(a, index))  # type: ignore[misc]
        before.append(axes(w.nodes[a])[k])


def _part(place: Place, sizes: Sequence[Dim], at: int) -> tuple[str | None, ...]:
    return tuple(None if d == ONE else s for d, s in zip(sizes, place.strides, strict=True))


def _shapes(single: Single) -> list[str]:
    """NAME_shapes writes the sizes of all arrays, given ones and results, one after the other, without the batch."""
    lines = [f"void {single.name}_shapes(const int64_t *dims, int64_t *out) {{", *_dims(single)]
    at = 0
    wanted = [(g.node, g.buffer) for g in single.given] + single.results
    for i, buffer in wanted:
        sizes = list(axes(single.cell.nodes[i]))
        if buffer:
            sizes.insert(0, sizes.pop(buffer))
        for d in sizes:
            lines.append(f"  out[{at}] = {dim_c(d)};")
            at += 1
    return [*lines, "}"]


def _dims(single: Single) -> list[str]:
    found = [f"  const int64_t d_{d.name} = dims[{k}];" for k, d in enumerate(single.cell.dims)]
    return [*found, *(f"  (void)d_{d.name};" for d in single.cell.dims)]


def _function(single: Single, w: Writer, written: Sequence[str]) -> list[str]:
    lines = [
        f"int {single.name}_step(void *const *arrays, const int64_t *dims, int64_t batch, int64_t threads) {{",
        "  (void)threads;",
        *_dims(single),
    ]
    n = len(single.given)
    kinds = ["int64_t" if k in single.tokens else "T" for k in range(n)]
    lines += [f"  const {kinds[k]} *a{k} = arrays[{k}]; /* {name} */" for k, name in enumerate(_names(single))]
    for k, vocab in single.tokens.items():
        lines.append(f"  for (int64_t b = 0; b < batch; b++) if (a{k}[b] < 0 || a{k}[b] >= {dim_c(vocab)}) return 2;")
    lines += [f"  T *r{k} = arrays[{n + k}];" for k in range(len(single.results))]
    lines.append(f"  T *memory = malloc(((size_t)({' + '.join(['1', *written])})) * sizeof(T)), *rest = memory;")
    lines.append("  if (!memory) return 1;")
    for name, size in zip(w.scratch, written, strict=True):
        lines += [f"  T *{name} = rest;", f"  rest += {size};"]
    return [*lines, *w.lines, "  free(memory);", "  return 0;", "}"]


def _names(single: Single) -> list[str]:
    return [*single.inputs, *single.states, *single.params]
