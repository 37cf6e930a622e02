/* The decays inside a chunk, one number a row or one for each key, and the products of rows under them.
 *
 * Row r of a chunk first decays the state by d_r, then writes u_r.  A reader that sees the first `seen` rows finds the
 * write of row s < seen with the weight
 *
 *   W = product of d_r for s < r < seen,
 *
 * the state before the chunk with the product of all d_r for r < seen.  Every weight is a product of decays: nothing is
 * divided, no logarithm is subtracted from another, so a decay may be as strong as it likes, and exactly 0.
 *
 * One number a row: W is a table, beside plain products.  A decay for each key: pairs of rows of the same half of a
 * chunk are walked one by one, with the product so far in a register; between the halves W is a product of two vectors,
 * (from the middle to the reader) (from the row to the middle), and the pairs are a product of matrices.
 */
#define HALF (CHUNK / 2)
#define LEAST_LOG -1e4 /* e to it is 0, and sums of it are exact enough in double precision */

/* Of a decay by keys rows have kp numbers, else one.  d: decays; from: their product up to row r; end: that behind row r;
 * total: that of all.  table: [CHUNK + 1, CHUNK] of W by seen and s, for decays of one number.  By keys, for `pairs` and
 * `spread`: far: writes of the first half decayed to the middle, near: readers of the second half decayed from it. */
struct decays {
  int keyed;
  int64_t k, kp;
  T *d, *from, *end, *total, *table, *turned, *far, *near, *side, *slope;
  double sums[CHUNK + 1]; /* what `slope` is by keys: see `slopes` */
};

static int64_t decay_numbers(int64_t kp, int keyed) {
  const int64_t tables = (keyed ? CHUNK * kp * 4 + 2 * kp : CHUNK * (CHUNK + 4) + 2 * LANES) + CHUNK;
  return tables + kp * CHUNK + (keyed ? kp * 3 * CHUNK : 0);
}
static void place_decays(struct decays *f, T **m, int64_t k, int64_t kp, int keyed) {
  const int64_t wide = keyed ? kp : 1;
  memset(f, 0, sizeof *f);
  f->keyed = keyed, f->k = k, f->kp = kp;
  f->d = take(m, CHUNK * wide), f->from = take(m, (CHUNK + 1) * wide), f->end = take(m, CHUNK * wide);
  f->total = f->from + CHUNK * wide, f->turned = take(m, kp * CHUNK);
  if (keyed) {
    f->far = take(m, HALF * kp), f->near = take(m, CHUNK * kp), f->side = take(m, CHUNK * kp);
    f->slope = take(m, (CHUNK + 1) * kp);
  } else f->table = take(m, (CHUNK + 1) * CHUNK);
}

static void decays_by_keys(struct decays *f, const T *log_decay, int64_t stride, int64_t rows) {
  const int64_t kp = f->kp;
  gather(log_decay, stride, rows, f->k, f->d, kp);
  for (int64_t j = 0; j < kp; j += LANES) {
    V sum = {0}, product = splat(1);
    for (int64_t r = 0; r < CHUNK; r++) {
      T *d = f->d + r * kp + j;
      const V x = load(d, LANES), decay = v_exp(x);
      store(d, decay, LANES), store(f->from + r * kp + j, product, LANES);
      sum += x, product *= decay;
    }
    store(f->total + j, v_exp(sum), LANES); /* what is left of long memories, to the last digit */
    product = splat(1);
    for (int64_t r = CHUNK - 1; r >= 0; r--) {
      store(f->end + r * kp + j, product, LANES);
      product *= load(f->d + r * kp + j, LANES);
    }
  }
}
static void decays_of_rows(struct decays *f, const T *log_decay, int64_t stride, int64_t rows) {
  double g[CHUNK + 1] = {0};
  for (int r = 0; r < CHUNK; r++) {
    T x = log_decay && r < rows ? log_decay[r * stride] : 0;
    if (x < LEAST_LOG) x = LEAST_LOG;
    f->d[r] = x, g[r + 1] = g[r] + (double)x;
  }
  for (int r = 0; r < CHUNK; r++) f->from[r] = (T)g[r + 1], f->end[r] = (T)(g[CHUNK] - g[r + 1]);
  for (int r = 0; r < CHUNK; r += LANES) {
    store(f->d + r, v_exp(load(f->d + r, LANES)), LANES);
    store(f->from + r, v_exp(load(f->from + r, LANES)), LANES);
    store(f->end + r, v_exp(load(f->end + r, LANES)), LANES);
  }
  memmove(f->from + 1, f->from, sizeof(T) * CHUNK);
  f->from[0] = 1;
  memset(f->table, 0, sizeof(T) * CHUNK);
  for (int r = 0; r < CHUNK; r++) {
    T *row = f->table + (r + 1) * CHUNK;
    for (int s = 0; s < CHUNK; s += LANES) store(row + s, load(row - CHUNK + s, LANES) * f->d[r], LANES);
    row[r] = 1;
  }
}

INLINE V weight_of(const struct decays *f, const T *table, int64_t row, int64_t j) {
  return f->keyed ? load(table + row * f->kp + j, LANES) : splat(table[row]);
}
/* to_i = x_i times line at[i] of `from` or `end`. */
static void decayed(const struct decays *f, const T *table, const T *x, int64_t rows, const int *at, T *to) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < f->kp; j += LANES)
      store(to + i * f->kp + j, load(x + i * f->kp + j, LANES) * weight_of(f, table, at[i], j), LANES);
}
/* S [k, vp] decayed by the whole chunk. */
static void decayed_state(const struct decays *f, T *S, int64_t vp) {
  for (int64_t i = 0; i < f->k; i++, S += vp) {
    const T by = f->total[f->keyed ? i : 0];
    if (by != 1) for (int64_t j = 0; j < vp; j += LANES) store(S + j, load(S + j, LANES) * by, LANES);
  }
}

/* Before `pairs` and `spread` with these writes u [CHUNK, kp]. */
static void face(struct decays *f, const T *u) {
  if (!f->keyed) {
    transpose(u, CHUNK, f->kp, f->kp, f->turned, CHUNK);
    return;
  }
  for (int64_t j = 0; j < f->kp; j += LANES) {
    V w = splat(1);
    for (int64_t s = HALF - 1; s >= 0; s--) {
      store(f->far + s * f->kp + j, load(u + s * f->kp + j, LANES) * w, LANES);
      w *= load(f->d + s * f->kp + j, LANES);
    }
  }
  transpose(f->far, HALF, f->kp, f->kp, f->turned, HALF);
}
/* The first of the readers (in the order of what they see) that sees rows of the second half. */
static int64_t later(const int *seen, int64_t readers) {
  int64_t i = 0;
  while (i < readers && seen[i] <= HALF) i++;
  return i;
}

/* scores [i, s] = sum over the keys of x_i W u_s; 0 where row s is not seen. */
static void pairs(struct decays *f, const T *x, int64_t readers, const int *seen, const T *u, T *scores) {
  const int64_t kp = f->kp, middle = later(seen, readers);
  if (!f->keyed) {
    multiply(SET, readers, CHUNK, f->k, x, kp, 1, f->turned, CHUNK, scores, CHUNK);
    for (int64_t i = 0; i < readers; i++)
      for (int s = 0; s < CHUNK; s += LANES) {
        T *to = scores + i * CHUNK + s;
        store(to, load(to, LANES) * load(f->table + seen[i] * CHUNK + s, LANES), LANES);
      }
    return;
  }
  for (int64_t i = 0; i < readers; i++) {
    const int first = i < middle ? 0 : HALF, rows = seen[i] - first;
    V sums[HALF];
    memset(sums, 0, sizeof sums);
    for (int64_t j = 0; j < kp; j += LANES) {
      V y = load(x + i * kp + j, LANES);
      for (int s = rows - 1; s >= 0; s--) {
        const int64_t at = (first + s) * kp + j;
        sums[s] += y * load(u + at, LANES);
        y *= load(f->d + at, LANES);
      }
      if (first) store(f->near + i * kp + j, y, LANES);
    }
    memset(scores + i * CHUNK, 0, sizeof(T) * CHUNK);
    totals((const T *)sums, rows, scores + i * CHUNK + first, 1);
  }
  multiply(SET, readers - middle, HALF, f->k, f->near + middle * kp, kp, 1, f->turned, HALF, scores + middle * CHUNK, CHUNK);
}

/* dx_i += sum over s of P [i, s] W u_s, and where there is a du, du_s += sum over i of P [i, s] W x_i: the gradients of `pairs`.
 * P is overwritten where the decays are of one number. */
static void spread(struct decays *f, T *P, const T *x, int64_t readers, const int *seen, const T *u, T *dx, T *du) {
  const int64_t kp = f->kp, middle = later(seen, readers);
  if (!f->keyed) {
    for (int64_t i = 0; i < readers; i++)
      for (int s = 0; s < CHUNK; s += LANES) {
        T *p = P + i * CHUNK + s;
        store(p, load(p, LANES) * load(f->table + seen[i] * CHUNK + s, LANES), LANES);
      }
    multiply(ADD, readers, kp, CHUNK, P, CHUNK, 1, u, kp, dx, kp);
    multiply(ADD, CHUNK, kp, readers, P, 1, CHUNK, x, kp, du, kp);
    return;
  }
  multiply(SET, readers - middle, kp, HALF, P + middle * CHUNK, CHUNK, 1, f->far, kp, f->side + middle * kp, kp);
  for (int64_t i = 0; i < readers; i++) {
    const int first = i < middle ? 0 : HALF;
    for (int64_t j = 0; j < kp; j += LANES) {
      const V y = du ? load(x + i * kp + j, LANES) : (V){0};
      V w = splat(1), sum = {0};
      for (int s = seen[i] - 1; s >= first; s--) {
        const int64_t at = s * kp + j;
        const V weight = P[i * CHUNK + s] * w;
        sum += weight * load(u + at, LANES);
        if (du) store(du + at, load(du + at, LANES) + weight * y, LANES);
        w *= load(f->d + at, LANES);
      }
      if (first) {
        sum += w * load(f->side + i * kp + j, LANES);
        store(f->near + i * kp + j, w * y, LANES);
      }
      store(dx + i * kp + j, load(dx + i * kp + j, LANES) + sum, LANES);
    }
  }
  if (!du) return;
  multiply(SET, HALF, kp, readers - middle, P + middle * CHUNK, 1, CHUNK, f->near + middle * kp, kp, f->side, kp);
  for (int64_t j = 0; j < kp; j += LANES) {
    V w = splat(1);
    for (int64_t s = HALF - 1; s >= 0; s--) {
      const int64_t at = s * kp + j;
      store(du + at, load(du + at, LANES) + w * load(f->side + at, LANES), LANES);
      w *= load(f->d + at, LANES);
    }
  }
}

/* Gradients of the logarithms of `from`, line by line.  What line at[i] multiplies (sign 1) or divides (-1) in all that x_i is
 * used for adds sign x_i dx_i. */
static void slopes(struct decays *f, T sign, const T *x, const T *dx, int64_t rows, const int *at) {
  for (int64_t i = 0; i < rows; i++, x += f->kp, dx += f->kp) {
    if (!f->keyed) {
      f->sums[at[i]] += (double)(sign * dot(x, dx, f->kp));
      continue;
    }
    T *to = f->slope + at[i] * f->kp;
    for (int64_t j = 0; j < f->kp; j += LANES)
      store(to + j, load(to + j, LANES) + sign * load(x + j, LANES) * load(dx + j, LANES), LANES);
  }
}
static void no_slopes(struct decays *f) {
  memset(f->sums, 0, sizeof f->sums);
  if (f->keyed) memset(f->slope, 0, sizeof(T) * (size_t)((CHUNK + 1) * f->kp));
}
/* The state S before the chunk is decayed by the total, D is the gradient behind it. */
static void slope_of_state(struct decays *f, const T *S, const T *D, int64_t vp) {
  for (int64_t i = 0; i < f->k; i++) {
    const T x = f->total[f->keyed ? i : 0] * dot(S + i * vp, D + i * vp, vp);
    if (f->keyed) f->slope[CHUNK * f->kp + i] += x;
    else f->sums[CHUNK] += (double)x;
  }
}
/* The gradients of the logarithms of the decays themselves: those of all lines behind them.  At a decay of 0 it is 0. */
static void decay_gradient(const struct decays *f, T *out, int64_t stride, int64_t rows) {
  double last = 0;
  if (!f->keyed)
    for (int64_t r = CHUNK - 1; r >= 0; r--) {
      last += f->sums[r + 1];
      if (r < rows) out[r * stride] = f->d[r] == 0 ? 0 : (T)last;
    }
  else for (int64_t j = 0; j < f->k; j += LANES) {
    V sum = {0};
    for (int64_t r = CHUNK - 1; r >= 0; r--) {
      sum += load(f->slope + (r + 1) * f->kp + j, LANES);
      const V found = pick(load(f->d + r * f->kp + j, LANES) == 0, (V){0}, sum);
      if (r < rows) store(out + r * stride + j, found, f->k - j < LANES ? (int)(f->k - j) : LANES);
    }
  }
}
