/**
 * Two-sided p of a correlation r under independence: P(|t| ≥ |r| √(df / (1 - r²))), t of Student's distribution with df
 * degrees of freedom. Equals the regularised incomplete beta function I_{1-r²}(df/2, 1/2).
 */
export function correlationP(r: number, df: number): number {
  return incompleteBeta(df / 2, 0.5, (1 - r) * (1 + r));
}

/** Two-sided p of Student's t with df degrees of freedom: P(|T| ≥ |t|) = I_{df/(df+t²)}(df/2, 1/2). */
export function studentP(t: number, df: number): number {
  return incompleteBeta(df / 2, 0.5, df / (df + t * t));
}

/** Two-sided p of a standard normal z: P(|Z| ≥ |z|), the regularised incomplete gamma function Q(1/2, z²/2). */
export function normalP(z: number): number {
  const x = (z * z) / 2;
  const front = Math.exp(-x) * Math.sqrt(x / Math.PI);
  if (x < 1.5) {
    // 1 - P by its series.
    let term = 2;
    let sum = term;
    for (let a = 1.5; term > sum * 1e-17; a++) sum += term *= x / a;
    return 1 - front * sum;
  }
  // Q by Lentz's continued fraction (Numerical Recipes, 3rd ed., 6.2).
  let b = x + 0.5;
  let c = Number.POSITIVE_INFINITY;
  let d = 1 / b;
  let result = d;
  for (let i = 1; i < 1000; i++) {
    const a = -i * (i - 0.5);
    b += 2;
    d = 1 / (a * d + b);
    c = b + a / c;
    const step = c * d;
    result *= step;
    if (Math.abs(step - 1) < 1e-15) break;
  }
  return front * result;
}

/** Regularised incomplete beta function I_x(a, b), by its continued fraction (Numerical Recipes, 3rd ed., 6.4). */
export function incompleteBeta(a: number, b: number, x: number): number {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x));
  return x < (a + 1) / (a + b + 2) ? (front * betaFraction(a, b, x)) / a : 1 - (front * betaFraction(b, a, 1 - x)) / b;
}

/** Lentz's method. It converges in some √max(a, b) steps; the bound is never reached. */
function betaFraction(a: number, b: number, x: number): number {
  const tiny = 1e-300;
  const away = (value: number) => (Math.abs(value) < tiny ? tiny : value);
  let c = 1;
  let d = 1 / away(1 - ((a + b) * x) / (a + 1));
  let result = d;
  for (let m = 1; m <= 100_000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / away(1 + even * d);
    c = away(1 + even / c);
    result *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away(1 + odd * d);
    c = away(1 + odd / c);
    const step = d * c;
    result *= step;
    if (Math.abs(step - 1) < 1e-15) break;
  }
  return result;
}

// Lanczos' approximation with g = 7 (coefficients of P. Godfrey): relative error of Γ below 1e-14 for x > 0.
const LANCZOS = [
  0.9999999999998099, 676.5203681218851, -1259.1392167224028, 771.3234287776531, -176.6150291621406, 12.507343278686905,
  -0.13857109526572012, 9.984369578019572e-6, 1.5056327351493116e-7,
] as const;

/** ln Γ(x) for x ≥ 1/2. */
function logGamma(x: number): number {
  let sum: number = LANCZOS[0];
  for (let i = 1; i < LANCZOS.length; i++) sum += (LANCZOS[i] as number) / (x - 1 + i);
  const t = x + 6.5;
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(sum);
}
