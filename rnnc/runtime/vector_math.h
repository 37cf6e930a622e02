/* Numbers, vectors and elementary functions of the kernels.
 *
 * T is float, or double where RNNC_F64 is defined; V holds LANES of them, M is a truth value a lane (0 or -1).
 * Error bounds against the exact value, in units in the last place, over all finite arguments whose result is normal
 * (tests/backends/test_cpu_math.py measures them): exp 2, expm1 4, log 2, tanh 4, sigmoid 4, softplus 4, logsigmoid 4,
 * sin and cos 2 for |x| <= 8192 (libm's beyond), logaddexp 4 of the larger operand or result, erf 2, gelu 6; sqrt is
 * exact.  pow calls libm lane by lane.  sigmoid is 0 below -88 (-709), where it would be subnormal.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#ifdef RNNC_F64
typedef double T;
typedef int64_t W;
#define F(name) name
#define EXPONENT_BITS 52
#define BIAS 1023
#define ROUNDING 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to whole numbers */
#define EXP_LARGEST 710.0
#define EXP_SMALLEST -746.0
#define LN2_HIGH 0x1.62e42fefa38p-1 /* few enough digits for a multiple of it to be exact */
#define LN2_LOW 0x1.ef35793c7673p-45
#define SMALLEST_NORMAL 0x1p-1022
#else
typedef float T;
typedef int32_t W;
#define F(name) name##f
#define EXPONENT_BITS 23
#define BIAS 127
#define ROUNDING 12582912.0f /* 1.5 * 2^23 */
#define EXP_LARGEST 89.0f
#define EXP_SMALLEST -104.0f
#define LN2_HIGH 0x1.62ep-1f
#define LN2_LOW 0x1.0bfbe8p-15f
#define SMALLEST_NORMAL 0x1p-126f
#endif

typedef T V __attribute__((vector_size(VECTOR_BYTES)));
typedef T Unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
typedef W M __attribute__((vector_size(VECTOR_BYTES)));
#define LANES ((int)(VECTOR_BYTES / sizeof(T)))
#define INLINE static inline __attribute__((always_inline, unused))

#if VECTOR_BYTES == 64 && !defined(RNNC_F64)
#define NUMBERED {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
#elif VECTOR_BYTES == 64 || (VECTOR_BYTES == 32 && !defined(RNNC_F64))
#define NUMBERED {0, 1, 2, 3, 4, 5, 6, 7}
#elif VECTOR_BYTES == 32 || !defined(RNNC_F64)
#define NUMBERED {0, 1, 2, 3}
#else
#define NUMBERED {0, 1}
#endif

INLINE V splat(T x) { return x - (V){0}; }
INLINE M splat_mask(int c) { return (M){0} - (W)(c != 0); }
INLINE V pick(M c, V a, V b) { return (V)((c & (M)a) | (~c & (M)b)); }

/* Memory: n of the lanes, the others are zero. */
INLINE V load(const T *p, int n) {
  V x = {0};
  if (n == LANES) return *(const Unaligned *)p;
  memcpy(&x, p, (size_t)n * sizeof(T));
  return x;
}
INLINE void store(T *p, V x, int n) {
  if (n == LANES) *(Unaligned *)p = x;
  else memcpy(p, &x, (size_t)n * sizeof(T));
}
/* Numbers of arrays that may be of half precision, E: bfloat16 where RNNC_E is 1, float16 where it is 2, else T.
 * Computed is in T; results are rounded to the nearest. */
#if !defined(RNNC_E)
typedef T E;
#define load_e load
#define store_e store
#define from_e(x) (x)
#else
typedef float Wide_e __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef uint32_t Bits_e __attribute__((vector_size(VECTOR_BYTES), may_alias));
#if RNNC_E == 1
typedef uint16_t E;
#else
typedef _Float16 E;
#endif
typedef E Narrow_e __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));
INLINE V load_e(const E *p, int n) {
  Narrow_e x = {0};
  if (n == LANES) x = *(const Narrow_e *)p;
  else memcpy(&x, p, (size_t)n * sizeof(E));
#if RNNC_E == 1
  return (V)(__builtin_convertvector(x, Bits_e) << 16);
#else
  return (V)__builtin_convertvector(x, Wide_e);
#endif
}
INLINE void store_e(E *p, V v, int n) {
#if RNNC_E == 1
  const Bits_e bits = (Bits_e)v;
  const Bits_e rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Narrow_e x = __builtin_convertvector((Bits_e)pick(v == v, (V)rounded, (V)(rounded * 0 + 0x7fc0)), Narrow_e);
#else
  const Narrow_e x = __builtin_convertvector((Wide_e)v, Narrow_e);
#endif
  if (n == LANES) *(Narrow_e *)p = x;
  else memcpy(p, &x, (size_t)n * sizeof(E));
}
#define from_e(x) load_e(&(x), 1)[0]
static __attribute__((unused)) T *widened(T *to, const E *x, int64_t size) {
  for (int64_t j = 0; j < size; j += LANES) {
    const int n = size - j < LANES ? (int)(size - j) : LANES;
    store(to + j, load_e(x + j, n), n);
  }
  return to;
}
#endif
/* One part of n complex numbers. */
INLINE V load_part(const T *p, int part, int n) {
  V x = {0};
  for (int i = 0; i < n; i++) x[i] = p[2 * i + part];
  return x;
}
INLINE void store_part(T *p, int part, V x, int n) {
  for (int i = 0; i < n; i++) p[2 * i + part] = x[i];
}
/* The sum of the first n lanes. */
INLINE V first(V x, int n) {
  const M lane = NUMBERED;
  return n == LANES ? x : pick(lane < splat_mask(1) * (W)-n, x, (V){0});
}
/* Sums of lanes as trees: halves are added until one number is left. */
typedef T Half __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef T Least __attribute__((vector_size(16)));
INLINE T total_16(Least x) {
#ifdef RNNC_F64
  return x[0] + x[1];
#else
  return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}
INLINE T total(V x) {
#if VECTOR_BYTES == 16
  return total_16(x);
#else
  Half half[2];
  memcpy(half, &x, sizeof x);
  half[0] += half[1];
#if VECTOR_BYTES == 64
  Least quarter[2];
  memcpy(quarter, half, sizeof quarter);
  return total_16(quarter[0] + quarter[1]);
#else
  return total_16(half[0]);
#endif
#endif
}
/* Sums of neighbours: those of a, then those of b. */
INLINE V fold(V a, V b) {
#ifdef __clang__ /* which has no shuffle by a vector of places */
  V y;
  for (int i = 0; i < LANES; i++) y[i] = i < LANES / 2 ? a[2 * i] + a[2 * i + 1] : b[2 * i - LANES] + b[2 * i + 1 - LANES];
  return y;
#else
  const M left = 2 * (M)NUMBERED, right = left + 1;
  return __builtin_shuffle(a, b, left) + __builtin_shuffle(a, b, right);
#endif
}
#define SUMS_1(i) load(x + (i) * LANES, LANES)
#define SUMS_2(i) fold(SUMS_1(i), SUMS_1(i + 1))
#define SUMS_4(i) fold(SUMS_2(i), SUMS_2(i + 2))
#define SUMS_8(i) fold(SUMS_4(i), SUMS_4(i + 4))
#define SUMS_16(i) fold(SUMS_8(i), SUMS_8(i + 8))
/* out[i * stride] = the sum of the lanes of vector i, for n vectors in a row. */
static __attribute__((unused)) void totals(const T *x, int64_t n, T *out, int64_t stride) {
  int64_t at = 0;
  for (; at + LANES <= n; at += LANES, x += LANES * LANES) {
    const V sums = LANES == 16 ? SUMS_16(0) : LANES == 8 ? SUMS_8(0) : LANES == 4 ? SUMS_4(0) : SUMS_2(0);
    if (stride == 1) store(out + at, sums, LANES);
    else for (int i = 0; i < LANES; i++) out[(at + i) * stride] = sums[i];
  }
  for (; at < n; at++, x += LANES) out[at * stride] = total(load(x, LANES));
}

/* ---------------------------------------------------------------- elementary functions */

#define EACH(name, text) \
  INLINE V v_##name(V x) { V y; for (int i = 0; i < LANES; i++) y[i] = text; return y; }
EACH(sqrt, F(sqrt)(x[i]))
EACH(libm_sin, F(sin)(x[i]))
EACH(libm_cos, F(cos)(x[i]))

INLINE V v_abs(V x) { return pick(x < 0, -x, x + (T)0); }
INLINE V v_max(V a, V b) { return pick((a > b) | (a != a), a, b); }
INLINE V v_min(V a, V b) { return pick((a < b) | (a != a), a, b); }
INLINE V v_relu(V x) { return pick((x > 0) | (x != x), x, (V){0}); }
INLINE V v_step(V x) { return pick(x > 0, splat(1), (V){0}); }
INLINE V v_sign(V x) { return pick(x > 0, splat(1), pick(x < 0, splat(-1), x)); }
INLINE V v_pow(V x, V n) {
  V y;
  for (int i = 0; i < LANES; i++) y[i] = F(pow)(x[i], n[i]);
  return y;
}

INLINE V power_of_two(M n) { return (V)((n + BIAS) << EXPONENT_BITS); }

/* n = round(x / ln 2), r = x - n ln 2, |r| <= 0.35: returns (e^r - 1), the rest of a Taylor series being below 1e-17
 * (double) or 1e-8 (float) of it. */
INLINE V reduced(V x, M *n) {
  V k = (x * (T)1.44269504088896340736 + (T)ROUNDING) - (T)ROUNDING;
  *n = __builtin_convertvector(k, M);
  V r = (x - k * (T)LN2_HIGH) - k * (T)LN2_LOW;
#ifdef RNNC_F64
  V p = splat(1.0 / 6227020800.0);
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
#else
  V p = splat(1.0f / 5040.0f);
#endif
  p = p * r + (T)(1.0 / 720.0);
  p = p * r + (T)(1.0 / 120.0);
  p = p * r + (T)(1.0 / 24.0);
  p = p * r + (T)(1.0 / 6.0);
  p = p * r + (T)0.5;
  return r + r * r * p;
}

INLINE V v_exp(V x) {
  V safe = pick(x < (T)EXP_LARGEST, pick(x > (T)EXP_SMALLEST, x, splat(EXP_SMALLEST)), splat(EXP_LARGEST));
  M n;
  V p = reduced(safe, &n) + 1;
  M half = n >> 1; /* in two factors, so that a subnormal result is reached from normal numbers */
  V y = p * power_of_two(half) * power_of_two(n - half);
  return pick(x == x, y, x);
}

/* e^x - 1 for -50 <= x < EXP_LARGEST - 10 */
INLINE V small_expm1(V x) {
  M n;
  V p = reduced(x, &n), scale = power_of_two(n);
  return scale * p + (scale - 1);
}

/* Far below, -1; far above, where 2^n overflows before e^x does, e^x. */
INLINE V v_expm1(V x) {
  V safe = pick(x < (T)(EXP_LARGEST - 10), pick(x > -50, x, splat(-50)), splat(EXP_LARGEST - 10));
  V y = pick(x < (T)(EXP_LARGEST - 10), small_expm1(safe), v_exp(x));
  return pick(x == x, y, x);
}

INLINE V v_tanh(V x) {
  V size = v_abs(x);
  V e = small_expm1(2 * pick(size < (T)22, size, splat(22)));
  V y = e / (e + 2);
  y = pick(x < 0, -y, y);
  return pick(x == x, y, x);
}

INLINE V v_sigmoid(V x) { return 1 / (1 + v_exp(-x)); }
INLINE V v_silu(V x) { return x / (1 + v_exp(-x)); }

INLINE V v_log(V x) {
  M tiny = x < (T)SMALLEST_NORMAL;
  V scaled = pick(tiny, x * power_of_two((M){0} + EXPONENT_BITS), x);
  M bits = (M)scaled;
  M above = bits - (M)splat((T)0.70710678118654752440); /* m in [sqrt(1/2), sqrt(2)) */
  M n = above >> EXPONENT_BITS;
  V m = (V)(bits - (n << EXPONENT_BITS));
  V k = __builtin_convertvector(n, V) - pick(tiny, splat((T)EXPONENT_BITS), (V){0});
  V f = m - 1;
  V s = f / (2 + f), z = s * s;
#ifdef RNNC_F64
  V p = splat(2.0 / 21);
  p = p * z + 2.0 / 19;
  p = p * z + 2.0 / 17;
  p = p * z + 2.0 / 15;
  p = p * z + 2.0 / 13;
  p = p * z + 2.0 / 11;
#else
  V p = splat(2.0f / 11);
#endif
  p = p * z + (T)(2.0 / 9);
  p = p * z + (T)(2.0 / 7);
  p = p * z + (T)(2.0 / 5);
  p = p * z + (T)(2.0 / 3);
  V half = (T)0.5 * f * f; /* log m = f - f^2/2 + s (f^2/2 + z p) keeps the digits of small f */
  V y = k * (T)LN2_HIGH + (f - (half - (s * (half + z * p) + k * (T)LN2_LOW)));
  y = pick(x < (T)INFINITY, y, x);
  y = pick(x > 0, y, pick(x == 0, splat(-(T)INFINITY), splat((T)NAN)));
  return pick(x == x, y, x);
}

#ifdef RNNC_F64
static const T ERF_NEAR[] = {
  1.454817075960679e-14, -3.8078827395263415e-13, 9.167606746069445e-12, -2.035228404899467e-10,
  4.11580059766496e-09, -7.51156928660089e-08, 1.223382738352401e-06, -1.7537169441124826e-05,
  0.00021751715604160108, -0.0022854855611441132, 0.019852496688983708, -0.1405360890227171, 0.9654687386698673,
};
static const T ERFC_FAR[] = {
  -3.451497487664328e-11, 8.393734858690877e-10, 1.2019719440135793e-09, -8.217595058711455e-09,
  -1.3906145791730994e-08, 4.1064013667940355e-08, 1.0277997488271058e-07, -1.4047654315428462e-07,
  -6.175617678992323e-07, 3.5576086684080595e-07, 3.473024167841533e-06, -7.308281468783614e-07,
  -2.0100843094844725e-05, 4.949196649968345e-06, 0.0001250994355712812, -0.00010515971958448065,
  -0.0007798322884823084, 0.0018886903449991718, 0.0025293918180474668, -0.02377051491717134, 0.06830802734384515,
  -0.11927366341538638, 0.12964515870276475, -0.0475622943534492, -0.1356211061245812, 1.2530080582697296,
};
#else
static const T ERF_NEAR[] = {
  -7.557493e-08f, 1.2316402e-06f, -1.7536824e-05f, 0.00021751199f, -0.0022854856f, 0.019852499f, -0.14053608f,
  0.96546876f,
};
static const T ERFC_FAR[] = {
  7.7310244e-05f, -9.254517e-05f, -0.00072645367f, 0.0018750791f, 0.0024991168f, -0.023763577f, 0.06831657f,
  -0.11927527f, 0.12964411f, -0.047562156f, -0.13562107f, 1.253008f,
};
#endif
#define TERMS(table) ((int)(sizeof table / sizeof table[0]))

/* A polynomial, its highest coefficient first. */
INLINE V polynomial(const T *c, int terms, V x) {
  V y = splat(c[0]);
  for (int i = 1; i < terms; i++) y = y * x + c[i];
  return y;
}
/* e^(a^2) erfc(a) for a >= 0: (1 + 2 a) times that is smooth in (a - 3) / (a + 3), from -1 to 1. */
INLINE V scaled_erfc(V a) { return polynomial(ERFC_FAR, TERMS(ERFC_FAR), 1 - 6 / (a + 3)) / (1 + 2 * a); }
/* e^(-scale x^2): x^2 in two parts, the first exact, since a rounding of a large square would be magnified. */
INLINE V gaussian(V x, T scale) {
  const V high = (V)((M)x & ~(((W)1 << (EXPONENT_BITS + 2) / 2) - 1));
  return v_exp(-scale * (high * high)) * v_exp(-scale * ((x - high) * (x + high)));
}
INLINE V v_erf(V x) {
  V size = v_abs(x), a = pick(size < 9, size, splat(9)); /* 1 from 6 on */
  V near = x * polynomial(ERF_NEAR, TERMS(ERF_NEAR), 2 * a * a - 1);
  V far = 1 - v_exp(-a * a) * scaled_erfc(a);
  V y = pick(size < 1, near, pick(x < 0, -far, far));
  return pick(x == x, y, x);
}
/* x/2 erfc(-x / sqrt 2), to the last digits of both tails */
INLINE V v_gelu(V x) {
  V size = v_abs(x), a = pick(size < 64, size, splat(64));
  V tail = (T)0.5 * gaussian(a, (T)0.5) * scaled_erfc(a * (T)0.70710678118654752440);
  V y = pick(x > 0, x * (1 - tail), pick(size < 64, x * tail, splat(0) * x));
  return pick(x == x, y, x);
}

/* log(1 + z) for 0 <= z <= 1 */
INLINE V small_log1p(V z) {
  V u = 1 + z;
  return v_log(u) - ((u - 1) - z) / u;
}
INLINE V v_softplus(V x) { return v_relu(x) + small_log1p(v_exp(-v_abs(x))); }
INLINE V v_logsigmoid(V x) { return -v_softplus(-x); }
INLINE V v_logaddexp(V a, V b) {
  V high = v_max(a, b), low = v_min(a, b);
  V y = high + small_log1p(v_exp(low - high));
  return pick(high == low, high + (T)0.69314718055994530942, y); /* both infinite, too */
}

/* x = n pi/2 + r, then sin or cos of r by n mod 4; `turn` 1 gives cos. */
INLINE V circular(V x, W turn) {
  V k = (x * (T)0.63661977236758134308 + (T)ROUNDING) - (T)ROUNDING;
  M n = __builtin_convertvector(k, M) + turn;
#ifdef RNNC_F64
  V r = ((x - k * 0x1.921fb544p0) - k * 0x1.0b4611a6p-34) - k * 0x1.3198a2e037073p-69;
  V z = r * r;
  V s = splat(-1.0 / 1307674368000.0);
  s = s * z + 1.0 / 6227020800.0;
  s = s * z - 1.0 / 39916800.0;
  s = s * z + 1.0 / 362880.0;
  V c = splat(1.0 / 20922789888000.0);
  c = c * z - 1.0 / 87178291200.0;
  c = c * z + 1.0 / 479001600.0;
  c = c * z - 1.0 / 3628800.0;
#else
  V r = (((x - k * 0x1.92p0f) - k * 0x1.fb4p-12f) - k * 0x1.444p-24f) - k * 0x1.68c234p-39f;
  V z = r * r;
  V s = splat(1.0f / 362880.0f);
  V c = splat(-1.0f / 3628800.0f);
#endif
  s = s * z - (T)(1.0 / 5040.0);
  s = s * z + (T)(1.0 / 120.0);
  s = s * z - (T)(1.0 / 6.0);
  c = c * z + (T)(1.0 / 40320.0);
  c = c * z - (T)(1.0 / 720.0);
  c = c * z + (T)(1.0 / 24.0);
  V sine = r + r * z * s, cosine = 1 + z * (c * z - (T)0.5);
  V y = pick((n & 1) != 0, cosine, sine);
  return pick((n & 2) != 0, -y, y);
}
INLINE int all_below(V x, T bound) {
  int fine = 1;
  for (int i = 0; i < LANES; i++) fine &= F(fabs)(x[i]) <= bound;
  return fine;
}
INLINE V v_sin(V x) { return all_below(x, 8192) ? circular(x, 0) : v_libm_sin(x); }
INLINE V v_cos(V x) { return all_below(x, 8192) ? circular(x, 1) : v_libm_cos(x); }

/* ---------------------------------------------------------------- products with a matrix */

#define PANEL (2 * LANES) /* columns of a panel: the matrix is [panels, k, PANEL], its last panel filled with zeros */

/* out[r][j] = sum_k in[r][k] m[k][j] + from[r][j] for R rows, k < depth and the columns of one panel from j on, of
 * which there are `width` in all; rows of `out` are whole vectors.  R is a literal, so that sums stay in registers. */
#define PRODUCT_ROWS(R) \
  static __attribute__((unused)) void product_##R( \
      T *const *in, int64_t depth, const T *m, T *const *from, T *const *out, int64_t j, int64_t width) { \
    const T *x[R]; \
    for (int r = 0; r < R; r++) x[r] = in[r]; \
    const int64_t left = width - j; \
    const int two = left > LANES, n = left < LANES ? (int)left : LANES, o = left < PANEL ? (int)left - LANES : LANES; \
    V a[R], b[R]; \
    _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) { \
      a[r] = from ? load(from[r] + j, n) : splat(0); \
      b[r] = from && two ? load(from[r] + j + LANES, o) : splat(0); \
    } \
    for (int64_t k = 0; k < depth; k++) { \
      const V p = load(m + k * PANEL, LANES), q = load(m + k * PANEL + LANES, LANES); \
      _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) { \
        a[r] += x[r][k] * p; \
        b[r] += x[r][k] * q; \
      } \
    } \
    _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) { \
      store(out[r] + j, a[r], LANES); \
      if (two) store(out[r] + j + LANES, b[r], LANES); \
    } \
  }
PRODUCT_ROWS(8) PRODUCT_ROWS(4) PRODUCT_ROWS(2) PRODUCT_ROWS(1)
/* All panels; each is read once for all rows. */
static __attribute__((unused)) void product(
    int rows, T *const *in, int64_t depth, const T *m, T *const *from, T *const *out, int64_t width) {
  for (int64_t j = 0; j < width; j += PANEL, m += depth * PANEL) {
    int r = 0;
#define SOME_ROWS(R) \
    for (; r + R <= rows; r += R) product_##R(in + r, depth, m, from ? from + r : from, out + r, j, width);
#if VECTOR_BYTES == 64 /* 32 registers */
    SOME_ROWS(8)
#endif
    SOME_ROWS(4) SOME_ROWS(2) SOME_ROWS(1)
  }
}

/* The same functions of one number: one lane of the vector's, so that a value does not depend on where it stands. */
#define ALSO_SCALAR(name) INLINE T t_##name(T x) { return v_##name(splat(x))[0]; }
#define ALSO_SCALAR_2(name) INLINE T t_##name(T x, T y) { return v_##name(splat(x), splat(y))[0]; }
ALSO_SCALAR(exp) ALSO_SCALAR(expm1) ALSO_SCALAR(log) ALSO_SCALAR(sin) ALSO_SCALAR(cos) ALSO_SCALAR(tanh) ALSO_SCALAR(sigmoid)
ALSO_SCALAR(silu) ALSO_SCALAR(softplus) ALSO_SCALAR(logsigmoid) ALSO_SCALAR(abs) ALSO_SCALAR(relu) ALSO_SCALAR(step)
ALSO_SCALAR(sign) ALSO_SCALAR(erf) ALSO_SCALAR(gelu) ALSO_SCALAR_2(max) ALSO_SCALAR_2(min) ALSO_SCALAR_2(logaddexp)
INLINE T t_sqrt(T x) { return F(sqrt)(x); }
INLINE T t_pow(T x, T n) { return F(pow)(x, n); }
