/* Matrix states under a scalar decay, chunk by chunk, with products whose tiles stay in registers.
 *
 *   S_t = a_t S_{t-1} + u_t w_t^T,   w_t = v_t + c_t S_{t-1}^T b_t (without b: w_t = v_t),   y_t = S_t^T q_t
 *
 * for S [K, V].  Let g_t be the sum of the log decays from the chunk's start to step t.  Inside a chunk
 *
 *   w_t = v_t + p_t S_0^T b_t + sum over s < t of N_ts w_s,   p_t = c_t e^{g_{t-1}},   N_ts = c_t e^{g_{t-1} - g_s} b_t.u_s
 *   y_t = e^{g_t} S_0^T q_t + sum over s <= t of A_ts w_s,    A_ts = e^{g_t - g_s} q_t.u_s
 *   S_C = e^{g_C} S_0 + sum over s of e^{g_C - g_s} u_s w_s^T
 *
 * (the UT transform of Yang et al. 2024).  All that touches the state is a product of matrices with CHUNK rows or
 * columns.  The backward runs through the chunks from the last to the first with the derivative of these lines; it
 * starts from the states before each chunk and the w, which the forward leaves.  Compiled behind `vector_math.h`.
 */
#define CHUNK 32
#define WIDE (2 * LANES)
#if VECTOR_BYTES == 64 /* 32 registers: 24 sums, two vectors of B, a number of A */
#define TALL 12
#else
#define TALL 6
#endif
#define LEAST_LOG -1e4 /* e to it is 0, and sums of it are exact enough in double precision */
#define UNROLLED _Pragma("GCC unroll 12")
enum { SET, ADD };

/* C [m, n] = or += A B.  A has strides (ai, ak); rows of B and C are whole vectors, n is a multiple of LANES. */
#define TILE(rows, vectors) \
  { \
    V s[rows][vectors]; \
    UNROLLED for (int r = 0; r < rows; r++) for (int e = 0; e < vectors; e++) s[r][e] = (V){0}; \
    const T *x = a, *y = b + j; \
    for (int64_t d = 0; d < depth; d++, x += ak, y += ldb) { \
      V z[vectors]; \
      for (int e = 0; e < vectors; e++) z[e] = load(y + e * LANES, LANES); \
      UNROLLED for (int r = 0; r < rows; r++) for (int e = 0; e < vectors; e++) s[r][e] += x[r * ai] * z[e]; \
    } \
    UNROLLED for (int r = 0; r < rows; r++) for (int e = 0; e < vectors; e++) { \
      T *to = c + r * ldc + j + e * LANES; \
      store(to, mode == ADD ? load(to, LANES) + s[r][e] : s[r][e], LANES); \
    } \
  }
static void multiply(int mode, int64_t m, int64_t n, int64_t depth, const T *a, int64_t ai, int64_t ak, const T *b,
    int64_t ldb, T *c, int64_t ldc) {
  for (; m >= TALL; m -= TALL, a += TALL * ai, c += TALL * ldc) {
    int64_t j = 0;
    for (; j + WIDE <= n; j += WIDE) TILE(TALL, 2)
    for (; j < n; j += LANES) TILE(TALL, 1)
  }
  for (; m >= 4; m -= 4, a += 4 * ai, c += 4 * ldc) {
    int64_t j = 0;
    for (; j + WIDE <= n; j += WIDE) TILE(4, 2)
    for (; j < n; j += LANES) TILE(4, 1)
  }
  for (; m > 0; m--, a += ai, c += ldc) {
    int64_t j = 0;
    for (; j + WIDE <= n; j += WIDE) TILE(1, 2)
    for (; j < n; j += LANES) TILE(1, 1)
  }
}

static void transpose(const T *x, int64_t rows, int64_t columns, int64_t ldx, T *y, int64_t ldy) {
  for (int64_t i = 0; i < rows; i += 8)
    for (int64_t j = 0; j < columns; j += 8)
      for (int64_t p = i; p < i + 8 && p < rows; p++)
        for (int64_t q = j; q < j + 8 && q < columns; q++) y[q * ldy + p] = x[p * ldx + q];
}
static void scale_rows(T *x, int64_t rows, int64_t n, const T *by) {
  for (int64_t r = 0; r < rows; r++, x += n)
    for (int64_t j = 0; j < n; j += LANES) store(x + j, load(x + j, LANES) * by[r], LANES);
}
INLINE T dot(const T *x, const T *y, int64_t n) {
  V s = {0};
  for (int64_t j = 0; j < n; j += LANES) s += load(x + j, LANES) * load(y + j, LANES);
  return total(s);
}
/* Rows of a sequence into whole vectors; zeros behind the last row and the last column. */
static void gather(const T *x, int64_t stride, int64_t rows, int64_t n, T *to, int64_t wide) {
  memset(to, 0, sizeof(T) * (size_t)(CHUNK * wide));
  for (int64_t r = 0; r < rows; r++) memcpy(to + r * wide, x + r * stride, sizeof(T) * (size_t)n);
}
static void scatter(T *x, int64_t stride, int64_t rows, int64_t n, const T *from, int64_t wide) {
  for (int64_t r = 0; r < rows; r++) memcpy(x + r * stride, from + r * wide, sizeof(T) * (size_t)n);
}

/* What a chunk is: its inputs in whole vectors, and what follows from them.  e: e^g, before: e^{g_{t-1}}, end: e^{g_C - g},
 * p as above; weight is e^{g_t - g_s} for s <= t, and 0 for s > t; strict is the same of the row before, e^{g_{t-1} - g_s}. */
struct chunk {
  T *q, *u, *v, *b, *w, *A, *N, *turned, *weight, *strict, e[CHUNK], before[CHUNK], end[CHUNK], p[CHUNK], c[CHUNK], last;
};

static void weigh(struct chunk *f, const T *log_decay, int64_t stride, const T *c, int64_t c_stride, int64_t rows) {
  double g[CHUNK], sum = 0;
  T step[CHUNK];
  for (int t = 0; t < CHUNK; t++) {
    step[t] = log_decay && t < rows ? log_decay[t * stride] : 0;
    if (step[t] < LEAST_LOG) step[t] = LEAST_LOG;
    g[t] = sum += (double)step[t];
    f->c[t] = t < rows ? (c ? c[t * c_stride] : 1) : 0;
  }
  for (int t = 0; t < CHUNK; t++) f->e[t] = (T)g[t], f->end[t] = (T)(sum - g[t]);
  for (int t = 0; t < CHUNK; t += LANES) {
    store(f->e + t, v_exp(load(f->e + t, LANES)), LANES);
    store(f->end + t, v_exp(load(f->end + t, LANES)), LANES);
    store(step + t, v_exp(load(step + t, LANES)), LANES);
  }
  f->last = f->e[CHUNK - 1];
  memset(f->strict, 0, sizeof(T) * CHUNK);
  f->weight = f->strict + CHUNK;
  for (int t = 0; t < CHUNK; t++) {
    T *row = f->weight + t * CHUNK;
    for (int s = 0; s < CHUNK; s += LANES) store(row + s, load(row - CHUNK + s, LANES) * step[t], LANES);
    row[t] = 1;
    f->before[t] = t ? f->e[t - 1] : 1;
    f->p[t] = f->c[t] * f->before[t];
  }
}

/* A and N, and (plain) the products of rows that they are made of, without decays. */
static void pairs(struct chunk *f, int64_t kp) {
  transpose(f->u, CHUNK, kp, kp, f->turned, CHUNK);
  multiply(SET, CHUNK, CHUNK, kp, f->q, kp, 1, f->turned, CHUNK, f->A, CHUNK);
  for (int i = 0; i < CHUNK * CHUNK; i += LANES) store(f->A + i, load(f->A + i, LANES) * load(f->weight + i, LANES), LANES);
  if (!f->b) return;
  multiply(SET, CHUNK, CHUNK, kp, f->b, kp, 1, f->turned, CHUNK, f->N, CHUNK);
  for (int i = 0; i < CHUNK * CHUNK; i += LANES) store(f->N + i, load(f->N + i, LANES) * load(f->strict + i, LANES), LANES);
}

/* arrays: log_decay, c, u, v, b, q, state, then y, final, starts, w; of those log_decay, c and b may be null.
 * sizes: batch, heads, T, K, V.  strides: of each sequence (log_decay, c, u, v, b, q, y, w) those of batch, time, heads; states
 * are [batch, heads, K, V], starts [batch, heads, chunks, K, V] (null: nothing is kept), all without gaps. */
#define AT(n, of) ((of) ? (of) + i_b * strides[3 * (n)] + i_h * strides[3 * (n) + 2] : (of))
#define EACH_TASK \
  for (int64_t task = 0; task < batch * heads; task++)

static int64_t numbers(int64_t kp, int64_t vp) {
  return CHUNK * (4 * kp + 2 * vp + 3 * CHUNK + 1);
}
static void place(struct chunk *f, T *m, int64_t kp, int64_t vp, int has_b) {
  f->q = m, m += CHUNK * kp, f->u = m, m += CHUNK * kp, f->b = has_b ? m : NULL, m += CHUNK * kp;
  f->v = m, m += CHUNK * vp, f->w = m, m += CHUNK * vp;
  f->A = m, m += CHUNK * CHUNK, f->N = m, m += CHUNK * CHUNK, f->turned = m, m += CHUNK * kp;
  f->strict = m; /* one row more than the others */
}

int rnnc_chunkwise_forward(void *const *arrays, const int64_t *sizes, const int64_t *strides, int64_t threads) {
  const int64_t batch = sizes[0], heads = sizes[1], steps = sizes[2], k = sizes[3], n = sizes[4];
  const int64_t kp = (k + LANES - 1) / LANES * LANES, vp = (n + LANES - 1) / LANES * LANES;
  const int64_t chunks = (steps + CHUNK - 1) / CHUNK;
  const T *log_decay = arrays[0], *c = arrays[1], *u = arrays[2], *v = arrays[3], *b = arrays[4], *q = arrays[5];
  const T *state = arrays[6];
  T *y = arrays[7], *final = arrays[8], *starts = arrays[9], *w = arrays[10];
  int failed = 0;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
  {
    T *memory = aligned_alloc(64, sizeof(T) * (size_t)((numbers(kp, vp) + kp * vp + CHUNK * vp + 64) / 64 * 64));
    if (!memory) failed = 1;
    T *S = memory, *out = S + kp * vp;
    struct chunk f;
    if (memory) place(&f, out + CHUNK * vp, kp, vp, b != NULL);
#pragma omp for schedule(static)
    EACH_TASK {
      if (!memory) continue;
      const int64_t i_b = task / heads, i_h = task % heads;
      memset(S, 0, sizeof(T) * (size_t)(kp * vp));
      for (int64_t i = 0; i < k; i++) memcpy(S + i * vp, state + (task * k + i) * n, sizeof(T) * (size_t)n);
      const T *gt = AT(0, log_decay), *ct = AT(1, c), *ut = AT(2, u), *vt = AT(3, v), *bt = AT(4, b), *qt = AT(5, q);
      T *yt = AT(6, y), *wt = AT(7, w);
      for (int64_t at = 0; at < chunks; at++) {
        const int64_t t0 = at * CHUNK, rows = steps - t0 < CHUNK ? steps - t0 : CHUNK;
        if (starts)
          for (int64_t i = 0; i < k; i++)
            memcpy(starts + ((task * chunks + at) * k + i) * n, S + i * vp, sizeof(T) * (size_t)n);
        weigh(&f, gt ? gt + t0 * strides[1] : NULL, strides[1], ct ? ct + t0 * strides[4] : NULL, strides[4], rows);
        gather(ut + t0 * strides[7], strides[7], rows, k, f.u, kp);
        gather(vt + t0 * strides[10], strides[10], rows, n, f.w, vp);
        gather(qt + t0 * strides[16], strides[16], rows, k, f.q, kp);
        if (b) gather(bt + t0 * strides[13], strides[13], rows, k, f.b, kp);
        pairs(&f, kp);
        if (b) {
          multiply(SET, CHUNK, vp, k, f.b, kp, 1, S, vp, out, vp);
          for (int t = 0; t < CHUNK; t++)
            for (int64_t j = 0; j < vp; j += LANES) {
              V x = load(out + t * vp + j, LANES) * f.before[t];
              for (int s = 0; s < t; s++) x += f.N[t * CHUNK + s] * load(f.w + s * vp + j, LANES);
              store(f.w + t * vp + j, load(f.w + t * vp + j, LANES) + f.c[t] * x, LANES);
            }
        }
        multiply(SET, CHUNK, vp, k, f.q, kp, 1, S, vp, out, vp);
        scale_rows(out, CHUNK, vp, f.e);
        multiply(ADD, CHUNK, vp, CHUNK, f.A, CHUNK, 1, f.w, vp, out, vp);
        scatter(yt + t0 * strides[19], strides[19], rows, n, out, vp);
        if (w) scatter(wt + t0 * strides[22], strides[22], rows, n, f.w, vp);
        scale_rows(f.u, CHUNK, kp, f.end);
        if (f.last != 1) for (int64_t i = 0; i < kp * vp; i += LANES) store(S + i, load(S + i, LANES) * f.last, LANES);
        multiply(ADD, k, vp, rows, f.u, 1, kp, f.w, vp, S, vp);
      }
      for (int64_t i = 0; i < k; i++) memcpy(final + (task * k + i) * n, S + i * vp, sizeof(T) * (size_t)n);
    }
    free(memory);
  }
  return failed;
}

/* arrays: those of the forward up to q, then starts, w, dy, d_final; then what is written: d_log_decay, dc, du, dv, db, dq,
 * d_state (log_decay's, c's and b's may be null).  strides: log_decay, c, u, v, b, q, w, dy, d_log_decay, dc, du, dv, db, dq.
 */
int rnnc_chunkwise_backward(void *const *arrays, const int64_t *sizes, const int64_t *strides, int64_t threads) {
  const int64_t batch = sizes[0], heads = sizes[1], steps = sizes[2], k = sizes[3], n = sizes[4];
  const int64_t kp = (k + LANES - 1) / LANES * LANES, vp = (n + LANES - 1) / LANES * LANES;
  const int64_t chunks = (steps + CHUNK - 1) / CHUNK;
  const T *log_decay = arrays[0], *c = arrays[1], *u = arrays[2], *b = arrays[4], *q = arrays[5], *starts = arrays[6];
  const T *w = arrays[7], *dy = arrays[8], *d_final = arrays[9];
  T *dg = arrays[10], *dc = arrays[11], *du = arrays[12], *dv = arrays[13], *db = arrays[14], *dq = arrays[15];
  T *d_state = arrays[16];
  int failed = 0;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
  {
    const int64_t more = 2 * kp * vp + 4 * CHUNK * vp + vp * CHUNK + 4 * CHUNK * kp + 4 * CHUNK * CHUNK;
    T *memory = aligned_alloc(64, sizeof(T) * (size_t)((numbers(kp, vp) + more + 64) / 64 * 64));
    if (!memory) failed = 1;
    T *S = memory, *D = S + kp * vp; /* the state before the chunk, the gradient of that behind it */
    T *g = D + kp * vp, *z = g + CHUNK * vp, *P = z + CHUNK * vp, *Q = P + CHUNK * vp; /* [CHUNK, V]: dy, dw, B S, Q S */
    T *turned = Q + CHUNK * vp;                                   /* [V, CHUNK] */
    T *to_q = turned + vp * CHUNK, *to_b = to_q + CHUNK * kp, *to_u = to_b + CHUNK * kp, *side = to_u + CHUNK * kp;
    T *dA = side + CHUNK * kp, *dN = dA + CHUNK * CHUNK, *wA = dN + CHUNK * CHUNK, *wN = wA + CHUNK * CHUNK;
    struct chunk f;
    if (memory) place(&f, wN + CHUNK * CHUNK, kp, vp, b != NULL);
#pragma omp for schedule(static)
    EACH_TASK {
      if (!memory) continue;
      const int64_t i_b = task / heads, i_h = task % heads;
      memset(S, 0, sizeof(T) * (size_t)(2 * kp * vp));
      for (int64_t i = 0; i < k; i++) memcpy(D + i * vp, d_final + (task * k + i) * n, sizeof(T) * (size_t)n);
      const T *gt = AT(0, log_decay), *ct = AT(1, c), *ut = AT(2, u), *bt = AT(4, b), *qt = AT(5, q), *wt = AT(6, w);
      const T *yt = AT(7, dy);
      T *dgt = AT(8, dg), *dct = AT(9, dc), *dut = AT(10, du), *dvt = AT(11, dv), *dbt = AT(12, db), *dqt = AT(13, dq);
      for (int64_t at = chunks - 1; at >= 0; at--) {
        const int64_t t0 = at * CHUNK, rows = steps - t0 < CHUNK ? steps - t0 : CHUNK;
        double slope[CHUNK] = {0}, ends = 0; /* gradients of g_t, and of g_C beside */
        T slope_c[CHUNK] = {0};
        for (int64_t i = 0; i < k; i++)
          memcpy(S + i * vp, starts + ((task * chunks + at) * k + i) * n, sizeof(T) * (size_t)n);
        weigh(&f, gt ? gt + t0 * strides[1] : NULL, strides[1], ct ? ct + t0 * strides[4] : NULL, strides[4], rows);
        gather(ut + t0 * strides[7], strides[7], rows, k, f.u, kp);
        gather(qt + t0 * strides[16], strides[16], rows, k, f.q, kp);
        gather(wt + t0 * strides[19], strides[19], rows, n, f.w, vp);
        gather(yt + t0 * strides[22], strides[22], rows, n, g, vp);
        if (b) gather(bt + t0 * strides[13], strides[13], rows, k, f.b, kp);
        pairs(&f, kp);
        /* through S_C and y to w: z = end U D + A^T dy */
        multiply(SET, CHUNK, vp, k, f.u, kp, 1, D, vp, z, vp);
        scale_rows(z, CHUNK, vp, f.end);
        for (int s = 0; s < CHUNK; s++) { /* e^{g_C - g_s} u_s^T D w_s */
          const double x = dot(z + s * vp, f.w + s * vp, vp);
          slope[s] -= x, ends += x;
        }
        multiply(ADD, CHUNK, vp, CHUNK, f.A, 1, CHUNK, g, vp, z, vp);
        /* through w to v: (I - N)^T z' = z */
        if (b)
          for (int t = CHUNK - 2; t >= 0; t--)
            for (int64_t j = 0; j < vp; j += LANES) {
              V x = load(z + t * vp + j, LANES);
              for (int s = t + 1; s < CHUNK; s++) x += f.c[s] * f.N[s * CHUNK + t] * load(z + s * vp + j, LANES);
              store(z + t * vp + j, x, LANES);
            }
        scatter(dvt + t0 * strides[34], strides[34], rows, n, z, vp);
        /* to the pairs */
        transpose(f.w, CHUNK, vp, vp, turned, CHUNK);
        multiply(SET, CHUNK, CHUNK, vp, g, vp, 1, turned, CHUNK, dA, CHUNK);
        if (b) multiply(SET, CHUNK, CHUNK, vp, z, vp, 1, turned, CHUNK, dN, CHUNK);
        for (int t = 0; t < CHUNK; t++)
          for (int s = 0; s <= t; s++) {
            const int i = t * CHUNK + s;
            const double x = dA[i] * f.A[i];
            slope[t] += x, slope[s] -= x;
            if (!b || s == t) continue;
            const double r = dN[i] * f.N[i];
            slope_c[t] += (T)r;
            slope[t - 1] += f.c[t] * r, slope[s] -= f.c[t] * r;
          }
        for (int t = 0; t < CHUNK; t++)
          for (int s = 0; s < CHUNK; s += LANES) {
            const int i = t * CHUNK + s;
            store(wA + i, load(dA + i, LANES) * load(f.weight + i, LANES), LANES);
            if (b) store(wN + i, load(dN + i, LANES) * load(f.strict + i, LANES) * f.c[t], LANES);
          }
        /* through y to q, u */
        multiply(SET, CHUNK, vp, k, f.q, kp, 1, S, vp, Q, vp);
        for (int t = 0; t < CHUNK; t++) slope[t] += (double)f.e[t] * dot(g + t * vp, Q + t * vp, vp);
        scale_rows(g, CHUNK, vp, f.e);
        transpose(g, CHUNK, vp, vp, turned, CHUNK);
        multiply(SET, k, CHUNK, n, S, vp, 1, turned, CHUNK, side, CHUNK);
        transpose(side, k, CHUNK, CHUNK, to_q, kp);
        multiply(ADD, CHUNK, kp, CHUNK, wA, CHUNK, 1, f.u, kp, to_q, kp);
        multiply(SET, CHUNK, kp, CHUNK, wA, 1, CHUNK, f.q, kp, to_u, kp);
        /* through w to b, u */
        if (b) {
          multiply(SET, CHUNK, vp, k, f.b, kp, 1, S, vp, P, vp);
          for (int t = 0; t < CHUNK; t++) {
            const double x = dot(z + t * vp, P + t * vp, vp);
            slope_c[t] += (T)(f.before[t] * x);
            if (t) slope[t - 1] += f.p[t] * x;
          }
          scale_rows(z, CHUNK, vp, f.p);
          transpose(z, CHUNK, vp, vp, turned, CHUNK);
          multiply(SET, k, CHUNK, n, S, vp, 1, turned, CHUNK, side, CHUNK);
          transpose(side, k, CHUNK, CHUNK, to_b, kp);
          multiply(ADD, CHUNK, kp, CHUNK, wN, CHUNK, 1, f.u, kp, to_b, kp);
          multiply(ADD, CHUNK, kp, CHUNK, wN, 1, CHUNK, f.b, kp, to_u, kp);
          scatter(dbt + t0 * strides[37], strides[37], rows, k, to_b, kp);
        }
        /* through S_C to u: end W D^T */
        scale_rows(f.w, CHUNK, vp, f.end);
        transpose(f.w, CHUNK, vp, vp, turned, CHUNK);
        multiply(SET, k, CHUNK, n, D, vp, 1, turned, CHUNK, side, CHUNK);
        for (int64_t i = 0; i < k; i++)
          for (int t = 0; t < CHUNK; t++) to_u[t * kp + i] += side[i * CHUNK + t];
        scatter(dut + t0 * strides[31], strides[31], rows, k, to_u, kp);
        scatter(dqt + t0 * strides[40], strides[40], rows, k, to_q, kp);
        /* to the state before */
        double kept = 0;
        for (int64_t i = 0; i < k; i++) kept += dot(S + i * vp, D + i * vp, vp);
        ends += f.last * kept;
        if (f.last != 1) for (int64_t i = 0; i < kp * vp; i += LANES) store(D + i, load(D + i, LANES) * f.last, LANES);
        multiply(ADD, k, vp, rows, f.q, 1, kp, g, vp, D, vp);
        if (b) multiply(ADD, k, vp, rows, f.b, 1, kp, z, vp, D, vp);
        if (dg) {
          double sum = ends;
          for (int t = CHUNK - 1; t >= 0; t--) {
            sum += slope[t];
            if (t < rows) dgt[(t0 + t) * strides[25]] = (T)sum;
          }
        }
        if (dc) for (int t = 0; t < rows; t++) dct[(t0 + t) * strides[28]] = slope_c[t];
      }
      for (int64_t i = 0; i < k; i++) memcpy(d_state + (task * k + i) * n, D + i * vp, sizeof(T) * (size_t)n);
    }
    free(memory);
  }
  return failed;
}
