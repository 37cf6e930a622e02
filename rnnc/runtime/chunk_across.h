/* Matrix states whose decays lie on the other axis than the one that reads contract.
 *
 *   S_r = S_{r-1} D_r + u_r w_r^T,   y_t = S^T q_t
 *
 * for S [K, V], D_r a diagonal matrix of V numbers, plain writes.  With G, W and `seen` as in `chunk_rows.h`, of the values,
 *
 *   y_t = G_seen (S_0^T q_t) + sum over s < seen of A_ts W w_s,   A_ts = q_t.u_s
 *   S_C = S_0 G_C + sum over s of u_s ((G_C / G_{s+1}) w_s)^T
 *
 * so `spread` and `pairs` change places: the first is in the forward, the second its gradient.  Compiled behind `chunk_rows.h`.
 */
/* A [readers, CHUNK], 0 where a row is not seen. */
static void across_pairs(struct chunk *f, const struct sizes *z, T *turned) {
  transpose(f->u, CHUNK, z->kp, z->kp, turned, CHUNK);
  multiply(SET, f->readers, CHUNK, z->k, f->q, z->kp, 1, turned, CHUNK, f->A, CHUNK);
  for (int64_t i = 0; i < f->readers; i++)
    for (int s = f->seen[i]; s < CHUNK; s++) f->A[i * CHUNK + s] = 0;
}
static void across_state(const struct decays *g, int64_t k, T *S) {
  for (int64_t i = 0; i < k; i++)
    for (int64_t j = 0; j < g->kp; j += LANES)
      store(S + i * g->kp + j, load(S + i * g->kp + j, LANES) * load(g->total + j, LANES), LANES);
}

/* See `chunk_forward`; gate is memory for a chunk's values. */
static void across_forward(struct chunk *f, const struct sizes *z, T *S, T *out, T *gate) {
  const int64_t kp = z->kp, vp = z->vp;
  struct decays *g = &f->g;
  across_pairs(f, z, f->b);
  face(g, f->w);
  multiply(SET, f->readers, vp, z->k, f->q, kp, 1, S, vp, out, vp);
  decayed(g, g->from, out, f->readers, f->seen, out);
  spread(g, f->A, NULL, f->readers, f->seen, f->w, out, NULL);
  decayed(g, g->end, f->w, CHUNK, f->before, gate);
  across_state(g, z->k, S);
  multiply(ADD, z->k, vp, f->rows, f->u, 1, kp, gate, vp, S, vp);
}

/* See `chunk_back`: z = dw, dq, du, slopes, and D of the state before. */
static void across_back(struct chunk *f, struct back *p, const struct sizes *z) {
  const int64_t k = z->k, n = z->n, kp = z->kp, vp = z->vp;
  struct decays *g = &f->g;
  no_slopes(g);
  across_pairs(f, z, f->b);
  face(g, f->w);
  /* through the state behind to w and u */
  multiply(SET, CHUNK, vp, k, f->u, kp, 1, p->D, vp, p->z, vp);
  decayed(g, g->end, f->w, CHUNK, f->before, p->gate);
  slopes(g, 1, p->gate, p->z, f->rows, last);
  decayed(g, g->end, p->z, CHUNK, f->before, p->z);
  by_state(p->gate, p->D, k, kp, n, vp, p->turned, p->side, p->du);
  for (int64_t i = 0; i < k; i++)
    for (int64_t j = 0; j < vp; j += LANES) {
      const V x = load(p->S + i * vp + j, LANES) * load(p->D + i * vp + j, LANES) * load(g->total + j, LANES);
      T *to = g->slope + CHUNK * vp + j;
      store(to, load(to, LANES) + x, LANES);
    }
  /* through y; y itself is what its decays multiply */
  multiply(SET, f->readers, vp, k, f->q, kp, 1, p->S, vp, p->y, vp);
  decayed(g, g->from, p->y, f->readers, f->seen, p->y);
  spread(g, f->A, p->g, f->readers, f->seen, f->w, p->y, p->z);
  pairs(g, p->g, f->readers, f->seen, f->w, p->dA);
  slopes(g, 1, p->y, p->g, f->readers, f->seen);
  slopes(g, -1, f->w, p->z, f->rows, f->behind);
  memset(p->gate, 0, sizeof(T) * (size_t)(CHUNK * vp));
  decayed(g, g->from, p->g, f->readers, f->seen, p->gate);
  by_state(p->gate, p->S, k, kp, n, vp, p->turned, p->side, p->dq);
  multiply(ADD, f->readers, kp, CHUNK, p->dA, CHUNK, 1, f->u, kp, p->dq, kp);
  multiply(ADD, CHUNK, kp, f->readers, p->dA, 1, CHUNK, f->q, kp, p->du, kp);
  /* to the state before */
  across_state(g, k, p->D);
  multiply(ADD, k, vp, f->readers, f->q, 1, kp, p->gate, vp, p->D, vp);
}
