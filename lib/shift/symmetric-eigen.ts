// Eigenvalues and eigenvectors of a symmetric matrix: Householder's reflections to a tridiagonal one, then the implicit QL
// method (Golub & Van Loan, Matrix Computations, §8.3). Errors are about 1e-15 of the largest eigenvalue.

/** A row of a matrix of n columns. */
const row = (matrix: Float64Array, n: number, i: number) => matrix.subarray(i * n, (i + 1) * n);

/**
 * All eigenvalues of a real symmetric matrix in descending order, and a unit eigenvector of each.
 * @param matrix n×n in row order; it is not changed
 * @returns `vectors`: n×n, the eigenvector of `values[i]` in row i
 */
export function symmetricEigen(matrix: Float64Array, n: number): { values: Float64Array; vectors: Float64Array } {
  const { diagonal, beside, basis } = tridiagonal(matrix.slice(), n);
  diagonalise(diagonal, beside, basis, n);
  const order = Array.from({ length: n }, (_, i) => i).sort((a, b) => at(diagonal, b) - at(diagonal, a));
  const vectors = new Float64Array(n * n);
  for (const [to, from] of order.entries()) vectors.set(row(basis, n, from), to * n);
  return { values: Float64Array.from(order, (i) => at(diagonal, i)), vectors };
}

const at = (values: Float64Array, i: number) => values[i] as number;

/** Of a's numbers from `start` on with the first m of b. */
function dot(a: Float64Array, start: number, b: Float64Array, m: number): number {
  let sum = 0;
  for (let i = 0; i < m; i++) sum += at(a, start + i) * at(b, i);
  return sum;
}

/** Q A Qᵀ is tridiagonal; `basis` is Q. The matrix is used up. */
function tridiagonal(a: Float64Array, n: number) {
  const diagonal = new Float64Array(n);
  const beside = new Float64Array(n); // beside[i]: between i and i + 1
  const reflections: Float64Array[] = [];
  const w = new Float64Array(n);
  for (let k = 0; k + 1 < n; k++) {
    diagonal[k] = at(a, k * n + k);
    // The reflection that leaves of the column below the diagonal its first number alone.
    const v = a.slice(k * n + k + 1, (k + 1) * n);
    const first = at(v, 0);
    const m = v.length;
    const norm = Math.sqrt(dot(v, 0, v, m));
    if (norm === Math.abs(first)) {
      beside[k] = first;
      reflections.push(new Float64Array(0));
      continue;
    }
    beside[k] = first > 0 ? -norm : norm;
    v[0] = first - at(beside, k);
    const length = Math.sqrt(dot(v, 0, v, m));
    for (let i = 0; i < m; i++) v[i] = at(v, i) / length;
    reflections.push(v);
    let vp = 0;
    for (let i = 0; i < m; i++) {
      w[i] = dot(a, (k + 1 + i) * n + k + 1, v, m);
      vp += at(w, i) * at(v, i);
    }
    for (let i = 0; i < m; i++) w[i] = 2 * (at(w, i) - vp * at(v, i));
    for (let i = 0; i < m; i++) {
      const start = (k + 1 + i) * n + k + 1;
      const [vi, wi] = [at(v, i), at(w, i)];
      for (let j = 0; j < m; j++) a[start + j] = at(a, start + j) - vi * at(w, j) - wi * at(v, j);
    }
  }
  if (n > 0) diagonal[n - 1] = at(a, n * n - 1);
  const basis = new Float64Array(n * n);
  for (let i = 0; i < n; i++) basis[i * n + i] = 1;
  for (let k = reflections.length - 1; k >= 0; k--) {
    const v = reflections[k] as Float64Array;
    // Q = … H₁ H₀: from the last reflection on, each turns the columns that it spans, in the rows from its own on.
    if (v.length === 0) continue;
    for (let i = k + 1; i < n; i++) {
      const start = i * n + k + 1;
      const twice = 2 * dot(basis, start, v, v.length);
      for (let j = 0; j < v.length; j++) basis[start + j] = at(basis, start + j) - twice * at(v, j);
    }
  }
  return { diagonal, beside, basis };
}

/** Turns a tridiagonal matrix to its eigenvalues, in `d`, and the rows of `basis` with it. */
function diagonalise(d: Float64Array, e: Float64Array, basis: Float64Array, n: number): void {
  let norm = 0;
  for (let i = 0; i < n; i++) norm = Math.max(norm, Math.abs(at(d, i)) + Math.abs(at(e, i)));
  const negligible = Number.EPSILON * norm;
  for (let l = 0; l < n; l++) {
    for (;;) {
      let m = l;
      while (m + 1 < n && Math.abs(at(e, m)) > negligible) m++;
      if (m === l) break;
      sweep(d, e, basis, n, l, m);
    }
  }
}

/** One implicit QL step, with Wilkinson's shift, on the rows l to m. */
function sweep(d: Float64Array, e: Float64Array, basis: Float64Array, n: number, l: number, m: number): void {
  const slope = (at(d, l + 1) - at(d, l)) / (2 * at(e, l));
  const shift = at(d, l) - at(e, l) / (slope + (slope < 0 ? -1 : 1) * Math.hypot(slope, 1));
  let g = at(d, m) - shift;
  let [s, c, p] = [1, 1, 0];
  for (let i = m - 1; i >= l; i--) {
    const f = s * at(e, i);
    const b = c * at(e, i);
    const r = Math.hypot(f, g);
    e[i + 1] = r;
    if (r === 0) {
      d[i + 1] = at(d, i + 1) - p;
      e[m] = 0;
      return;
    }
    [s, c] = [f / r, g / r];
    g = at(d, i + 1) - p;
    const t = (at(d, i) - g) * s + 2 * c * b;
    p = s * t;
    d[i + 1] = g + p;
    g = c * t - b;
    turn(row(basis, n, i), row(basis, n, i + 1), c, s);
  }
  d[l] = at(d, l) - p;
  e[l] = g;
  e[m] = 0;
}

function turn(x: Float64Array, y: Float64Array, c: number, s: number): void {
  for (let k = 0; k < x.length; k++) {
    const [u, v] = [at(x, k), at(y, k)];
    x[k] = c * u - s * v;
    y[k] = s * u + c * v;
  }
}
