/* All chunks of all sequences, forward and backward: the two functions that are called.
 *
 * Sequences and heads are tasks for threads.  The backward runs through the chunks from the last to the first and starts
 * from the states before each chunk and the w, which the forward leaves.  Compiled behind `chunk_rows.h` and `chunk_across.h`.
 */
#define EACH_TASK for (int64_t task = 0; task < z.batch * z.heads; task++)
/* Zeros: rows and columns behind the last ones are read, times zero, so they must be numbers. */
static T *memory_of(int64_t n) {
  const size_t bytes = sizeof(T) * (size_t)((n + 64) / 64 * 64);
  T *found = aligned_alloc(64, bytes);
  if (found) memset(found, 0, bytes);
  return found;
}

/* arrays: log_decay, c, u, v, b, q, state, then y, final, starts, w; of those log_decay, c and b may be null.  strides: of each
 * sequence (log_decay, c, u, v, b, q, y, w); states are [batch, heads, K, V], starts [batch, heads, chunks, K, V] (null:
 * nothing is kept), all without gaps. */
int rnnc_chunkwise_forward(void *const *arrays, const int64_t *sizes, const int64_t *strides, int64_t threads) {
  const struct sizes z = sizes_of(sizes);
  const T *log_decay = arrays[0], *c = arrays[1], *u = arrays[2], *v = arrays[3], *b = arrays[4], *q = arrays[5];
  const T *state = arrays[6];
  T *y = arrays[7], *final = arrays[8], *starts = arrays[9], *w = arrays[10];
  const int64_t kp = z.kp, vp = z.vp;
  const int across = z.decays == BY_VALUES;
  int failed = 0;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
  {
    T *memory = memory_of(numbers(&z) + kp * vp + 2 * CHUNK * vp), *m = memory;
    if (!memory) failed = 1;
    struct chunk f;
    if (memory) place(&f, &z, &m, 1);
    T *S = take(&m, kp * vp), *out = take(&m, CHUNK * vp), *gate = take(&m, CHUNK * vp);
#pragma omp for schedule(static)
    EACH_TASK {
      if (!memory) continue;
      const int64_t i_b = task / z.heads, i_h = task % z.heads;
      load_state(state + task * z.k * z.n, &z, S);
      const struct given x = {AT(LOG_DECAY, log_decay), AT(READ, c), AT(WRITE, u), AT(BASE, b), AT(QUERY, q)};
      const T *vt = AT(VALUE, v);
      T *yt = AT(FIRST_OUT, y), *wt = AT(FIRST_OUT + 1, w);
      for (int64_t i = 0; i < z.chunks; i++) {
        if (starts) store_state(starts + (task * z.chunks + i) * z.k * z.n, &z, S);
        if (across) stand(&f, &z, i * CHUNK, &x, strides);
        else enter(&f, &z, i * CHUNK, &x, strides);
        gather(vt + f.at * STRIDE(VALUE), STRIDE(VALUE), f.rows, z.n, f.w, vp);
        if (across) across_forward(&f, &z, S, out, gate);
        else chunk_forward(&f, &z, S, out, b != NULL);
        scatter(yt + f.first * STRIDE(FIRST_OUT), STRIDE(FIRST_OUT), f.readers, z.n, out, vp);
        if (w) scatter(wt + f.at * STRIDE(FIRST_OUT + 1), STRIDE(FIRST_OUT + 1), f.rows, z.n, f.w, vp);
      }
      store_state(final + task * z.k * z.n, &z, S);
    }
    free(memory);
  }
  return failed;
}

/* arrays: those of the forward up to q, then starts, w, dy, d_final; then what is written: d_log_decay, dc, du, dv, db, dq,
 * d_state (log_decay's, c's and b's may be null).  strides: log_decay, c, u, v (none), b, q, w, dy, d_log_decay, dc, du, dv,
 * db, dq.
 */
int rnnc_chunkwise_backward(void *const *arrays, const int64_t *sizes, const int64_t *strides, int64_t threads) {
  const struct sizes z = sizes_of(sizes);
  const T *log_decay = arrays[0], *c = arrays[1], *u = arrays[2], *b = arrays[4], *q = arrays[5], *starts = arrays[6];
  const T *w = arrays[7], *dy = arrays[8], *d_final = arrays[9];
  T *dg = arrays[10], *dc = arrays[11], *du = arrays[12], *dv = arrays[13], *db = arrays[14], *dq = arrays[15];
  T *d_state = arrays[16];
  const int64_t kp = z.kp;
  const int across = z.decays == BY_VALUES;
  int failed = 0;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
  {
    T *memory = memory_of(numbers(&z) + numbers_back(&z)), *m = memory;
    if (!memory) failed = 1;
    struct chunk f;
    struct back p;
    if (memory) place(&f, &z, &m, 0), place_back(&p, &z, &m);
#pragma omp for schedule(static)
    EACH_TASK {
      if (!memory) continue;
      const int64_t i_b = task / z.heads, i_h = task % z.heads;
      load_state(d_final + task * z.k * z.n, &z, p.D);
      const struct given x = {AT(LOG_DECAY, log_decay), AT(READ, c), AT(WRITE, u), AT(BASE, b), AT(QUERY, q)};
      const T *wt = AT(6, w), *yt = AT(7, dy);
      T *dgt = AT(8, dg), *dct = AT(9, dc), *dut = AT(10, du), *dvt = AT(11, dv), *dbt = AT(12, db), *dqt = AT(13, dq);
      for (int64_t i = z.chunks - 1; i >= 0; i--) {
        load_state(starts + (task * z.chunks + i) * z.k * z.n, &z, p.S);
        if (across) stand(&f, &z, i * CHUNK, &x, strides);
        else enter(&f, &z, i * CHUNK, &x, strides);
        gather(wt + f.at * STRIDE(6), STRIDE(6), f.rows, z.n, f.w, z.vp);
        gather(yt + f.first * STRIDE(7), STRIDE(7), f.readers, z.n, p.g, z.vp);
        if (across) across_back(&f, &p, &z);
        else chunk_back(&f, &p, &z, b != NULL);
        if (dg) decay_gradient(&f.g, dgt + f.at * STRIDE(8), STRIDE(8), f.rows);
        for (int64_t r = 0; b && r < f.rows; r++) {
          if (dc) dct[(f.at + r) * STRIDE(9)] = dot(f.plain_b + r * kp, p.db + r * kp, kp);
          for (int64_t j = 0; j < kp; j += LANES) store(p.db + r * kp + j, load(p.db + r * kp + j, LANES) * f.c[r], LANES);
        }
        scatter(dut + f.at * STRIDE(10), STRIDE(10), f.rows, z.k, p.du, kp);
        scatter(dvt + f.at * STRIDE(11), STRIDE(11), f.rows, z.n, p.z, z.vp);
        if (b) scatter(dbt + f.at * STRIDE(12), STRIDE(12), f.rows, z.k, p.db, kp);
        scatter(dqt + f.first * STRIDE(13), STRIDE(13), f.readers, z.k, p.dq, kp);
      }
      store_state(d_state + task * z.k * z.n, &z, p.D);
    }
    free(memory);
  }
  return failed;
}
