import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { argmax, labelMaps, type NdArray, staple } from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import { bytes, expectError, labelsOf, logitHeads } from "./support/heads.js";

/** SPEC's two-class method, pixel by pixel and in logarithms, as it is written there. */
function binary(labels: NdArray<Uint8Array>) {
  const [heads, pixels] = labels.shape as [number, number];
  const d = Array.from({ length: heads }, (_, j) => [...labels.data.subarray(j * pixels, (j + 1) * pixels)]);
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
  const g = sum(d.flat()) / (heads * pixels);
  let w = Array.from({ length: pixels }, (_, x) => sum(d.map((row) => row[x] as number)) / heads);
  let [p, q]: number[][] = [[], []];
  const kept = (value: number) => Math.min(1 - 1e-7, Math.max(1e-7, value));
  for (let round = 1; ; round++) {
    const before = [...(p as number[]), ...(q as number[])];
    p = d.map((row) => sum(row.map((v, x) => v * (w[x] as number))) / sum(w));
    q = d.map((row) => sum(row.map((v, x) => (1 - v) * (1 - (w[x] as number)))) / sum(w.map((v) => 1 - v)));
    w = w.map((_, x) => {
      const chance = (of: number[], label: number) =>
        sum(d.map((row, j) => Math.log(kept(row[x] === label ? (of[j] as number) : 1 - (of[j] as number)))));
      const [a, b] = [g * Math.exp(chance(p as number[], 1)), (1 - g) * Math.exp(chance(q as number[], 0))];
      return a / (a + b);
    });
    const moved = [...p, ...q].some((value, i) => Math.abs(value - (before[i] ?? Number.NaN)) > 1e-7);
    if (round === 100 || (round > 1 && !moved)) return { w, p, q, rounds: round };
  }
}

const labelCase = (options: Parameters<typeof logitHeads>[0]) =>
  logitHeads(options).map(({ heads, classes, pixels }) => ({ labels: labelMaps(heads), classes, pixels }));

/** Labels of many pixels, most heads right: enough of them for the estimate to be worth something. */
function noisy(heads: number, pixels: number, classes: number, chance: (k: number) => number) {
  const random = new Random(7);
  const truth = Array.from({ length: pixels }, () => random.integer(classes));
  const labels = Array.from({ length: heads }, (_, k) =>
    truth.map((t) => (random.uniform() < chance(k) ? t : (t + 1 + random.integer(classes - 1)) % classes)),
  );
  return { truth, labels: bytes(labels.flat(), [heads, pixels]) };
}

describe("staple", () => {
  it("of two classes is the binary method", () => {
    for (const heads of [2, 3, 7]) {
      const { labels } = noisy(heads, 60, 2, (k) => 0.6 + 0.05 * k);
      const expected = binary(labels);
      const actual = staple(labels, 2);
      expect(actual.rounds).toBe(expected.rounds);
      actual.sensitivity?.forEach((p, j) => {
        expect(p).toBeCloseTo(expected.p[j] as number, 9);
      });
      actual.specificity?.forEach((q, j) => {
        expect(q).toBeCloseTo(expected.q[j] as number, 9);
      });
      expected.w.forEach((w, x) => {
        expect(actual.probabilities.data[60 + x]).toBeCloseTo(w, 6);
      });
    }
  });

  it("finds how good each head is", () => {
    const chances = [0.95, 0.6, 0.8, 0.9, 0.7];
    const { truth, labels } = noisy(5, 4000, 3, (k) => chances[k] as number);
    const { probabilities, confusion, converged } = staple(labels, 3);
    expect(converged).toBe(true);
    confusion.forEach((rows, k) => {
      rows.forEach((row, t) => {
        expect(Math.abs((row[t] as number) - (chances[k] as number))).toBeLessThan(0.05);
      });
    });
    const right = argmax(probabilities).data.filter((label, x) => label === truth[x]).length / truth.length;
    expect(right).toBeGreaterThan(0.95);
  });

  it("gives the same with many heads, where it works in logarithms, as where it multiplies", () => {
    // Heads 41..60 say the same everywhere, and so tell of nothing but their own class.
    const { labels } = noisy(40, 200, 2, () => 0.8);
    const more = bytes([...labels.data, ...labels.data.subarray(0, 200)], [41, 200]);
    const doubled = staple(more, 2);
    const [first, last] = [doubled.confusion[0], doubled.confusion[40]];
    expect(last).toEqual(first);
    const plain = staple(labels, 2);
    expect(argmax(doubled.probabilities)).toEqual(argmax(plain.probabilities));
    plain.sensitivity?.forEach((p, k) => {
      expect(Math.abs(p - (doubled.sensitivity?.[k] as number))).toBeLessThan(0.01);
    });
  });

  it("of equal heads is their mask", () => {
    fc.assert(
      fc.property(
        labelCase({ minClasses: 2 }),
        fc.integer({ min: 2, max: 5 }),
        ({ labels, classes, pixels }, times) => {
          const row = labels.data.subarray(0, pixels);
          const data = Uint8Array.from({ length: times * pixels }, (_, i) => row[i % pixels] as number);
          const { probabilities, confusion, converged } = staple({ data, shape: [times, pixels] }, classes);
          expect(converged).toBe(true);
          expect(argmax(probabilities).data).toEqual(row);
          for (let i = 0; i < pixels; i++) {
            expect(probabilities.data[(row[i] as number) * pixels + i]).toBeCloseTo(1, 6);
          }
          for (const rows of confusion)
            rows.forEach((values, t) => {
              if (row.includes(t)) expect(values[t]).toBeCloseTo(1, 6);
              else expect(values.every(Number.isNaN)).toBe(true);
            });
        },
      ),
    );
  });

  it("is of probabilities, blind to the order of pixels, and treats heads alike", () => {
    fc.assert(
      fc.property(labelCase({ minHeads: 2, minClasses: 2 }), ({ labels, classes, pixels }) => {
        const heads = labels.shape[0] as number;
        const flat = { data: labels.data, shape: [heads, pixels] };
        const { probabilities, prior, confusion } = staple(flat, classes);
        expect(prior.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
        for (let i = 0; i < pixels; i++) {
          let sum = 0;
          for (let c = 0; c < classes; c++) sum += probabilities.data[c * pixels + i] as number;
          expect(sum).toBeCloseTo(1, 5);
        }
        // Entries of a matrix are undefined for a whole row or not at all.
        for (const row of confusion.flat()) {
          if (row.some(Number.isNaN)) expect(row.every(Number.isNaN)).toBe(true);
          else expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 9);
        }
        // Reversed as a whole: the pixels and the heads. A few rounds, as rounding decides between ends that are alike.
        const few = (data: Uint8Array) => staple({ data, shape: [heads, pixels] }, classes, { maxRounds: 3 });
        const [one, other] = [few(labels.data), few(Uint8Array.from(labels.data).reverse())];
        for (let c = 0; c < classes; c++)
          for (let i = 0; i < pixels; i++)
            expect(other.probabilities.data[c * pixels + pixels - 1 - i]).toBeCloseTo(
              one.probabilities.data[c * pixels + i] as number,
              6,
            );
      }),
    );
  });

  it("needs no estimate for one head or one class", () => {
    const one = staple(labelsOf("0121"), 3);
    expect([...one.probabilities.data]).toEqual([1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0]);
    expect(one).toMatchObject({ rounds: 0, converged: true });
    expect(one.sensitivity).toBeUndefined();
    const empty = staple(labelsOf("000", "000"), 2);
    expect([...empty.probabilities.data]).toEqual([1, 1, 1, 0, 0, 0]);
    expect(empty).toMatchObject({ rounds: 0, sensitivity: [Number.NaN, Number.NaN], specificity: [1, 1] });
    const full = staple(labelsOf("111", "111"), 2);
    expect([...full.probabilities.data]).toEqual([0, 0, 0, 1, 1, 1]);
    expect(full).toMatchObject({ sensitivity: [1, 1], specificity: [Number.NaN, Number.NaN] });
  });

  it("stops after so many rounds, and says so", () => {
    const { labels } = noisy(3, 100, 3, () => 0.6);
    expect(staple(labels, 3, { maxRounds: 2, tolerance: 0 })).toMatchObject({ rounds: 2, converged: false });
    expect(staple(labels, 3, { maxRounds: 1 })).toMatchObject({ rounds: 1, converged: false });
  });

  it("counts patterns right where there are too many for a table", () => {
    // 256 classes and as many distinct patterns as pixels.
    const pixels = 40_000;
    const rows = [1, 7, 31, 101].map((step) =>
      Uint8Array.from({ length: pixels }, (_, i) => (i * step + (i >> 8)) % 256),
    );
    const data = new Uint8Array(4 * pixels);
    rows.forEach((row, k) => {
      data.set(row, k * pixels);
    });
    const { probabilities, prior } = staple({ data, shape: [4, pixels] }, 256, { maxRounds: 1 });
    const counts = new Array(256).fill(0);
    for (const label of data) counts[label]++;
    expect(prior[5]).toBeCloseTo(counts[5] / data.length, 12);
    expect(probabilities.data.some(Number.isNaN)).toBe(false);
  });

  it("refuses what does not fit", () => {
    expectError(() => staple(labelsOf("012"), 2), "ERR_LE_VALUE", "labels", "2 at position 2");
    expectError(() => staple(bytes([0, 1]), 2), "ERR_LE_SHAPE", "labels", "K×S");
    expectError(() => staple(labelsOf("01"), 2, { rounds: 3 } as never), "ERR_LE_OPTION", "'rounds'");
    expectError(() => staple(labelsOf("01"), 2, { maxRounds: 0 }), "ERR_LE_OPTION", "'maxRounds'", "0");
  });
});
