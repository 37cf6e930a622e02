"""C that the functions of whole single steps share: memory with gaps or of half precision, products of learned matrices
with vectors, functions of matrices."""

from __future__ import annotations

__all__ = ["HELPERS"]

HELPERS = """\
#define PARALLEL 262144 /* numbers of a matrix, or of all that a step reads, from which on two threads share the work */
#define AT_ONCE 64 /* sequences: their values stay in the caches */
#define STRIDED(suffix, N, number) \\
  INLINE V load_strided##suffix(const N *p, int64_t stride, int n) { \\
    V x = {0}; \\
    for (int i = 0; i < n; i++) x[i] = number(p[i * stride]); \\
    return x; \\
  }
#define as_it_is(x) (x)
STRIDED(, T, as_it_is)
#ifdef RNNC_E
STRIDED(_e, E, from_e)
INLINE void rounded_to(E *to, const T *x, int64_t size) {
  for (int64_t j = 0; j < size; j += LANES) {
    const int n = size - j < LANES ? (int)(size - j) : LANES;
    store_e(to + j, load(x + j, n), n);
  }
}
#else
#define load_strided_e load_strided
#endif
INLINE void store_strided(T *p, int64_t stride, V x, int n) {
  for (int i = 0; i < n; i++) p[i * stride] = x[i];
}
INLINE V lane_numbers(int64_t from) {
  const M lane = NUMBERED;
  return __builtin_convertvector(lane, V) + (T)from;
}
INLINE V lanes_or(V x, int n, T otherwise) {
  const M lane = NUMBERED;
  return n == LANES ? x : pick(lane < splat_mask(1) * (W)-n, x, splat(otherwise));
}
INLINE T most(V x) {
  for (int i = 1; i < LANES; i++) x[0] = x[0] != x[0] || x[0] > x[i] ? x[0] : x[i];
  return x[0];
}
INLINE T least(V x) {
  for (int i = 1; i < LANES; i++) x[0] = x[0] != x[0] || x[0] < x[i] ? x[0] : x[i];
  return x[0];
}
/* y = W x for each of a batch, W [rows, n]: four rows at once, for four sequences at once where there are as many. */
#define ROWS_TIMES_VECTORS(kinds, TW, load_w, TX, load_x) \\
  static __attribute__((unused)) void rows_times_vector_##kinds(const TW *w, const TX *x, int64_t x_batch, T *y, \\
      int64_t y_batch, int64_t batch, int64_t rows, int64_t n, int64_t threads) { \\
    const int64_t blocks = (rows + 3) / 4; \\
    (void)threads; \\
    _Pragma("omp parallel for num_threads((int)threads) if (threads > 1 && rows * n >= PARALLEL) schedule(static)") \\
    for (int64_t block = 0; block < blocks; block++) { \\
      const int64_t from = 4 * block, count = rows - from < 4 ? rows - from : 4; \\
      const TW *at[4]; \\
      for (int r = 0; r < 4; r++) at[r] = w + (from + (r < count ? r : 0)) * n; \\
      int64_t b = 0; \\
      for (; b + 4 <= batch; b += 4) TILE_OF_SUMS(4, load_w, load_x) \\
      for (; b < batch; b++) TILE_OF_SUMS(1, load_w, load_x) \\
    } \\
  }
#define TILE_OF_SUMS(many, load_w, load_x) { \\
    V sums[many][4]; \\
    _Pragma("GCC unroll 4") for (int q = 0; q < many; q++) \\
      _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) sums[q][r] = splat(0); \\
    for (int64_t j = 0; j + LANES <= n; j += LANES) SUM_OF_PRODUCTS(many, load_w, load_x, LANES) \\
    if (n % LANES) { \\
      const int64_t j = n - n % LANES; \\
      SUM_OF_PRODUCTS(many, load_w, load_x, (int)(n - j)) \\
    } \\
    T *out = y + b * y_batch + from; \\
    _Pragma("GCC unroll 4") for (int q = 0; q < many; q++) \\
      _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) if (r < count) out[q * y_batch + r] = total(sums[q][r]); \\
  }
#define SUM_OF_PRODUCTS(many, load_w, load_x, lanes) { \\
    V one[4]; \\
    _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) one[r] = load_w(at[r] + j, lanes); \\
    _Pragma("GCC unroll 4") for (int q = 0; q < many; q++) { \\
      const V v = load_x(x + (b + q) * x_batch + j, lanes); \\
      _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) sums[q][r] += one[r] * v; \\
    } \\
  }
ROWS_TIMES_VECTORS(tt, T, load, T, load)
ROWS_TIMES_VECTORS(te, T, load, E, load_e)
ROWS_TIMES_VECTORS(et, E, load_e, T, load)
ROWS_TIMES_VECTORS(ee, E, load_e, E, load_e)
/* x = a^-1 b by elimination with pivots; a is [n, n], b and x are [n, m], work is [n, n].  1 where there is none. */
static __attribute__((unused)) int solve(const T *a, const T *b, int64_t n, int64_t m, T *x, T *work) {
  memcpy(work, a, (size_t)(n * n) * sizeof(T));
  memcpy(x, b, (size_t)(n * m) * sizeof(T));
  for (int64_t k = 0; k < n; k++) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; i++) if (F(fabs)(work[i * n + k]) > F(fabs)(work[pivot * n + k])) pivot = i;
    if (work[pivot * n + k] == 0) return 1;
    for (int64_t j = 0; j < n && pivot != k; j++) {
      const T t = work[k * n + j];
      work[k * n + j] = work[pivot * n + j];
      work[pivot * n + j] = t;
    }
    for (int64_t j = 0; j < m && pivot != k; j++) {
      const T t = x[k * m + j];
      x[k * m + j] = x[pivot * m + j];
      x[pivot * m + j] = t;
    }
    for (int64_t i = k + 1; i < n; i++) {
      const T factor = work[i * n + k] / work[k * n + k];
      for (int64_t j = k + 1; j < n; j++) work[i * n + j] -= factor * work[k * n + j];
      for (int64_t j = 0; j < m; j++) x[i * m + j] -= factor * x[k * m + j];
    }
  }
  for (int64_t k = n - 1; k >= 0; k--) {
    for (int64_t j = 0; j < m; j++) x[k * m + j] /= work[k * n + k];
    for (int64_t i = 0; i < k; i++)
      for (int64_t j = 0; j < m; j++) x[i * m + j] -= work[i * n + k] * x[k * m + j];
  }
  return 0;
}
static __attribute__((unused)) void square_product(const T *a, const T *b, int64_t n, T *y) {
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) y[i * n + j] = 0;
    for (int64_t k = 0; k < n; k++)
      for (int64_t j = 0; j < n; j++) y[i * n + j] += a[i * n + k] * b[k * n + j];
  }
}
/* y = e^a, [n, n]: Taylor's series of a / 2^s, whose norm is at most 1/2 (18 terms: the rest is below 1e-22), squared s
 * times; work is [3, n, n]. */
static __attribute__((unused)) void matrix_exp(const T *a, int64_t n, T *y, T *work) {
  T *small = work, *term = work + n * n, *next = term + n * n, norm = 0;
  int s = 0;
  for (int64_t i = 0; i < n; i++) {
    T sum = 0;
    for (int64_t j = 0; j < n; j++) sum += F(fabs)(a[i * n + j]);
    norm = sum > norm || sum != sum ? sum : norm;
  }
  while (norm > (T)0.5 && s < 1100) norm /= 2, s++;
  for (int64_t i = 0; i < n * n; i++) small[i] = F(ldexp)(a[i], -s), term[i] = y[i] = i / n == i % n;
  for (int k = 1; k <= 18; k++) {
    square_product(term, small, n, next);
    for (int64_t i = 0; i < n * n; i++) term[i] = next[i] / (T)k, y[i] += term[i];
  }
  for (int k = 0; k < s; k++) {
    square_product(y, y, n, next);
    memcpy(y, next, (size_t)(n * n) * sizeof(T));
  }
}
"""
