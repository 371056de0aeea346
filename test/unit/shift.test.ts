// How far images are from those of the training: against scikit-learn, and by what must hold.
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../lib/random.js";
import { fitShift, INPUT, STORED, type TapStatistics, TEXTURE, tapDistance } from "../../lib/shift/index.js";
import { symmetricEigen } from "../../lib/shift/symmetric-eigen.js";

interface Case {
  training: number[][];
  others: number[][];
  dimensions: number;
  components: number;
  mahalanobis: number[];
  neighbours: number[];
}
const cases = JSON.parse(readFileSync("test/fixtures/shift.json", "utf8")) as Case[];
const code = (value: string) => expect.objectContaining({ name: "LayerEnsemblesError", code: value });
const image = (numbers: number[], tap = "a"): TapStatistics => ({ [tap]: Float32Array.from(numbers) });

/** Images of three layers of 2, 3 and 4 channels; what is moved are means, in units of the deviations. */
function images(count: number, seed: number, move: (tap: string) => number = () => 0): TapStatistics[] {
  const random = new Random(seed);
  return Array.from({ length: count }, () =>
    Object.fromEntries(
      ["early", "middle", "late"].map((tap, t) => {
        const shared = random.normal();
        const deviations = Array.from({ length: 2 + t }, () => Math.exp(0.3 * (shared + random.normal())));
        const means = deviations.map((deviation) => deviation * (3 + shared + random.normal() + move(tap)));
        return [tap, Float32Array.from([...means, ...deviations])];
      }),
    ),
  );
}

describe("symmetricEigen", () => {
  it("takes a matrix apart into orthogonal directions, of any rank", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 24 }), fc.integer({ min: 0, max: 24 }), fc.integer(), (n, rank, seed) => {
        const random = new Random(seed);
        const x = Float64Array.from({ length: n * rank }, () => random.normal());
        const a = new Float64Array(n * n);
        for (let i = 0; i < n; i++)
          for (let j = 0; j < n; j++)
            for (let k = 0; k < rank; k++)
              a[i * n + j] = (a[i * n + j] as number) + (x[i * rank + k] as number) * (x[j * rank + k] as number);
        const { values, vectors } = symmetricEigen(a, n);
        const scale = Math.max(1, values[0] as number);
        for (let i = 0; i < n; i++) {
          if (i > 0) expect(values[i]).toBeLessThanOrEqual(values[i - 1] as number);
          for (let j = 0; j < n; j++) {
            let [dot, restored] = [0, 0];
            for (let k = 0; k < n; k++) {
              dot += (vectors[i * n + k] as number) * (vectors[j * n + k] as number);
              restored += (values[k] as number) * (vectors[k * n + i] as number) * (vectors[k * n + j] as number);
            }
            expect(dot).toBeCloseTo(i === j ? 1 : 0, 10);
            expect(Math.abs(restored - (a[i * n + j] as number))).toBeLessThan(1e-12 * n * scale);
          }
        }
      }),
      { numRuns: 60 },
    );
  });

  it("knows the eigenvalues of a chain: 2 - 2 cos(kπ/(n + 1))", () => {
    const n = 30;
    const a = new Float64Array(n * n);
    for (let i = 0; i < n; i++) {
      a[i * n + i] = 2;
      if (i > 0) a[i * n + i - 1] = a[(i - 1) * n + i] = -1;
    }
    const { values } = symmetricEigen(a, n);
    for (let k = 1; k <= n; k++) expect(values[n - k]).toBeCloseTo(2 - 2 * Math.cos((k * Math.PI) / (n + 1)), 12);
  });
});

describe("fitShift", () => {
  it.each(cases.map((one, i) => [i, one] as const))("measures as scikit-learn does, case %i", (_, one) => {
    const training = one.training.map((numbers) => image(numbers));
    for (const measure of ["mahalanobis", "neighbours"] as const) {
      const fit = fitShift(training, training, { measure, dimensions: one.dimensions });
      expect(fit.taps[0]?.whitening.length).toBe(one.components * (one.training[0]?.length ?? 0));
      for (const [i, numbers] of one.others.entries()) {
        const expected = one[measure][i] as number;
        const { distance } = tapDistance(fit, image(numbers)).taps.a as { distance: number };
        expect(Math.abs(distance - expected)).toBeLessThan(1e-5 * expected);
      }
    }
  });

  it("ranks a distance among those of validation, and means over the layers that are chosen", () => {
    const fit = fitShift(images(60, 1), images(20, 2));
    expect(fit.chosen).toEqual(["early"]);
    const [far] = images(1, 3, (tap) => (tap === "late" ? 50 : 0)) as [TapStatistics];
    const result = tapDistance(fit, far);
    expect(Object.keys(result.taps)).toEqual(["early", "middle", "late"]);
    expect(result.taps.late?.rank).toBe(1);
    const { distance = 0, rank } = result.taps.early ?? {};
    expect(rank).toBe((fit.taps[0]?.distances ?? []).filter((own) => own < distance).length / 20);
    expect(result.value).toBe(rank);
    const all = tapDistance(fitShift(images(60, 1), images(20, 2), { taps: "all" }), far);
    expect(all.max).toBe(1);
    expect(all.excess).toBeGreaterThan(10);
    expect(all.value).toBeCloseTo(Object.values(all.taps).reduce((sum, tap) => sum + tap.rank, 0) / 3, 12);
    const named = tapDistance(fitShift(images(60, 1), images(20, 2), { taps: ["late", "early"] }), far);
    expect(named.value).toBeCloseTo((1 + (rank as number)) / 2, 12);
  });

  it("tells images apart that are farther than all of validation", () => {
    const fit = fitShift(images(60, 1), images(20, 2), { taps: "all" });
    const excesses = [10, 20, 40].map((by) => {
      const [far] = images(1, 3, (tap) => (tap === "middle" ? by : 0)) as [TapStatistics];
      return tapDistance(fit, far).excess;
    });
    expect(excesses).toEqual(excesses.toSorted((a, b) => a - b));
    expect(new Set(excesses).size).toBe(3);
    // By its definition, of the layer where it is most.
    const [one] = images(1, 4) as [TapStatistics];
    const { excess, taps } = tapDistance(fit, one);
    const expected = fit.taps.map(({ tap, distances }) => {
      const logs = [...distances].map((distance) => Math.log(1 + distance));
      const mean = logs.reduce((sum, x) => sum + x, 0) / 20;
      const deviation = Math.sqrt(logs.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 19);
      return (Math.log(1 + (taps[tap]?.distance ?? 0)) - mean) / deviation;
    });
    expect(excess).toBeCloseTo(Math.max(...expected), 9);
  });

  it("does not depend on the scale of a channel, nor on which comes first", () => {
    const plain = (all: TapStatistics[]) => all.map(({ late = new Float32Array() }) => image([...late]));
    const turned = (all: TapStatistics[]) =>
      all.map(({ late = new Float32Array() }) => {
        const channels = [...late.subarray(0, 4)].map((mean, c) => [mean, late[4 + c] as number] as const).reverse();
        return image([...channels.map(([mean], c) => mean * 8 ** c), ...channels.map(([, sd], c) => sd * 8 ** c)]);
      });
    const [training, validation, others] = [images(50, 1), images(10, 2), images(5, 3)] as const;
    const one = fitShift(plain(training), plain(validation));
    const other = fitShift(turned(training), turned(validation));
    const distances = (fit: typeof one, all: TapStatistics[]) =>
      all.map((each) => tapDistance(fit, each).taps.a?.distance ?? 0);
    const expected = distances(one, plain(others));
    for (const [i, distance] of distances(other, turned(others)).entries())
      expect(distance).toBeCloseTo(expected[i] as number, 3);
  });

  it("describes the first layer together with its input and with what was stored, where images say so", () => {
    const random = new Random(8);
    const whole = (all: TapStatistics[], gain = 1) =>
      all.map((one) => ({
        ...one,
        [INPUT]: Float32Array.of(random.normal() + 9, Math.exp(0.1 * random.normal())),
        [TEXTURE]: Float32Array.of(random.normal() + 5, Math.exp(0.1 * random.normal())),
        [STORED]: Float32Array.of(gain * (80 + 8 * random.normal()), gain * 20 * Math.exp(0.1 * random.normal())),
      }));
    const [training, validation, own, brighter] = [
      ...[whole(images(60, 1)), whole(images(20, 2)), whole(images(40, 3)), whole(images(40, 4), 3)],
    ] as const;
    const fit = fitShift(training, validation);
    expect(fit.taps.map(({ tap, parts }) => [tap, ...parts.map((part) => `${part.of}:${part.channels}`)])).toEqual([
      ["early", "(stored):1", "(texture):1", "(input):1", "early:2"],
      ["middle", "middle:3"],
      ["late", "late:4"],
    ]);
    const excess = (one: TapStatistics) => tapDistance(fit, one).excess;
    const most = Math.max(...own.map(excess));
    for (const one of brighter) expect(excess(one)).toBeGreaterThan(most);
    // Where nothing is known of what was stored, it counts for nothing: no image is farther by it.
    const without = ({ [STORED]: _, ...rest }: TapStatistics) => rest;
    const distance = (one: TapStatistics) => tapDistance(fit, one).taps.early?.distance as number;
    for (const one of brighter) expect(distance(without(one))).toBeLessThan(distance(one));
    const both = fitShift(training.map(without), validation.map(without));
    expect(both.taps[0]?.parts.map((part) => part.of)).toEqual([TEXTURE, INPUT, "early"]);
    const { [INPUT]: _, ...blind } = own[0] as Record<string, Float32Array>;
    expect(() => tapDistance(fit, blind)).toThrow(code("ERR_LE_SHAPE"));
  });

  it("leaves out layers that are the same for all images, and calls what is not finite infinitely far", () => {
    const still = (all: TapStatistics[]) => all.map((one) => ({ still: Float32Array.of(1, 2, 0, 0.5), ...one }));
    const fit = fitShift(still(images(20, 1)), still(images(8, 2)));
    expect(fit.taps.map(({ tap }) => tap)).toEqual(["early", "middle", "late"]);
    const [one] = images(1, 3) as [TapStatistics];
    const odd = {
      ...one,
      early: Float32Array.of(Number.NaN, 0, 0, 0),
      late: new Float32Array(8).fill(Number.POSITIVE_INFINITY),
    };
    const { taps, value } = tapDistance(fit, odd);
    expect(taps.early).toEqual({ distance: Number.POSITIVE_INFINITY, rank: 1 });
    expect(taps.late?.rank).toBe(1);
    expect(value).toBe(1);
  });

  it("refuses too few images, other layers, numbers that are not finite, and options that mean nothing", () => {
    const [training, validation] = [images(20, 1), images(8, 2)];
    expect(() => fitShift(training.slice(0, 7), validation)).toThrow(code("ERR_LE_SHAPE"));
    expect(() => fitShift(training, validation.slice(0, 4))).toThrow(code("ERR_LE_SHAPE"));
    expect(() => fitShift([...training, image([1, 2])], validation)).toThrow(code("ERR_LE_SHAPE"));
    expect(() => fitShift(training, [...validation, { ...training[0], late: new Float32Array(3) }])).toThrow(
      code("ERR_LE_SHAPE"),
    );
    const odd = { ...(training[0] as TapStatistics), early: Float32Array.of(1, 2, Number.NaN, 3) };
    expect(() => fitShift([...training, odd], validation)).toThrow(code("ERR_LE_VALUE"));
    const negative = { ...(training[0] as TapStatistics), early: Float32Array.of(1, 2, 1, -1) };
    expect(() => fitShift([...training, negative], validation)).toThrow(code("ERR_LE_VALUE"));
    expect(() => fitShift(Array(9).fill(image([1, 2, 3])), Array(9).fill(image([1, 2, 3])))).toThrow(
      code("ERR_LE_SHAPE"),
    );
    expect(() => fitShift(Array(9).fill(training[0]), validation)).toThrow(code("ERR_LE_VALUE"));
    expect(() => fitShift(training, validation, { taps: ["later"] })).toThrow(code("ERR_LE_OPTION"));
    expect(() => fitShift(training, validation, { taps: "late" as never })).toThrow(code("ERR_LE_OPTION"));
    const fit = fitShift(training, validation);
    expect(() => tapDistance(fit, { early: new Float32Array(4) })).toThrow(code("ERR_LE_SHAPE"));
  });
});
