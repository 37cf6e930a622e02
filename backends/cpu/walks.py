"""The walk of one task through time, forth and back, and the exported function around it.

What kernels over vectors (`functions.py`) and nests of loops (`nest.py`) share: functions of theirs are NAME_begin and
NAME_end, which copy states in and out, NAME_step, and for a backward NAME_again (a step forth), or NAME_first and
NAME_before (the states that an output holds).
"""

from __future__ import annotations

from collections.abc import Sequence

TURN = ("T *turn = now;", "now = next;", "next = turn;")


def exported(
    name: str,
    sizes: str,
    block: str,
    memory: Sequence[tuple[str, str]],
    scratch: Sequence[tuple[str, str]],
    body: Sequence[str],
    frames: int = 1,
    before: Sequence[str] = (),
) -> list[str]:
    """The function NAME of all tasks, shared out among threads, each with memory of its own.

    `sizes`: the stem of the struct of sizes, for blocks of `block` lanes.  `scratch` are names in a frame and `memory`
    variables, each with how many numbers it takes; `body` is what a task does, `before` what stands in front of all.
    """
    count = " + ".join(["1", *(size for _, size in (*scratch, *memory))])
    lines = [
        f"int {name}(void *const *arrays, const int64_t *strides, const int64_t *dims, int64_t steps,",
        "    const int64_t *plan, int64_t threads, T *checkpoints) {",
        "  int failed = 0;",
        "  (void)checkpoints;",
        *(f"  {line}" for line in before),
        "#pragma omp parallel num_threads((int)threads) if (threads > 1)",
        "  {",
        f"    struct {name} frames[{frames}], *f = frames;",
        "    memset(frames, 0, sizeof frames);",
        f"    f->z = {sizes}_sizes(dims, {block});",
        "    f->dims = dims;",
        f"    const struct {sizes}_sizes *z = &frames[0].z;",
        f"    T *memory = calloc((size_t)({count}), sizeof(T)), *part = memory;",
        "    if (!memory) failed = 1;",
    ]
    for place, size in scratch:
        lines += [f"    f->{place} = part;", f"    part += memory ? {size} : 0;"]
    lines += [f"    for (int r = 1; r < {frames}; r++) frames[r] = frames[0];"] if frames > 1 else []
    for place, size in memory:
        lines += [f"    T *{place} = part;", f"    part += memory ? {size} : 0;"]
    return [
        *lines,
        "#pragma omp for schedule(static)",
        "    for (int64_t task = 0; task < plan[2]; task++) {",
        "      if (!memory) continue;",
        *(f"      {line}" for line in body),
        "    }",
        "    free(memory);",
        "  }",
        "  return failed;",
        "}",
    ]


def forth(name: str, in_place: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
    """Memory for the states, and the steps from the first to the last, with checkpoints where they are asked for.

    `in_place`: a step writes the new states over the old ones.
    """
    body = [
        f"T *now = states, *next = states{'' if in_place else ' + z->total'};",
        f"{name}_begin(f, now);",
        "for (int64_t t = 0; t < steps; t++) {",
        "  if (checkpoints && t % plan[4] == 0)",
        "    memcpy(checkpoints + (task * ((steps + plan[4] - 1) / plan[4]) + t / plan[4]) * z->total, now,",
        "           sizeof(T) * (size_t)z->total);",
        f"  {name}_step(f, t, now, next);",
        *(() if in_place else (f"  {line}" for line in TURN)),
        "}",
        f"{name}_end(f, now);",
    ]
    return [("states", "2 * z->total")], body


def back(name: str, stored: bool, in_place: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
    """Memory for gradients and states, and the steps from the last to the first.

    States come from outputs that hold them at every step (`stored`), else from checkpoints: each chunk is run again.
    """
    turn = () if in_place else TURN
    if stored:
        walk = [
            "for (int64_t t = steps - 1; t >= 0; t--) {",
            f"  if (t) {name}_before(f, states, t - 1);",
            f"  else {name}_first(f, states);",
            f"  {name}_step(f, t, states, now, next);",
            *(f"  {line}" for line in turn),
            "}",
        ]
    else:
        walk = [
            "const int64_t chunk = plan[4], chunks = (steps + chunk - 1) / chunk;",
            "for (int64_t c = chunks - 1; c >= 0; c--) {",
            "  const int64_t from = c * chunk, to = from + chunk < steps ? from + chunk : steps;",
            "  memcpy(states, checkpoints + (task * chunks + c) * z->total, sizeof(T) * (size_t)z->total);",
            "  for (int64_t t = from; t + 1 < to; t++)",
            f"    {name}_again(f, t, states + (t - from) * z->total, states + (t - from + 1) * z->total);",
            "  for (int64_t t = to - 1; t >= from; t--) {",
            f"    {name}_step(f, t, states + (t - from) * z->total, now, next);",
            *(f"    {line}" for line in turn),
            "  }",
            "}",
        ]
    body = [
        f"T *now = gradients, *next = gradients{'' if in_place else ' + z->total'};",
        f"{name}_begin(f, now);",
        *walk,
        f"{name}_end(f, now);",
    ]
    return [("gradients", "2 * z->total"), ("states", "z->total" if stored else "plan[4] * z->total")], body
