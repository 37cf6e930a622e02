/* C (+)= A B for matrices of any strides: blocks of A and B are copied into panels, and a tile of C stays in registers
 * while it runs over the depth of a panel.  Compiled behind `vector_math.h`.
 */
#if VECTOR_BYTES == 64 /* 32 registers: 24 sums, two vectors of B, numbers of A from memory */
#define TILE_ROWS 12
#else
#define TILE_ROWS 6
#endif
#define TILE_COLUMNS (2 * LANES)
#define DEPTH 256              /* of a panel: a panel of B stays in the first-level cache */
#define SLAB 4096              /* depth of B that is packed at once */
#define MOST_ROWS (8 * TILE_ROWS) /* of A in panels at once: they stay in the second-level cache */
#define AHEAD 16 /* steps whose numbers are asked for before they are copied */
#define EACH_ROW _Pragma("GCC unroll 12") for (int r = 0; r < TILE_ROWS; r++)

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* c [rows, columns] = a b + (bias, or else c) with a [depth, TILE_ROWS] and b [depth, TILE_COLUMNS], both whole. */
static void tile(
    int64_t depth, const T *a, const T *b, const T *bias, T *c, int64_t stride, int rows, int columns) {
  const int add = !bias;
  V s[TILE_ROWS][2];
  EACH_ROW {
    s[r][0] = bias ? load(bias, LANES) : (V){0};
    s[r][1] = bias ? load(bias + LANES, LANES) : (V){0};
  }
  for (int64_t k = 0; k < depth; k++, a += TILE_ROWS, b += TILE_COLUMNS) {
    const V p = load(b, LANES), q = load(b + LANES, LANES);
    EACH_ROW {
      s[r][0] += a[r] * p;
      s[r][1] += a[r] * q;
    }
  }
  if (rows == TILE_ROWS && columns == TILE_COLUMNS) {
    EACH_ROW {
      store(c, add ? load(c, LANES) + s[r][0] : s[r][0], LANES);
      store(c + LANES, add ? load(c + LANES, LANES) + s[r][1] : s[r][1], LANES);
      c += stride;
    }
    return;
  }
  T whole[TILE_ROWS][TILE_COLUMNS];
  EACH_ROW {
    store(whole[r], s[r][0], LANES);
    store(whole[r] + LANES, s[r][1], LANES);
  }
  for (int r = 0; r < rows; r++)
    for (int j = 0; j < columns; j++) c[r * stride + j] = (add ? c[r * stride + j] : 0) + whole[r][j];
}

/* x [n, depth] with strides sn and sk into panels [n / width, depth, width], zeros behind the last row.  `width` is a
 * literal: its loops are unrolled. */
INLINE void pack(const T *x, int64_t n, int64_t depth, int64_t sn, int64_t sk, int width, T *out) {
  const int64_t whole = sn == 1 ? n - n % width : 0;
  if (whole) { /* a step after the other, all panels of it: steps may lie pages apart */
    for (int64_t k = 0; k < depth; k++) {
      for (int64_t i = 0; i < whole; i += 64 / (int64_t)sizeof(T)) __builtin_prefetch(x + i + (k + AHEAD) * sk);
      for (int64_t i = 0; i < whole; i += width)
        memcpy(out + i * depth + k * width, x + i + k * sk, sizeof(T) * (size_t)width);
    }
  }
  out += whole * depth;
  for (int64_t i = whole; i < n; i += width, out += depth * width) {
    const int rows = (int)least(width, n - i);
    if (rows < width) memset(out, 0, sizeof(T) * (size_t)(depth * width));
    for (int64_t from = 0; from < depth; from += 16) { /* in squares, so that what is written stays in the cache */
      const int64_t to = least(from + 16, depth);
      for (int r = 0; r < rows; r++)
        for (int64_t k = from; k < to; k++) out[k * width + r] = x[(i + r) * sn + k * sk];
    }
  }
}

/* C [m, n] = A [m, k] B [k, n] + bias [n] (null: zero), k > 0; C's columns are neighbours.  Returns whether memory was
 * missing.
 */
int rnnc_product(const int64_t *sizes, const T *A, const T *B, const T *bias, T *C, int64_t threads) {
  const int64_t m = sizes[0], n = sizes[1], k = sizes[2], am = sizes[3], ak = sizes[4], bk = sizes[5], bn = sizes[6];
  const int64_t cm = sizes[7], wide = (n + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
  const int64_t shares = threads * ((m + threads * MOST_ROWS - 1) / (threads * MOST_ROWS)); /* of rows, all alike */
  const int64_t block = ((m + shares - 1) / shares + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
  T *b = aligned_alloc(64, (size_t)(wide * (least(k, SLAB) + 1)) * sizeof(T)), *start = b + wide * least(k, SLAB);
  int failed = !b;
  if (b) memset(start, 0, (size_t)wide * sizeof(T));
  if (b && bias) memcpy(start, bias, (size_t)n * sizeof(T));
#pragma omp parallel num_threads((int)threads) if (threads > 1)
  {
    T *a = aligned_alloc(64, sizeof(T) * MOST_ROWS * DEPTH);
    if (!a) failed = 1;
    for (int64_t first = 0; first < k; first += SLAB) {
      const int64_t end = least(first + SLAB, k), panels = wide / TILE_COLUMNS, deep = (end - first + DEPTH - 1) / DEPTH;
#pragma omp for schedule(static)
      for (int64_t at = 0; at < panels * deep; at++) {
        const int64_t from = first + at / panels * DEPTH, j = at % panels * TILE_COLUMNS, depth = least(DEPTH, end - from);
        T *panel = b + (from - first) * wide + j * depth;
        if (b) pack(B + from * bk + j * bn, least(TILE_COLUMNS, n - j), depth, bn, bk, TILE_COLUMNS, panel);
      }
#pragma omp for schedule(static)
      for (int64_t i = 0; i < m; i += block) {
        const int64_t rows = least(block, m - i);
        for (int64_t from = first; a && b && from < end; from += DEPTH) {
          const int64_t depth = least(DEPTH, end - from);
          pack(A + i * am + from * ak, rows, depth, am, ak, TILE_ROWS, a);
          for (int64_t j = 0; j < n; j += TILE_COLUMNS)
            for (int64_t r = 0; r < rows; r += TILE_ROWS)
              tile(depth, a + r * depth, b + (from - first) * wide + j * depth, from ? 0 : start + j,
                   C + (i + r) * cm + j, cm, (int)least(TILE_ROWS, rows - r), (int)least(TILE_COLUMNS, n - j));
        }
      }
    }
    free(a);
  }
  free(b);
  return failed;
}
