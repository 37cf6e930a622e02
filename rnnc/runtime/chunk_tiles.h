/* What chunks of matrix states are worked out with: products whose tiles stay in registers, rows in whole vectors.
 *
 * Compiled behind `vector_math.h`.
 */
#define CHUNK 32
#define WIDE (2 * LANES)
#if VECTOR_BYTES == 64 /* 32 registers: 24 sums, two vectors of B, a number of A */
#define TALL 12
#else
#define TALL 6
#endif
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
/* Rows [CHUNK, k] = X S^T for X [CHUNK, vp], through memory of vp x CHUNK and k x CHUNK numbers. */
static void by_state(const T *x, const T *S, int64_t k, int64_t kp, int64_t n, int64_t vp, T *turned, T *side, T *to) {
  transpose(x, CHUNK, vp, vp, turned, CHUNK);
  multiply(SET, k, CHUNK, n, S, vp, 1, turned, CHUNK, side, CHUNK);
  transpose(side, k, CHUNK, CHUNK, to, kp);
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
/* The next n numbers of a piece of memory, in whole vectors. */
static T *take(T **memory, int64_t n) {
  T *found = *memory;
  *memory += (n + LANES - 1) / LANES * LANES;
  return found;
}
