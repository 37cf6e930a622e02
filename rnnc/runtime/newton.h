/* Newton's method over time for recurrences whose slopes are numbers, or K x K blocks, at every position.
 *
 * Time is cut into segments that walk abreast, one in each lane (channels of a segment beside each other).  The unknowns
 * are the states at which segments begin.  A walk gives each segment's last state e and its derivative P by the first
 * one; with r = e - (start of the next segment) the corrections of the starts follow from each other,
 *     d_next = P d + r,
 * and where they are small enough at every step, the walk was right.  (Multiple shooting: Newton's method once the
 * states inside of segments are eliminated.)  The first start is exact, so each walk settles one segment at least.
 *
 * A block of rows (one sequence, the channels of one vector, all indices of other axes) is solved by itself: windows,
 * damping and single steps of one block do not touch another.
 */
#define NEWTON_SMALLEST 16  /* steps of a segment, of which sizes are multiples; a state is kept as often */
#define NEWTON_WALKS 12     /* of one window; from the fourth on it must be on the way to be done by then */
#define NEWTON_STRETCH 128  /* single steps before the next attempt; doubled each time */
#ifdef RNNC_F64
#define NEWTON_ROUNDING 0x1p-51 /* of numbers near 1: two units in the last place */
#else
#define NEWTON_ROUNDING 0x1p-22f
#endif

struct newton_place { /* where a group of segments is in the arrays of a call */
  void *const *arrays;
  const int64_t *strides, *dims;
  int64_t b, block, c0, c;       /* sequence; block of channels, its first channel and how many it has */
  int64_t beside, segments, np;  /* segments beside each other in one vector, segments and lanes of the group */
  int64_t size;                  /* steps of a segment */
  int64_t first, end;            /* first step of segment 0; nothing from step `end` on counts */
};

INLINE int64_t newton_lane(const struct newton_place *w, int64_t segment) {
  return segment / w->beside * LANES + segment % w->beside * w->c;
}
/* How many of the steps of a segment are there, of every `every`-th. */
INLINE int64_t newton_steps(const struct newton_place *w, int64_t segment, int64_t every) {
  const int64_t size = (w->size + every - 1) / every, first = w->first + segment * w->size;
  const int64_t left = (w->end - first + every - 1) / every;
  return left < 0 ? 0 : left < size ? left : size;
}
INLINE void newton_rows(T *to, int64_t to_t, int64_t to_c, const T *from, int64_t from_t, int64_t from_c, int64_t n,
    int64_t c) {
  const int dense = to_c == 1 && from_c == 1;
#define NEWTON_COPY(many) for (int64_t t = 0; t < n; t++) memcpy(to + t * to_t, from + t * from_t, (many) * sizeof(T))
  if (c == 1) for (int64_t t = 0; t < n; t++) to[t * to_t] = from[t * from_t];
  else if (dense && c == 2) NEWTON_COPY(2);
  else if (dense && c == 4) NEWTON_COPY(4);
  else if (dense && c == 8) NEWTON_COPY(8);
  else if (dense && c == 16) NEWTON_COPY(16);
  else for (int64_t t = 0; t < n; t++) for (int64_t j = 0; j < c; j++) to[t * to_t + j * to_c] = from[t * from_t + j * from_c];
#undef NEWTON_COPY
}
/* From an array [time, channels], which begins at channel c0, into lanes [size, np]; zero where there is nothing. */
static __attribute__((unused)) void newton_gather(const struct newton_place *w, int64_t every, T *to, int64_t to_t,
    const T *from, int64_t from_t, int64_t from_c) {
  const int64_t size = (w->size + every - 1) / every;
  for (int64_t k = 0; k < w->segments; k++) {
    const int64_t n = newton_steps(w, k, every);
    T *mine = to + newton_lane(w, k);
    if (n) newton_rows(mine, to_t, 1, from + (w->first + k * w->size) / every * from_t, from_t, from_c, n, w->c);
    for (int64_t t = n; t < size; t++) for (int64_t j = 0; j < w->c; j++) mine[t * to_t + j] = 0;
  }
}
/* The other way. */
static __attribute__((unused)) void newton_scatter(const struct newton_place *w, int64_t every, const T *from,
    int64_t from_t, T *to, int64_t to_t, int64_t to_c) {
  for (int64_t k = 0; k < w->segments; k++) {
    const int64_t n = newton_steps(w, k, every);
    if (n) newton_rows(to + (w->first + k * w->size) / every * to_t, to_t, to_c, from + newton_lane(w, k), from_t, 1, n, w->c);
  }
}
/* What does not change in time, into all lanes [np]; and the sum over all segments of what was gathered in lanes. */
static __attribute__((unused)) void newton_spread(const struct newton_place *w, T *to, const T *from, int64_t from_c) {
  for (int64_t k = 0; k < w->segments; k++)
    for (int64_t j = 0; j < w->c; j++) to[newton_lane(w, k) + j] = from[j * from_c];
}
static __attribute__((unused)) void newton_total(const struct newton_place *w, const T *from, T *to, int64_t to_c) {
  for (int64_t k = 0; k < w->segments; k++)
    for (int64_t j = 0; j < w->c; j++) to[j * to_c] += from[newton_lane(w, k) + j];
}
static __attribute__((unused)) void newton_clear(const struct newton_place *w, int64_t segment, T *lanes) {
  for (int64_t k = segment; k < w->segments; k++) memset(lanes + newton_lane(w, k), 0, (size_t)w->c * sizeof(T));
}

struct newton_kernel { /* what is emitted for one group of states */
  int64_t states;                                   /* K */
  size_t frame;                                     /* bytes */
  int64_t (*rows)(const int64_t *dims);             /* indices besides batch and channels */
  int64_t (*memory)(const int64_t *dims, int64_t np, int64_t size); /* numbers that a frame needs ... */
  void (*bind)(void *frame, const int64_t *dims, int64_t np, int64_t size, T *memory); /* ... of which it takes hold */
  void (*fixed)(void *frame, const struct newton_place *w);  /* brings in what does not change in time */
  void (*pack)(void *frame, const struct newton_place *w);   /* brings in a window of the inputs */
  void (*unpack)(void *frame, const struct newton_place *w); /* writes out a window of the results */
  void (*begin)(const struct newton_place *w, T *rows);      /* states [K, rows, c] in front of (behind) all steps */
  void (*end)(const struct newton_place *w, const T *rows);
  void (*ahead)(void *frame, T *now, int64_t from, int64_t to); /* states alone, through some steps */
  void (*walk)(void *frame, T *now, int64_t from, int64_t to);  /* outputs too, and derivatives */
  void (*again)(void *frame, T *now, T *before, int64_t from, int64_t to); /* for the backward: states are kept */
  void (*adjoint)(void *frame, const T *before, T *now, int64_t from, int64_t to);
  void (*totals)(void *frame, const struct newton_place *w); /* writes out gradients of what does not change in time */
  void (*clear)(void *frame, const struct newton_place *w, int64_t segment); /* sets those of later segments to zero */
};
struct newton_call {
  void *const *arrays;
  const int64_t *strides, *dims;
  int64_t steps, batch, channels, blocks; /* blocks: of channels */
  int64_t vectors, size;                  /* of a group, and the most steps of a segment */
  int64_t threads;
  T tolerance;
  T *kept; /* states at every NEWTON_SMALLEST-th step: [batch, blocks, steps, K, rows, channels of a block]; or null */
};
struct newton_report { int64_t windows, walks, damped, shrunk, sequential, warm; T residual, correction; };

struct newton_group { /* segments that one thread walks through */
  void *frame;
  T *starts, *now, *tail, *kept;
  struct newton_place w;
};
struct newton_block { /* the rows that are solved together */
  const struct newton_kernel *k;
  const struct newton_call *call;
  int64_t rows, numbers, total; /* rows; K * rows; numbers of a lane in `now` */
  int64_t width, team, size;    /* most channels of a block; groups; most steps of a segment */
  T *kept, *row, *memory;       /* kept: of this block, or null; row: states [K, rows, c] in front of the window */
  unsigned char *settled, *damping;
  T *smallest;
  struct newton_group *groups, solo;
};
static const T newton_damped[] = {1, (T)0.5, (T)0.25, 0};

INLINE T newton_abs(T x) { return x < 0 ? -x : x; }
INLINE int newton_finite(T x) { return x - x == 0; }
INLINE T newton_scale(T x) { return newton_abs(x) > 1 ? newton_abs(x) : 1; }
/* What is left between the end of a segment and the start of the next: nothing where it is no more than the rounding of
 * a few steps, which a loop over all steps commits too. */
INLINE T newton_gap(T end, T start) {
  if (end == start || (end != end && start != start)) return 0;
  const T gap = end - start;
  return newton_finite(gap) && newton_abs(gap) <= NEWTON_ROUNDING * newton_scale(start) ? 0 : gap;
}

/* Where the state (or product) with number s of a row is, of segment k counted through all groups. */
INLINE T *newton_at(const struct newton_block *x, const struct newton_group *groups, int tail, int starts, int64_t s,
    int64_t r, int64_t k) {
  const struct newton_group *g = groups + k / groups->w.segments;
  T *base = starts ? g->starts : tail ? g->tail : g->now;
  return base + (s * x->rows + r) * g->w.np + newton_lane(&g->w, k % groups->w.segments);
}
#define ROW(i, r) (x->row + ((i) * x->rows + (r)) * w->c)
#define START(i, r, k) newton_at(x, x->groups, 0, 1, i, r, k)
#define END(i, r, k) newton_at(x, x->groups, (k) == last, 0, i, r, k)

static __attribute__((unused)) size_t newton_group_bytes(const struct newton_block *x, int64_t np, int64_t size) {
  const int64_t keeps = (size + NEWTON_SMALLEST - 1) / NEWTON_SMALLEST;
  const int64_t lanes = x->k->again ? x->numbers * size : x->kept ? x->numbers * keeps : 0;
  const int64_t numbers = x->k->memory(x->call->dims, np, size) + (x->numbers + 2 * x->total + lanes) * np;
  return ((size_t)numbers * sizeof(T) + x->k->frame + 127) / 64 * 64;
}
static __attribute__((unused)) void newton_group_bind(const struct newton_block *x, struct newton_group *g, char *memory,
    int64_t np, int64_t size) {
  T *part = (T *)(memory + (x->k->frame + 63) / 64 * 64);
  g->frame = memory;
  g->starts = part, part += x->numbers * np;
  g->now = part, part += x->total * np;
  g->tail = part, part += x->total * np;
  g->kept = part, part += (x->k->again ? x->numbers * size : x->kept ? x->numbers * ((size + NEWTON_SMALLEST - 1) / NEWTON_SMALLEST) : 0) * np;
  g->w.np = np;
  memset(g->starts, 0, (size_t)((x->numbers + 2 * x->total) * np) * sizeof(T)); /* lanes of no segment, too */
  x->k->bind(g->frame, x->call->dims, np, size, part);
  x->k->fixed(g->frame, &g->w);
}
/* Memory for the block `task`; false where there is none. */
static __attribute__((unused)) int newton_block_begin(struct newton_block *x, int64_t task, int64_t total) {
  const struct newton_call *call = x->call;
  const struct newton_kernel *k = x->k;
  const int64_t block = task % call->blocks;
  x->width = (call->channels + call->blocks - 1) / call->blocks;
  x->rows = k->rows(call->dims);
  x->numbers = k->states * x->rows;
  x->total = total * x->rows;
  struct newton_place w = {
    .arrays = call->arrays, .strides = call->strides, .dims = call->dims, .b = task / call->blocks, .block = block,
    .c0 = block * x->width,
  };
  w.c = call->channels - w.c0 < x->width ? call->channels - w.c0 : x->width;
  const int64_t keeps = (call->steps + NEWTON_SMALLEST - 1) / NEWTON_SMALLEST;
  x->kept = call->kept ? call->kept + task * keeps * x->numbers * x->width : 0;
  w.beside = LANES / w.c;
  w.segments = w.beside * call->vectors;
  const int64_t all = w.segments * x->team, tiny = NEWTON_SMALLEST, fit = (call->steps + all - 1) / all;
  x->size = call->size < fit ? call->size : (fit + tiny - 1) / tiny * tiny;
  x->size = x->size < tiny ? tiny : x->size;
  const size_t bytes = newton_group_bytes(x, call->vectors * LANES, x->size);
  const size_t alone = k->again ? 0 : newton_group_bytes(x, LANES, x->size);
  const size_t own = ((size_t)((x->numbers + x->rows) * w.c) * sizeof(T) + (size_t)(2 * x->rows * w.c) + 127) / 64 * 64;
  const size_t groups = ((size_t)x->team * sizeof(struct newton_group) + 63) / 64 * 64;
  char *memory = malloc(groups + own + alone + (size_t)x->team * bytes + 64);
  if (!memory) return 0;
  x->memory = (T *)memory;
  memory += (64 - (uintptr_t)memory % 64) % 64;
  x->groups = (struct newton_group *)memory, memory += groups;
  x->row = (T *)memory;
  x->smallest = x->row + x->numbers * w.c;
  x->settled = (unsigned char *)(x->smallest + x->rows * w.c);
  x->damping = x->settled + x->rows * w.c;
  memory += own;
  for (int64_t i = 0; i < x->team; i++, memory += bytes) {
    x->groups[i].w = w;
    newton_group_bind(x, &x->groups[i], memory, call->vectors * LANES, x->size);
  }
  if (alone) {
    w.beside = w.segments = 1;
    x->solo.w = w;
    newton_group_bind(x, &x->solo, memory, LANES, x->size);
  }
  k->begin(&w, x->row);
  return 1;
}

/* ---------------------------------------------------------------- forward */

static __attribute__((unused)) void newton_spread_row(const struct newton_block *x, const struct newton_group *g, T *to) {
  for (int64_t n = 0; n < x->numbers; n++) newton_spread(&g->w, to + n * g->w.np, x->row + n * g->w.c, 1);
}
/* One group from its starts through all steps; `last` is the step whose states are put aside, -1 for none. */
static __attribute__((unused)) void newton_walk(const struct newton_block *x, struct newton_group *g, int64_t last) {
  const int64_t np = g->w.np, many = x->rows * np, k = x->k->states;
  memcpy(g->now, g->starts, (size_t)(k * many) * sizeof(T));
  T *p = g->now + k * many;
  for (int64_t i = 0; i < k; i++)
    for (int64_t j = 0; j < k; j++, p += many) for (int64_t n = 0; n < many; n++) p[n] = i == j;
  for (int64_t n = 0; n < many; n++) p[n] = 1;
  for (int64_t t = 0; t < g->w.size; t += NEWTON_SMALLEST) {
    const int64_t to = t + NEWTON_SMALLEST;
    if (x->kept) memcpy(g->kept + t / NEWTON_SMALLEST * x->numbers * np, g->now, (size_t)(x->numbers * np) * sizeof(T));
    const int64_t stop = t <= last && last < to ? last + 1 : to;
    x->k->walk(g->frame, g->now, t, stop);
    if (stop == last + 1) memcpy(g->tail, g->now, (size_t)(x->total * np) * sizeof(T));
    if (stop < to) x->k->walk(g->frame, g->now, stop, to);
  }
}
/* What was found, up to `end`. */
static __attribute__((unused)) void newton_write(const struct newton_block *x, struct newton_group *g, int64_t end) {
  const int64_t np = g->w.np;
  g->w.end = end;
  x->k->unpack(g->frame, &g->w);
  if (!x->kept) return;
  const int64_t apart = x->numbers * x->width;
  for (int64_t n = 0; n < x->numbers; n++)
    newton_scatter(&g->w, NEWTON_SMALLEST, g->kept + n * np, x->numbers * np, x->kept + n * x->width, apart, 1);
}
/* The starts of one row corrected; gives the first segment whose start was wrong, or last + 1. */
static __attribute__((unused)) int64_t newton_row(struct newton_block *x, int64_t r, int64_t j, int64_t last,
    struct newton_report *report) {
  const int64_t states = x->k->states, place = r * x->groups->w.c + j;
  const T most = x->call->tolerance;
  T d[states], next[states], residual = 0, correction = 0, largest = 0;
  int64_t wrong = last + 1;
  for (int64_t i = 0; i < states; i++) d[i] = 0;
  for (int64_t k = 0; k < last; k++) {
    const T growth = END(states + states * states, r, k + 1)[j];
    for (int64_t i = 0; i < states; i++) {
      const T e = END(i, r, k)[j], s = START(i, r, k + 1)[j], gap = newton_gap(e, s), scale = newton_scale(s);
      next[i] = gap;
      for (int64_t m = 0; m < states; m++) if (d[m] != 0) next[i] += END(states + i * states + m, r, k)[j] * d[m];
      const T here = newton_abs(gap) / scale, there = next[i] == 0 ? 0 : growth * newton_abs(next[i]) / scale;
      if (!(here <= most && there <= most) && wrong > last) wrong = k + 1;
      residual = here > residual ? here : residual;
      correction = there > correction ? there : correction;
      largest = newton_abs(gap) <= largest ? largest : newton_abs(gap); /* a NaN stays */
    }
    for (int64_t i = 0; i < states; i++) d[i] = next[i];
  }
  if (wrong > last) {
    report->residual = residual > report->residual ? residual : report->residual;
    report->correction = correction > report->correction ? correction : report->correction;
    x->settled[place] = 1;
    return wrong;
  }
  if (largest <= 2 * x->smallest[place]) x->damping[place] -= x->damping[place] > 0;
  else x->damping[place] += x->damping[place] < 3;
  if (largest < x->smallest[place]) x->smallest[place] = largest;
  report->damped += x->damping[place] > 0;
  const T damped = newton_damped[x->damping[place]];
  for (int64_t i = 0; i < states; i++) d[i] = 0;
  for (int64_t k = 0; k < last; k++) {
    for (int64_t i = 0; i < states; i++) {
      const T e = END(i, r, k)[j];
      T *s = START(i, r, k + 1) + j, sum = 0;
      for (int64_t m = 0; m < states; m++) if (d[m] != 0) sum += END(states + i * states + m, r, k)[j] * d[m];
      const T found = newton_finite(e + damped * sum) ? e + damped * sum : e, change = newton_gap(found, *s);
      next[i] = newton_finite(change) ? change : 0;
      if (change != 0) *s = found;
    }
    for (int64_t i = 0; i < states; i++) d[i] = next[i];
  }
  return wrong;
}
/* The steps from `at` on in segments of `size`; gives how many of them are solved, and puts the state behind them into
 * the rows.  Counts walks. */
static __attribute__((unused)) int64_t newton_window(struct newton_block *x, int64_t at, int64_t size, int64_t warm,
    struct newton_report *report, int64_t *walks) {
  const struct newton_place *w = &x->groups->w;
  const int64_t all = w->segments * x->team, left = x->call->steps - at, n = left < all * size ? left : all * size;
  const int64_t last = (n - 1) / size, places = x->rows * w->c;
  warm = warm < size ? warm : size;
#pragma omp parallel for num_threads((int)x->team) if (x->team > 1) schedule(static)
  for (int64_t i = 0; i < x->team; i++) {
    struct newton_group *g = x->groups + i;
    g->w.first = at + i * g->w.segments * size, g->w.end = at + n, g->w.size = size;
    x->k->pack(g->frame, &g->w);
    newton_spread_row(x, g, g->now);
    newton_spread_row(x, g, g->starts);
    if (warm) x->k->ahead(g->frame, g->now, size - warm, size);
  }
  for (int64_t i = 0; i < x->k->states; i++)
    for (int64_t r = 0; r < x->rows; r++)
      for (int64_t k = 0; k < last; k++)
        memcpy(START(i, r, k + 1), newton_at(x, x->groups, 0, 0, i, r, k), (size_t)w->c * sizeof(T));
  memset(x->settled, 0, (size_t)places);
  memset(x->damping, 0, (size_t)places);
  for (int64_t p = 0; p < places; p++) x->smallest[p] = (T)INFINITY;
  int64_t good = 0;
  for (*walks = 0; good <= last && (*walks < 4 || good * NEWTON_WALKS >= *walks * (last + 1)); ++*walks) {
#pragma omp parallel for num_threads((int)x->team) if (x->team > 1) schedule(static)
    for (int64_t i = 0; i < x->team; i++)
      if (i * w->segments <= last)
        newton_walk(x, x->groups + i, last / w->segments == i ? (n - 1) % size : -1);
    good = last + 1;
    for (int64_t r = 0; r < x->rows; r++)
      for (int64_t j = 0; j < w->c; j++) {
        const int64_t wrong = x->settled[r * w->c + j] ? last + 1 : newton_row(x, r, j, last, report);
        good = wrong < good ? wrong : good;
      }
  }
  const int64_t solved = good > last ? n : good * size;
#pragma omp parallel for num_threads((int)x->team) if (x->team > 1) schedule(static)
  for (int64_t i = 0; i < x->team; i++) newton_write(x, x->groups + i, at + solved);
  for (int64_t i = 0; i < x->k->states; i++)
    for (int64_t r = 0; r < x->rows; r++) memcpy(ROW(i, r), END(i, r, good - 1), (size_t)w->c * sizeof(T));
  return solved;
}
/* Some steps one after another. */
static __attribute__((unused)) void newton_singly(struct newton_block *x, int64_t at, int64_t n) {
  struct newton_group *g = &x->solo;
  const struct newton_place *w = &g->w;
  g->w.first = at, g->w.end = at + n, g->w.size = (n + NEWTON_SMALLEST - 1) / NEWTON_SMALLEST * NEWTON_SMALLEST;
  x->k->pack(g->frame, w);
  newton_spread_row(x, g, g->starts);
  newton_walk(x, g, n - 1);
  newton_write(x, g, at + n);
  for (int64_t i = 0; i < x->numbers; i++) memcpy(x->row + i * w->c, g->tail + i * w->np, (size_t)w->c * sizeof(T));
}
static __attribute__((unused)) int newton_solve_block(const struct newton_kernel *k, const struct newton_call *call,
    int64_t task, int64_t team, struct newton_report *report) {
  struct newton_block x = {.k = k, .call = call, .team = team};
  if (!newton_block_begin(&x, task, k->states + k->states * k->states + 1)) return 1;
  const int64_t all = x.groups->w.segments * team, tiny = NEWTON_SMALLEST;
  int64_t size = x.size, stretch = NEWTON_STRETCH, warm = report->warm;
  for (int64_t at = 0; at < call->steps;) {
    const int64_t left = call->steps - at;
    if (size < tiny) {
      const int64_t to = at + (stretch < left ? stretch : left);
      report->sequential += to - at;
      for (int64_t n; at < to; at += n) {
        n = to - at < x.size ? to - at : x.size;
        newton_singly(&x, at, n);
      }
      stretch = 2 * stretch, size = tiny;
      continue;
    }
    int64_t fit = ((left + all - 1) / all + tiny - 1) / tiny * tiny, walks;
    fit = fit < size ? fit : size;
    const int64_t n = newton_window(&x, at, fit, warm, report, &walks);
    report->windows++, report->walks += walks;
    if (walks > 1) warm = warm < fit ? 2 * warm : warm;
    if (n == (left < fit * all ? left : fit * all)) size = 2 * size < x.size ? 2 * size : x.size;
    else report->shrunk++, size = fit == tiny ? 0 : fit / 4 < tiny ? tiny : fit / 4 / tiny * tiny;
    at += n;
  }
  report->warm = warm;
  k->end(&x.groups->w, x.row);
  free(x.memory);
  return 0;
}

/* ---------------------------------------------------------------- backward */

/* The gradient in front of a window from the one behind it, in the rows; `kept` has the states at which it begins. */
static __attribute__((unused)) void newton_pull_window(struct newton_block *x, int64_t at, int64_t n, int64_t size) {
  const struct newton_place *w = &x->groups->w;
  const int64_t states = x->k->states, last = (n - 1) / size, last_t = (n - 1) % size, apart = x->numbers * x->width;
#pragma omp parallel for num_threads((int)x->team) if (x->team > 1) schedule(static)
  for (int64_t i = 0; i < x->team; i++) {
    struct newton_group *g = x->groups + i;
    const int64_t np = g->w.np, many = x->rows * np, stop = last / w->segments == i ? last_t + 1 : size;
    g->w.first = at + i * g->w.segments * size, g->w.end = at + n, g->w.size = size;
    if (i * w->segments > last) continue;
    x->k->pack(g->frame, &g->w);
    for (int64_t m = 0; m < x->numbers; m++) /* one state for each segment: `size` steps apart */
      newton_gather(&g->w, size, g->now + m * np, 0, x->kept + m * x->width + (g->w.first / NEWTON_SMALLEST - g->w.first / size * (size / NEWTON_SMALLEST)) * apart, size / NEWTON_SMALLEST * apart, 1);
    T *p = g->now + states * many;
    for (int64_t a = 0; a < states; a++)
      for (int64_t c = 0; c < states; c++, p += many) for (int64_t m = 0; m < many; m++) p[m] = a == c;
    memset(p, 0, (size_t)(states * many) * sizeof(T));
    x->k->again(g->frame, g->now, g->kept, 0, stop);
    memcpy(g->tail, g->now, (size_t)(x->total * np) * sizeof(T));
    if (stop < size) x->k->again(g->frame, g->now, g->kept, stop, size);
    memset(g->starts, 0, (size_t)(x->numbers * np) * sizeof(T));
  }
  T g[states], next[states];
  for (int64_t r = 0; r < x->rows; r++)
    for (int64_t j = 0; j < w->c; j++) {
      for (int64_t i = 0; i < states; i++) g[i] = ROW(i, r)[j];
      for (int64_t k = last; k >= 0; k--) {
        for (int64_t i = 0; i < states; i++) START(i, r, k)[j] = g[i];
        for (int64_t i = 0; i < states; i++) {
          next[i] = END(states + states * states + i, r, k)[j];
          for (int64_t m = 0; m < states; m++) if (g[m] != 0) next[i] += END(states + m * states + i, r, k)[j] * g[m];
        }
        for (int64_t i = 0; i < states; i++) g[i] = next[i];
      }
    }
#pragma omp parallel for num_threads((int)x->team) if (x->team > 1) schedule(static)
  for (int64_t i = 0; i < x->team; i++) {
    struct newton_group *g = x->groups + i;
    if (i * w->segments > last) continue;
    const size_t bytes = (size_t)(x->numbers * g->w.np) * sizeof(T);
    const int64_t ends = last / w->segments == i, stop = ends ? last_t + 1 : size;
    memcpy(g->now, g->starts, bytes);
    if (stop < size) { /* steps that are not there: only other segments need them */
      x->k->adjoint(g->frame, g->kept, g->now, stop, size);
      const int64_t lane = newton_lane(&g->w, last % w->segments);
      for (int64_t m = 0; m < x->numbers; m++)
        memcpy(g->now + m * g->w.np + lane, g->starts + m * g->w.np + lane, (size_t)g->w.c * sizeof(T));
      x->k->clear(g->frame, &g->w, last % w->segments);
    }
    x->k->adjoint(g->frame, g->kept, g->now, 0, stop);
    if (ends) x->k->clear(g->frame, &g->w, last % w->segments + 1);
    x->k->unpack(g->frame, &g->w);
  }
  for (int64_t i = 0; i < states; i++)
    for (int64_t r = 0; r < x->rows; r++) memcpy(ROW(i, r), newton_at(x, x->groups, 0, 0, i, r, 0), (size_t)w->c * sizeof(T));
}
static __attribute__((unused)) int newton_pull_block(const struct newton_kernel *k, const struct newton_call *call,
    int64_t task, int64_t team, struct newton_report *report) {
  struct newton_block x = {.k = k, .call = call, .team = team};
  if (!newton_block_begin(&x, task, 2 * k->states + k->states * k->states)) return 1;
  const int64_t all = x.groups->w.segments * team, tiny = NEWTON_SMALLEST, most = x.size * all;
  (void)report;
  for (int64_t end = call->steps; end > 0;) {
    const int64_t at = (end - 1) / most * most, n = end - at;
    int64_t fit = ((n + all - 1) / all + tiny - 1) / tiny * tiny;
    fit = fit < x.size ? fit : x.size;
    newton_pull_window(&x, at, n, fit);
    end = at;
  }
  for (int64_t i = 0; i < team; i++) k->totals(x.groups[i].frame, &x.groups[i].w);
  k->end(&x.groups->w, x.row);
  free(x.memory);
  return 0;
}

/* ---------------------------------------------------------------- calls */

/* All blocks: one thread each where there are as many, else all threads for one after another. */
static __attribute__((unused)) int newton_blocks(
    int (*solve)(const struct newton_kernel *, const struct newton_call *, int64_t, int64_t, struct newton_report *),
    const struct newton_kernel *k, const struct newton_call *call, struct newton_report *report) {
  const int64_t tasks = call->batch * call->blocks, apart = tasks >= call->threads;
  const struct newton_report first = *report;
  int failed = 0;
#pragma omp parallel for num_threads((int)call->threads) if (apart && call->threads > 1) schedule(dynamic)
  for (int64_t task = 0; task < tasks; task++) {
    struct newton_report mine = {.warm = first.warm};
    const int bad = solve(k, call, task, apart ? 1 : call->threads, &mine);
#pragma omp critical
    {
      failed |= bad;
      report->windows += mine.windows, report->walks += mine.walks, report->damped += mine.damped;
      report->shrunk += mine.shrunk;
      report->sequential = mine.sequential > report->sequential ? mine.sequential : report->sequential;
      report->warm = mine.warm > report->warm ? mine.warm : report->warm;
      report->residual = mine.residual > report->residual ? mine.residual : report->residual;
      report->correction = mine.correction > report->correction ? mine.correction : report->correction;
    }
  }
  return failed;
}
