// Inner and outer masks: by NumPy's numbers, by their definition, and whether they keep what they promise.
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { LayerEnsemblesError } from "../../lib/errors.js";
import { fitPixelSets, type NdArray, pixelSetRisk, pixelSets, type SetRisk } from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import { SHARES } from "../../lib/sets/risk.js";

type Class = "1" | "2";
interface Fixture {
  alpha: { inner: number; outer: number };
  shares: { inner: number; outer: number };
  images: {
    shape: number[];
    group: string;
    p: number[];
    y: number[];
    sets: Record<Class, Record<"inner" | "outer", number[]>>;
    losses: Record<Class, { inner: number[]; outer: number[] | null }>;
  }[];
  fits: Record<
    "images" | "groups",
    Record<Class, Record<"inner" | "outer", { share: number | null; cases: number; risk?: number }>>
  >;
}
const fixture: Fixture = JSON.parse(readFileSync(new URL("../fixtures/pixel-sets.json", import.meta.url), "utf8"));

const binary = (values: readonly number[], shape = [values.length], Type = Float32Array) => ({
  data: Type.from([...values.map((value) => 1 - value), ...values]),
  shape: [2, ...shape],
});
const labels = (values: readonly number[], shape = [values.length]) => ({ data: Uint8Array.from(values), shape });
const codeOf = (run: () => unknown) => {
  try {
    run();
  } catch (error) {
    return (error as LayerEnsemblesError).code;
  }
  return undefined;
};

describe("NumPy's numbers", () => {
  const images = fixture.images.map(({ shape, p, y, ...rest }) => ({
    probabilities: { data: Float32Array.from(p, (value) => value / 64), shape: [3, ...shape] },
    truth: labels(y, shape),
    ...rest,
  }));
  const risks = images.map(({ probabilities, truth }) => pixelSetRisk(probabilities, truth, { ignoreIndex: 255 }));

  it("has images, volumes, ties, ignored pixels, and classes without truth or mass", () => {
    expect(new Set(images.map(({ truth }) => truth.shape.length))).toEqual(new Set([2, 3]));
    expect(images.some(({ truth }) => truth.data.includes(255))).toBe(true);
    expect(images.some(({ losses }) => losses[1].outer === null)).toBe(true);
    expect(images.some(({ sets }) => Object.values(sets).some(({ outer }) => outer.every((one) => one === 0)))).toBe(
      true,
    );
  });

  it.each(images.map((image, i) => [i, image] as const))("image %i: masks", (_, { probabilities, truth, sets }) => {
    const found = pixelSets(probabilities, fixture.shares);
    for (const c of ["1", "2"] as const)
      for (const name of ["inner", "outer"] as const)
        expect(found[Number(c)]?.[name]).toEqual(labels(sets[c][name], [...truth.shape]));
  });

  it("losses by λ", () => {
    for (const [i, { losses }] of images.entries())
      for (const c of ["1", "2"] as const)
        for (const name of ["inner", "outer"] as const) {
          const own = risks[i]?.perClass[Number(c)]?.[name].loss;
          const expected = losses[c][name];
          if (expected === null) expect(own).toBeNull();
          else
            for (const [k, value] of expected.entries())
              expect(own?.[125 * k], `image ${i}, class ${c}, ${name}`).toBeCloseTo(value, 12);
        }
  });

  it.each(["images", "groups"] as const)("thresholds by %s", (unit) => {
    const groups = unit === "groups" ? { groups: images.map(({ group }) => group) } : {};
    const { perClass, thresholds } = fitPixelSets(risks, { ...fixture.alpha, ...groups });
    for (const c of ["1", "2"] as const) {
      const expected = fixture.fits[unit][c];
      // Where the inner one came out above the outer it is lowered to it.
      const { inner, outer } = expected;
      const capped = inner.share !== null && outer.share !== null && inner.share > outer.share;
      const shares = [capped ? outer.share : inner.share, outer.share] as const;
      expect(perClass[Number(c)]?.capped).toBe(capped);
      for (const [k, name] of (["inner", "outer"] as const).entries()) {
        const fit = perClass[Number(c)]?.[name];
        expect(fit?.cases).toBe(expected[name].cases);
        if (shares[k] == null) expect(fit?.share).toBeNull();
        else expect(fit?.share).toBeCloseTo(shares[k], 12);
        if (shares[k] === expected[name].share && shares[k] != null)
          expect(fit?.risk).toBeCloseTo(expected[name].risk as number, 12);
        expect(thresholds[Number(c)]?.[name]).toBe(fit?.share);
      }
    }
  });
});

describe("pixelSets", () => {
  const scoresOf = (p: readonly number[]) => {
    const mass = p.reduce((sum, one) => sum + one, 0);
    return p.map((own) => p.reduce((sum, one) => sum + (one > own ? one : 0), 0) / (mass || 1) + (mass ? 0 : 1));
  };

  it("is the definition, of probabilities far apart, equal and close, single and double", () => {
    // Multiples of 2^-16, whose sums are exact.
    const value = fc.oneof(
      fc.integer({ min: 0, max: 65536 }),
      fc.constantFrom(0, 1, 2, 32768),
      fc.integer({ min: 39000, max: 39040 }),
    );
    const values = fc.array(value, { minLength: 1, maxLength: 40 });
    const share = fc.oneof(fc.constantFrom(0, 0.5, 1), fc.double({ min: 0, max: 1, noNaN: true }));
    fc.assert(
      fc.property(values, share, share, fc.constantFrom(Float32Array, Float64Array), (whole, a, b, Type) => {
        const p = whole.map((value) => value / 65536);
        const [inner, outer] = a < b ? [a, b] : [b, a];
        const found = pixelSets(binary(p, undefined, Type as Float32ArrayConstructor), { inner, outer })[1];
        const scores = scoresOf(p);
        expect([...(found?.outer?.data ?? [])]).toEqual(scores.map((score) => (score <= outer ? 1 : 0)));
        expect([...(found?.inner?.data ?? [])]).toEqual(
          scores.map((score, i) => ((p[i] as number) > 0.5 && score <= inner ? 1 : 0)),
        );
      }),
      { numRuns: 500 },
    );
  });

  it("nests, whatever the probabilities", () => {
    const random = new Random(1);
    for (let round = 0; round < 50; round++) {
      const p = Array.from({ length: 400 }, () => random.uniform() ** random.integer(9));
      const [inner, outer] = [random.uniform(), random.uniform()].sort() as [number, number];
      const sets = pixelSets(binary(p, [4, 10, 10]), { inner, outer })[1];
      expect(sets?.inner?.shape).toEqual([4, 10, 10]);
      expect(sets?.inner?.data.every((one, i) => one <= (sets.outer?.data[i] as number))).toBe(true);
    }
  });

  it("takes pixels of equal probability together", () => {
    const sets = pixelSets(binary([0.9, 0.6, 0.6, 0.6, 0.1]), { inner: 0.3, outer: 0.33 })[1];
    // Above the three lie 0.9 of 2.8 = 0.321…
    expect([...(sets?.inner?.data ?? [])]).toEqual([1, 0, 0, 0, 0]);
    expect([...(sets?.outer?.data ?? [])]).toEqual([1, 1, 1, 1, 0]);
  });

  it("of an image without mass: no pixel, but every one for λ = 1", () => {
    const none = binary([0, 0, 0]);
    expect(pixelSets(none, { inner: 0.2, outer: 0.999 })[1]?.outer?.data).toEqual(Uint8Array.of(0, 0, 0));
    expect(pixelSets(none, { inner: 0.2, outer: 1 })[1]?.outer?.data).toEqual(Uint8Array.of(1, 1, 1));
    expect(pixelSets(none, { inner: 1, outer: 1 })[1]?.inner?.data).toEqual(Uint8Array.of(0, 0, 0));
    // What rounding may leave below 0 is none, too.
    expect(pixelSets(binary([-1e-7, 0.5, 0.5]), { inner: null, outer: 0.99 })[1]?.outer?.data).toEqual(
      Uint8Array.of(0, 1, 1),
    );
  });

  it("leaves out a mask without a threshold, and a class without", () => {
    const three = { data: Float32Array.from([0.2, 0.2, 0.5, 0.1, 0.3, 0.7]), shape: [3, 2] };
    expect(pixelSets(three, { inner: null, outer: 0.5 })).toEqual({
      1: { outer: labels([1, 0]) },
      2: { outer: labels([0, 1]) },
    });
    expect(pixelSets(three, { 2: { inner: 0, outer: null } })).toEqual({ 2: { inner: labels([0, 1]) } });
  });

  it.each([
    ["inner above outer", { inner: 0.6, outer: 0.5 }, /from 0 to option 'outer'/],
    ["inner above outer of a class", { 1: { inner: 0.6, outer: 0.5 } }, /class 1/],
    ["a percentage", { inner: 0.6, outer: 95 }, /from 0 to 1/],
    ["NaN", { inner: Number.NaN, outer: 1 }, /from 0 to 1/],
    ["one alone", { outer: 0.5 }, /'inner'/],
    ["a class that there is none of", { 2: { inner: 0.1, outer: 0.5 } }, /'2'/],
    ["the background", { 0: { inner: 0.1, outer: 0.5 } }, /'0'/],
  ])("refuses %s", (_, thresholds, message) => {
    const run = () => pixelSets(binary([0.1, 0.9]), thresholds as never);
    expect(run).toThrow(message);
    expect(codeOf(run)).toBe("ERR_LE_OPTION");
  });

  it("refuses what are no probabilities", () => {
    const thresholds = { inner: 0.1, outer: 0.5 };
    for (const value of [Number.NaN, 1.5, Number.POSITIVE_INFINITY])
      expect(codeOf(() => pixelSets(binary([0.1, value]), thresholds))).toBe("ERR_LE_VALUE");
    expect(codeOf(() => pixelSets({ data: new Float32Array(3), shape: [2, 2] }, thresholds))).toBe("ERR_LE_SHAPE");
  });
});

describe("pixelSetRisk", () => {
  const last = (values: Float64Array | null | undefined) => values?.[SHARES.length - 1];

  it("keeps no pixels, and its losses are monotone", () => {
    const random = new Random(2);
    const p = Array.from({ length: 500 }, () => random.uniform());
    const risk = pixelSetRisk(binary(p), labels(p.map((value) => (random.uniform() < value ? 1 : 0))));
    const { inner, outer } = risk.perClass[1] as SetRisk["perClass"][number];
    for (let j = 1; j < SHARES.length; j++) {
      expect(inner.loss?.[j]).toBeGreaterThanOrEqual(inner.loss?.[j - 1] as number);
      expect(outer.loss?.[j]).toBeLessThanOrEqual(outer.loss?.[j - 1] as number);
    }
    expect(last(outer.loss)).toBe(0);
    expect(last(outer.size)).toBe(1);
  });

  it("is of the masks that pixelSets gives, size and losses", () => {
    const random = new Random(3);
    const p = Array.from({ length: 300 }, () => Math.fround(random.uniform() ** 3));
    const y = p.map((value) => (random.uniform() < 0.1 ? 255 : random.uniform() < value ? 1 : 0));
    const { inner, outer } = pixelSetRisk(binary(p), labels(y), { ignoreIndex: 255 })
      .perClass[1] as SetRisk["perClass"][number];
    const counted = y.filter((label) => label !== 255).length;
    const truth = y.filter((label) => label === 1).length;
    let worst = 0;
    for (let j = 0; j < SHARES.length; j++) {
      const share = SHARES[j] as number;
      const sets = pixelSets(binary(p), { inner: share, outer: share })[1];
      const counts = ([sets?.outer?.data, sets?.inner?.data] as Uint8Array[]).map((set) => {
        const within = y.filter((label, i) => label !== 255 && set[i] === 1);
        return { all: within.length, right: within.filter((label) => label === 1).length };
      });
      const [within, surely] = counts as [(typeof counts)[0], (typeof counts)[0]];
      worst = Math.max(worst, surely.all > 0 ? 1 - surely.right / surely.all : 0);
      expect(outer.size[j]).toBeCloseTo(within.all / counted, 12);
      expect(inner.size[j]).toBeCloseTo(surely.all / counted, 12);
      expect(outer.loss?.[j]).toBeCloseTo(1 - within.right / truth, 12);
      expect(inner.loss?.[j]).toBeCloseTo(worst, 12);
    }
  });

  it("of an image without truth: no loss of the outer mask; all of the inner one is false", () => {
    const { inner, outer } = pixelSetRisk(binary([0.9, 0.2, 0.1]), labels([0, 0, 0]))
      .perClass[1] as SetRisk["perClass"][number];
    expect(outer.loss).toBeNull();
    expect(inner.loss?.[0]).toBe(1);
  });

  it("of an image where the class is not predicted: an empty inner mask", () => {
    const { inner, outer } = pixelSetRisk(binary([0.4, 0.2, 0.1]), labels([1, 0, 0]))
      .perClass[1] as SetRisk["perClass"][number];
    expect(last(inner.loss)).toBe(0);
    expect(last(inner.size)).toBe(0);
    expect(outer.loss?.[0]).toBe(0);
  });

  it("of an image without mass: all of the truth is missed until λ = 1", () => {
    const { outer } = pixelSetRisk(binary([0, 0]), labels([1, 0])).perClass[1] as SetRisk["perClass"][number];
    expect(outer.loss?.[SHARES.length - 2]).toBe(1);
    expect(last(outer.loss)).toBe(0);
  });

  it("of an image of which no pixel counts: nothing", () => {
    expect(pixelSetRisk(binary([0.9, 0.2]), labels([255, 255]), { ignoreIndex: 255 })).toEqual({ perClass: {} });
  });

  it("refuses a truth that does not fit, or leaves open what 255 is", () => {
    expect(codeOf(() => pixelSetRisk(binary([0.9, 0.2]), labels([1])))).toBe("ERR_LE_SHAPE");
    expect(codeOf(() => pixelSetRisk(binary([0.9, 0.2]), labels([2, 0])))).toBe("ERR_LE_VALUE");
    expect(codeOf(() => pixelSetRisk(binary([0.9, 0.2]), labels([255, 0])))).toBe("ERR_LE_VALUE");
  });
});

describe("fitPixelSets", () => {
  const right = () => pixelSetRisk(binary([0.9, 0.8, 0.1, 0.1]), labels([1, 1, 0, 0]));
  const wrong = () => pixelSetRisk(binary([0.9, 0.8, 0.1, 0.1]), labels([0, 0, 0, 0]));
  const many = <T>(n: number, of: () => T) => Array.from({ length: n }, of);

  it("says how many cases are needed where there are too few", () => {
    const few = fitPixelSets(many(8, right)).perClass[1];
    for (const name of ["inner", "outer"] as const) {
      expect(few?.[name].share).toBeNull();
      expect(few?.[name].sentence).toMatch(/needs at least 9 cases.*there are 8/);
    }
    expect(fitPixelSets(many(9, right)).perClass[1]?.outer.share).not.toBeNull();
    expect(fitPixelSets(many(19, right), { outer: 0.05 }).perClass[1]?.outer.share).not.toBeNull();
    expect(fitPixelSets(many(18, right), { outer: 0.05 }).perClass[1]?.outer.share).toBeNull();
  });

  it("counts a group once", () => {
    const groups = many(18, () => "").map((_, i) => `patient ${i % 6}`);
    expect(fitPixelSets(many(18, right), { groups }).perClass[1]?.outer).toMatchObject({ cases: 6, share: null });
  });

  it("has no inner mask where the surest pixels are false too often, and says how many cases could do", () => {
    const often = fitPixelSets([...many(20, right), ...many(5, wrong)]).perClass[1]?.inner;
    expect(often).toMatchObject({ share: null, cases: 25 });
    expect(often?.sentence).toMatch(/false in 20.0 % of 25 cases, which no number/);
    const rarely = fitPixelSets([...many(11, right), ...many(1, wrong)]).perClass[1]?.inner;
    // (1 - 0.1) / (0.1 - 1/12) = 54.
    expect(rarely?.sentence).toMatch(/needs 54 cases/);
    expect(fitPixelSets([...many(50, right), ...many(4, wrong)]).perClass[1]?.inner.share).not.toBeNull();
  });

  it("leaves images without truth out of the outer mask's cases alone", () => {
    const fit = fitPixelSets([...many(40, right), ...many(2, wrong)]).perClass[1];
    expect([fit?.inner.cases, fit?.outer.cases]).toEqual([42, 40]);
  });

  it("lowers an inner threshold to the outer, and each keeps its promise", () => {
    // A perfect network: 40 % of the truth could be missed, and 40 % of the mask be false.
    const perfect = () => {
      const truth = Array.from({ length: 100 }, (_, i) => (i < 50 ? 1 : 0));
      return pixelSetRisk(binary(truth.map((y, i) => (y ? 1 - i / 1000 : 0.4 - i / 1000))), labels(truth));
    };
    const fit = fitPixelSets(many(30, perfect), { inner: 0.4, outer: 0.4 });
    const { inner, outer, capped } = fit.perClass[1] as (typeof fit)["perClass"][number];
    expect(capped).toBe(true);
    expect(inner.share).toBe(outer.share);
    for (const { bound } of [inner, outer]) expect(bound).toBeLessThanOrEqual(0.4);
    expect(() => pixelSets(binary([0.1, 0.9]), fit.thresholds)).not.toThrow();
  });

  it.each([
    ["alpha 0", { outer: 0 }],
    ["alpha 1", { inner: 1 }],
    ["a percentage", { inner: 10 }],
    ["NaN", { outer: Number.NaN }],
    ["groups of other images", { groups: ["a"] }],
    ["a slip of the hand", { alpha: 0.1 }],
  ])("refuses %s", (_, options) => {
    expect(codeOf(() => fitPixelSets(many(20, right), options as object))).toBe("ERR_LE_OPTION");
  });

  it("refuses images of which nothing counts, none, and those of other classes", () => {
    const none = { perClass: {} };
    expect(codeOf(() => fitPixelSets([]))).toBe("ERR_LE_VALUE");
    expect(codeOf(() => fitPixelSets([none, none]))).toBe("ERR_LE_VALUE");
    const three = pixelSetRisk({ data: new Float32Array(6).fill(1 / 3), shape: [3, 2] }, labels([0, 2]));
    expect(codeOf(() => fitPixelSets([right(), three]))).toBe("ERR_LE_VALUE");
    expect(fitPixelSets([...many(9, right), none]).perClass[1]?.outer.cases).toBe(9);
  });
});

describe("what is promised", () => {
  /** A disc that the network sees dislocated, too large or too small, too sure or not; at times another, at times none. */
  function draw(random: Random): { probabilities: NdArray; truth: NdArray<Uint8Array> } {
    const side = 20;
    const [y0, x0, r] = [random.uniform(5, 15), random.uniform(5, 15), random.uniform(2, 5)];
    const absent = random.uniform() < 0.1;
    const lost = random.uniform() < 0.08;
    const [dy, dx] = lost ? [random.uniform(-9, 9), random.uniform(-9, 9)] : [random.normal(), random.normal()];
    const grown = r + random.normal();
    const slope = random.uniform(0.5, 4);
    const shown = absent ? random.uniform(0, 0.7) : 1;
    const p: number[] = [];
    const y: number[] = [];
    for (let i = 0; i < side * side; i++) {
      const [row, column] = [Math.floor(i / side), i % side];
      y.push(!absent && Math.hypot(row - y0, column - x0) < r ? 1 : 0);
      const seen = Math.hypot(row - y0 - dy, column - x0 - dx) - grown;
      p.push(Math.min(1, shown / (1 + Math.exp(slope * seen)) + 1e-4 * random.uniform()));
    }
    return { probabilities: binary(p, [side, side]), truth: labels(y, [side, side]) };
  }

  it.each([
    [0.1, 40],
    [0.2, 15],
  ])("α = %f of %i cases: the mean loss over calibrations is at most α, and not needlessly small", (alpha, n) => {
    const random = new Random(11);
    const rounds = 100;
    const losses = { inner: [] as number[], outer: [] as number[] };
    for (let round = 0; round < rounds; round++) {
      const risks = Array.from({ length: n }, () => draw(random)).map((one) =>
        pixelSetRisk(one.probabilities, one.truth),
      );
      const { thresholds } = fitPixelSets(risks, { inner: alpha, outer: alpha });
      const own = { inner: [] as number[], outer: [] as number[] };
      for (let k = 0; k < 20; k++) {
        const { probabilities, truth } = draw(random);
        const { inner, outer } = pixelSets(probabilities, thresholds)[1] ?? {};
        const count = (mask: Uint8Array | undefined, label?: number) =>
          truth.data.reduce((sum, y, i) => sum + (mask?.[i] && (label === undefined || y === label) ? 1 : 0), 0);
        own.inner.push(count(inner?.data) > 0 ? count(inner?.data, 0) / count(inner?.data) : 0);
        const area = truth.data.reduce((sum, y) => sum + y, 0);
        if (area > 0 && outer) own.outer.push(1 - count(outer.data, 1) / area);
      }
      for (const name of ["inner", "outer"] as const)
        losses[name].push(own[name].reduce((sum, one) => sum + one, 0) / Math.max(1, own[name].length));
    }
    for (const values of Object.values(losses)) {
      const mean = values.reduce((sum, one) => sum + one, 0) / rounds;
      const error = Math.sqrt(values.reduce((sum, one) => sum + (one - mean) ** 2, 0) / rounds / (rounds - 1));
      expect(mean).toBeLessThanOrEqual(alpha + 3 * error);
      expect(mean).toBeGreaterThan(alpha / 4);
    }
  });
});
