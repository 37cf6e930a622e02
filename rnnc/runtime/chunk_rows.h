/* Matrix states, chunk by chunk in products of matrices.
 *
 *   S_r = D_r S_{r-1} + u_r w_r^T,   w_r = v_r + c_r S_{r-1}^T b_r (without b: w_r = v_r)
 *
 * for S [K, V], row by row: D_r is a number or a diagonal matrix, and `per` rows are a time step, which reads
 * y_t = S^T q_t from the state behind its last row, or before its first.  Let G_r be the product of the decays of a
 * chunk's rows before r, and W the decays between a reader and a row (`chunk_decays.h`).  Inside a chunk
 *
 *   w_r = v_r + S_0^T (G_r c_r b_r) + sum over s < r of N_rs w_s,   N_rs = c_r b_r W u_s
 *   y_t = S_0^T (G_seen q_t) + sum over s < seen of A_ts w_s,       A_ts = q_t W u_s
 *   S_C = G_C S_0 + sum over s of (G_C / G_{s+1}) u_s w_s^T
 *
 * (the UT transform of Yang et al. 2024).  All that touches the state is a product of matrices with CHUNK rows or
 * columns.  The backward runs through the chunks from the last to the first with the derivative of these lines; it
 * starts from the states before each chunk and the w, which the forward leaves.  Compiled behind `chunk_decays.h`.
 */

/* sizes: batch, heads, rows, K, V, rows of a time step, whether reads see the state before it, what the decays are. */
enum { ONE_NUMBER, BY_KEYS, BY_VALUES };
struct sizes {
  int64_t batch, heads, rows, k, n, per, old, decays, kp, vp, chunks;
};
static struct sizes sizes_of(const int64_t *x) {
  struct sizes z = {x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]};
  z.kp = (z.k + LANES - 1) / LANES * LANES, z.vp = (z.n + LANES - 1) / LANES * LANES;
  z.chunks = (z.rows + CHUNK - 1) / CHUNK;
  return z;
}

/* What a chunk is: its inputs in whole vectors, and what follows from them.  b is c b; gate_* are decayed: q and b from the
 * chunk's start, u to its end.  Readers t are those of the time steps whose read stands at one of its rows. */
struct chunk {
  struct decays g;
  int64_t at, rows, first, readers; /* its first row and how many it has, its first time step that reads and how many do */
  int seen[CHUNK], before[CHUNK], behind[CHUNK];
  T c[CHUNK], *q, *u, *w, *b, *plain_b, *gate_q, *gate_u, *gate_b, *A, *N;
};
static int64_t numbers(const struct sizes *z) {
  const int64_t decayed_axis = z->decays == BY_VALUES ? z->vp : z->kp;
  return decay_numbers(decayed_axis, z->decays != ONE_NUMBER) + CHUNK * (7 * z->kp + z->vp + 2 * CHUNK);
}
static void place(struct chunk *f, const struct sizes *z, T **m, int forward) {
  if (z->decays == BY_VALUES) place_decays(&f->g, m, z->n, z->vp, 1);
  else place_decays(&f->g, m, z->k, z->kp, z->decays == BY_KEYS);
  T **keyed[] = {&f->q, &f->u, &f->b, &f->plain_b, &f->gate_q, &f->gate_u, &f->gate_b};
  for (int i = 0; i < (forward ? 3 : 7); i++) *keyed[i] = take(m, CHUNK * z->kp);
  if (forward) f->plain_b = f->gate_b = f->b, f->gate_q = f->q, f->gate_u = f->u; /* overwritten in place: less memory, nearer */
  f->w = take(m, CHUNK * z->vp), f->A = take(m, CHUNK * CHUNK), f->N = take(m, CHUNK * CHUNK);
  for (int i = 0; i < CHUNK; i++) f->before[i] = i, f->behind[i] = i + 1;
}

/* Arrays of one task, by their number; strides of each sequence are those of batch, time and heads. */
#define AT(n, of) ((of) ? (of) + i_b * strides[3 * (n)] + i_h * strides[3 * (n) + 2] : (of))
#define STRIDE(n) strides[3 * (n) + 1]
struct given {
  const T *log_decay, *c, *u, *b, *q;
};
enum { LOG_DECAY, READ, WRITE, VALUE, BASE, QUERY, FIRST_OUT };

/* The rows of a chunk and who reads among them, their decays, u and q. */
static void stand(struct chunk *f, const struct sizes *z, int64_t at, const struct given *x, const int64_t *strides) {
  const int64_t left = z->rows - at, stands = z->old ? 0 : z->per - 1;
  f->at = at, f->rows = left < CHUNK ? left : CHUNK;
  f->first = at <= stands ? 0 : (at - stands + z->per - 1) / z->per;
  f->readers = 0;
  for (int64_t r; (r = (f->first + f->readers) * z->per + stands) < at + f->rows; f->readers++)
    f->seen[f->readers] = (int)(r - at) + !z->old;
  const T *log_decay = x->log_decay ? x->log_decay + at * STRIDE(LOG_DECAY) : NULL;
  if (f->g.keyed) decays_by_keys(&f->g, log_decay, STRIDE(LOG_DECAY), f->rows);
  else decays_of_rows(&f->g, log_decay, STRIDE(LOG_DECAY), f->rows);
  gather(x->u + at * STRIDE(WRITE), STRIDE(WRITE), f->rows, z->k, f->u, z->kp);
  gather(x->q + f->first * STRIDE(QUERY), STRIDE(QUERY), f->readers, z->k, f->q, z->kp);
}
/* Everything about a chunk but its values, which are w. */
static void enter(struct chunk *f, const struct sizes *z, int64_t at, const struct given *x, const int64_t *strides) {
  const int64_t kp = z->kp;
  stand(f, z, at, x, strides);
  face(&f->g, f->u);
  pairs(&f->g, f->q, f->readers, f->seen, f->u, f->A);
  if (x->b) {
    gather(x->b + at * STRIDE(BASE), STRIDE(BASE), f->rows, z->k, f->plain_b, kp);
    for (int64_t r = 0; r < CHUNK; r++) {
      f->c[r] = r < f->rows ? (x->c ? x->c[(at + r) * STRIDE(READ)] : 1) : 0;
      for (int64_t j = 0; j < kp; j += LANES) store(f->b + r * kp + j, f->c[r] * load(f->plain_b + r * kp + j, LANES), LANES);
    }
    pairs(&f->g, f->b, CHUNK, f->before, f->u, f->N);
    decayed(&f->g, f->g.from, f->b, CHUNK, f->before, f->gate_b);
  }
  decayed(&f->g, f->g.from, f->q, f->readers, f->seen, f->gate_q);
  decayed(&f->g, f->g.end, f->u, CHUNK, f->before, f->gate_u);
}

static void load_state(const T *x, const struct sizes *z, T *S) {
  for (int64_t i = 0; i < z->k; i++) memcpy(S + i * z->vp, x + i * z->n, sizeof(T) * (size_t)z->n);
}
static void store_state(T *x, const struct sizes *z, const T *S) {
  for (int64_t i = 0; i < z->k; i++) memcpy(x + i * z->n, S + i * z->vp, sizeof(T) * (size_t)z->n);
}

/* w = v, the values already there, and what they read of the state before the chunk and of each other. */
static void solve(const struct chunk *f, const T *S, int64_t k, int64_t kp, int64_t vp, T *out) {
  multiply(SET, CHUNK, vp, k, f->gate_b, kp, 1, S, vp, out, vp);
  for (int64_t r = 0; r < f->rows; r++)
    for (int64_t j = 0; j < vp; j += LANES) {
      V x = load(f->w + r * vp + j, LANES) + load(out + r * vp + j, LANES);
      for (int64_t s = 0; s < r; s++) x += f->N[r * CHUNK + s] * load(f->w + s * vp + j, LANES);
      store(f->w + r * vp + j, x, LANES);
    }
}
/* (I - N)^T z' = z, in place */
static void solve_back(const struct chunk *f, int64_t vp, T *z) {
  for (int64_t r = f->rows - 2; r >= 0; r--)
    for (int64_t j = 0; j < vp; j += LANES) {
      V x = load(z + r * vp + j, LANES);
      for (int64_t s = r + 1; s < f->rows; s++) x += f->N[s * CHUNK + r] * load(z + s * vp + j, LANES);
      store(z + r * vp + j, x, LANES);
    }
}

/* From w = v and the state S before a chunk: w, the reads `out`, and the state behind. */
static void chunk_forward(struct chunk *f, const struct sizes *z, T *S, T *out, int has_b) {
  const int64_t kp = z->kp, vp = z->vp;
  if (has_b) solve(f, S, z->k, kp, vp, out);
  multiply(SET, f->readers, vp, z->k, f->gate_q, kp, 1, S, vp, out, vp);
  multiply(ADD, f->readers, vp, f->rows, f->A, CHUNK, 1, f->w, vp, out, vp);
  decayed_state(&f->g, S, vp);
  multiply(ADD, z->k, vp, f->rows, f->gate_u, 1, kp, f->w, vp, S, vp);
}

static const int last[CHUNK] = {[0 ... CHUNK - 1] = CHUNK}; /* the line of the total, for each row */

/* Gradients of a chunk's vectors, and memory for them. */
struct back {
  T *S, *D, *g, *z, *dq, *db, *du, *end, *turned, *side, *dA, *dN, *gate, *y;
};
static int64_t numbers_back(const struct sizes *z) {
  return 2 * z->kp * z->vp + CHUNK * (5 * z->vp + 5 * z->kp + 2 * CHUNK);
}
static void place_back(struct back *p, const struct sizes *z, T **m) {
  p->S = take(m, z->kp * z->vp), p->D = take(m, z->kp * z->vp);
  p->g = take(m, CHUNK * z->vp), p->z = take(m, CHUNK * z->vp), p->turned = take(m, CHUNK * z->vp);
  p->gate = take(m, CHUNK * z->vp), p->y = take(m, CHUNK * z->vp);
  p->dq = take(m, CHUNK * z->kp), p->db = take(m, CHUNK * z->kp), p->du = take(m, CHUNK * z->kp);
  p->end = take(m, CHUNK * z->kp), p->side = take(m, CHUNK * z->kp);
  p->dA = take(m, CHUNK * CHUNK), p->dN = take(m, CHUNK * CHUNK);
}

/* From g = dy, the state S before the chunk and the gradient D of that behind it: z = dv, dq, db (of c b), du, the slopes of the
 * decays, and D of the state before. */
static void chunk_back(struct chunk *f, struct back *p, const struct sizes *z, int has_b) {
  const int64_t k = z->k, n = z->n, kp = z->kp, vp = z->vp;
  struct decays *g = &f->g;
  no_slopes(g);
  /* through the state behind and y to w, and through w to v */
  multiply(SET, CHUNK, vp, k, f->gate_u, kp, 1, p->D, vp, p->z, vp);
  multiply(ADD, CHUNK, vp, f->readers, f->A, 1, CHUNK, p->g, vp, p->z, vp);
  if (has_b) solve_back(f, vp, p->z);
  /* to what the vectors exchange with the states before and behind */
  by_state(p->g, p->S, k, kp, n, vp, p->turned, p->side, p->dq);
  decayed(g, g->from, p->dq, f->readers, f->seen, p->dq);
  if (has_b) {
    by_state(p->z, p->S, k, kp, n, vp, p->turned, p->side, p->db);
    decayed(g, g->from, p->db, CHUNK, f->before, p->db);
  }
  by_state(f->w, p->D, k, kp, n, vp, p->turned, p->side, p->end); /* leaves w turned */
  slopes(g, 1, f->gate_u, p->end, f->rows, last);
  slope_of_state(g, p->S, p->D, vp);
  decayed(g, g->end, p->end, CHUNK, f->before, p->du);
  /* and with each other */
  multiply(SET, f->readers, CHUNK, vp, p->g, vp, 1, p->turned, CHUNK, p->dA, CHUNK);
  spread(g, p->dA, f->q, f->readers, f->seen, f->u, p->dq, p->du);
  if (has_b) {
    multiply(SET, CHUNK, CHUNK, vp, p->z, vp, 1, p->turned, CHUNK, p->dN, CHUNK);
    spread(g, p->dN, f->b, CHUNK, f->before, f->u, p->db, p->du);
    slopes(g, 1, f->b, p->db, f->rows, f->before);
  }
  slopes(g, 1, f->q, p->dq, f->readers, f->seen);
  slopes(g, -1, f->u, p->du, f->rows, f->behind);
  /* to the state before */
  decayed_state(g, p->D, vp);
  multiply(ADD, k, vp, f->readers, f->gate_q, 1, kp, p->g, vp, p->D, vp);
  if (has_b) multiply(ADD, k, vp, f->rows, f->gate_b, 1, kp, p->z, vp, p->D, vp);
}
