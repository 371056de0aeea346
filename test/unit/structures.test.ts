import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { aula, pairwiseAgreement, scoreHeads, softDiceConfidence, structures } from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import { connectedComponents, NEIGHBOURS, nearestComponent } from "../../lib/scores/components.js";
import { expectError } from "./support/heads.js";

/** Labels as rows of digits; planes, where there are several, one after the other. */
function drawn(...rows: string[]) {
  return { data: Uint8Array.from(rows.join(""), Number), shape: [rows.length, rows[0]!.length] };
}

const oracle = JSON.parse(readFileSync("test/fixtures/scores.json", "utf8"));

/** Of make_scores_fixture.py. */
interface Parts {
  mask: number[];
  shape: number[];
  neighbours: "face" | "all";
  parts: { class: number; voxels: number; low: number[]; high: number[]; centre: number[] }[];
}

describe("connected components", () => {
  const picture = drawn("1100220", "0011022", "0100001", "0100111");

  it("are numbered in the order of their first pixels, and touch over faces or at corners", () => {
    const face = connectedComponents(picture.data, picture.shape);
    expect([...face.of].join("")).toBe("1100220003302204000050400555");
    expect(face.labels).toEqual([1, 2, 1, 1, 1]);
    const all = connectedComponents(picture.data, picture.shape, "all");
    expect([...all.of].join("")).toBe("1100220001102201000030100333");
    expect(all.labels).toEqual([1, 2, 1]);
  });

  it("of volumes", () => {
    // Planes of 2×2: the pixels (0,0,0) and (1,1,1) meet at a corner alone.
    const data = Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 1]);
    expect(connectedComponents(data, [2, 2, 2]).labels).toEqual([1, 1]);
    expect(connectedComponents(data, [2, 2, 2], "all").labels).toEqual([1]);
    expect(connectedComponents(Uint8Array.from([1, 0, 0, 0, 1, 0, 0, 1]), [2, 2, 2]).labels).toEqual([1, 1]);
  });

  it("are what flooding finds", () => {
    const cases = fc.record({
      shape: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 3 }),
      seed: fc.nat(),
      classes: fc.integer({ min: 2, max: 4 }),
      neighbours: fc.constantFrom(...NEIGHBOURS),
    });
    fc.assert(
      fc.property(cases, ({ shape, seed, classes, neighbours }) => {
        const random = new Random(seed);
        const pixels = shape.reduce((a, b) => a * b, 1);
        const data = Uint8Array.from({ length: pixels }, () => random.integer(classes));
        const { of, labels } = connectedComponents(data, shape, neighbours);
        const flooded = flood(data, shape, neighbours);
        expect([...of]).toEqual(flooded);
        for (let i = 0; i < pixels; i++) expect(of[i] === 0 ? 0 : labels[of[i]! - 1]).toBe(data[i]);
      }),
    );
  });

  it("have the pixels around them", () => {
    const { data, shape } = drawn("1000001", "0000000", "0002000");
    const components = connectedComponents(data, shape);
    expect([...nearestComponent(components, 1, shape)].join("")).toBe("111122211112221111222");
    expect(new Set(nearestComponent(components, 2, shape))).toEqual(new Set([3]));
    expect(new Set(nearestComponent(components, 3, shape))).toEqual(new Set([0]));
  });
});

/** Parts by flooding each from its first pixel. */
function flood(data: Uint8Array, shape: readonly number[], neighbours: string): number[] {
  const of = new Array<number>(data.length).fill(0);
  const indexOf = (i: number) => {
    const index: number[] = [];
    for (let axis = shape.length - 1, left = i; axis >= 0; axis--) {
      index.unshift(left % shape[axis]!);
      left = Math.floor(left / shape[axis]!);
    }
    return index;
  };
  const touch = (i: number, j: number) => {
    const apart = indexOf(i).map((at, axis) => Math.abs(at - indexOf(j)[axis]!));
    const sum = apart.reduce((a, b) => a + b, 0);
    return neighbours === "face" ? sum === 1 : sum > 0 && Math.max(...apart) === 1;
  };
  let parts = 0;
  for (let first = 0; first < data.length; first++) {
    if (data[first] === 0 || of[first] !== 0) continue;
    of[first] = ++parts;
    for (const queue = [first]; queue.length > 0; ) {
      const i = queue.pop()!;
      for (let j = 0; j < data.length; j++) {
        if (of[j] !== 0 || data[j] !== data[i] || !touch(i, j)) continue;
        of[j] = parts;
        queue.push(j);
      }
    }
  }
  return of;
}

describe("structures", () => {
  it.each(oracle.parts as Parts[])("are those of SciPy: $shape, $neighbours", ({ mask, shape, neighbours, parts }) => {
    const data = Uint8Array.from(mask);
    const labels = { data, shape: [1, ...shape] };
    const probabilities = { data: new Float32Array(3 * data.length).fill(1 / 3), shape: [3, ...shape] };
    const found = structures({ mask: { data, shape }, labels, probabilities }, { neighbours });
    const key = (part: { class: number; low: number[]; centre: number[] }) =>
      JSON.stringify([part.class, part.low, part.centre.map((at) => at.toFixed(6))]);
    const flat = found.map(({ class: c, voxels, box, centre }) => ({ class: c, voxels, ...box, centre }));
    const sorted = (of: Parts["parts"]) => [...of].sort((a, b) => (key(a) < key(b) ? -1 : 1));
    expect(sorted(flat)).toEqual(
      sorted(parts).map((part) => ({ ...part, centre: part.centre.map((at) => expect.closeTo(at, 9)) })),
    );
  });

  it("places each part, largest first", () => {
    const mask = drawn("1100002", "1000022", "0000022", "0100000");
    const labels = { data: mask.data, shape: [1, 4, 7] };
    const probabilities = { data: new Float32Array(3 * 28).fill(1 / 3), shape: [3, 4, 7] };
    const found = structures({ mask, labels, probabilities }, { spacing: [2, 0.5] });
    expect(found.map(({ class: c, voxels, volume, box, centre }) => ({ c, voxels, volume, box, centre }))).toEqual([
      { c: 2, voxels: 5, volume: 5, box: { low: [0, 5], high: [2, 6] }, centre: [6 / 5, 28 / 5] },
      { c: 1, voxels: 3, volume: 3, box: { low: [0, 0], high: [1, 1] }, centre: [1 / 3, 1 / 3] },
      { c: 1, voxels: 1, volume: 1, box: { low: [3, 1], high: [3, 1] }, centre: [3, 1] },
    ]);
    expect(found.map(({ aula, pairwiseAgreement }) => [aula, pairwiseAgreement])).toEqual(Array(3).fill([null, null]));
    expect(structures({ mask, labels, probabilities }, { minVoxels: 3 })).toHaveLength(1);
    expect(structures({ mask, labels, probabilities }, { minVoxels: 5 })).toEqual([]);
  });

  it("scores each by what the heads find in and around it", () => {
    // Two parts; of the second the first two heads find more, or nothing.
    const heads = [drawn("11000111", "00000011"), drawn("11000000", "00000000"), drawn("11000011", "00000000")];
    const labels = { data: Uint8Array.from(heads.flatMap(({ data }) => [...data])), shape: [3, 2, 8] };
    const p = [0.9, 0.8, 0.1, 0, 0, 0.2, 0.6, 0.7, 0, 0, 0, 0, 0, 0, 0.3, 0.4];
    const probabilities = { data: Float64Array.from([...p.map((x) => 1 - x), ...p]), shape: [2, 2, 8] };
    const [sure, unsure] = structures({ mask: heads[2]!, labels, probabilities });
    expect(sure).toMatchObject({ aula: 1, aulaNormalised: 1, pairwiseAgreement: 1 });
    expect(sure!.softDiceConfidence).toBeCloseTo((2 * 1.7) / (1.8 + 2), 12);
    // Dice 0 of heads 1 and 2, and of 2 and 3; 2·2/(5+2) of 1 and 3.
    expect(unsure).toMatchObject({ aula: 0, aulaNormalised: 0 });
    expect(unsure!.pairwiseAgreement).toBeCloseTo(4 / 7 / 3, 12);
    expect(unsure!.softDiceConfidence).toBeCloseTo((2 * 1.3) / (2.2 + 2), 12);
    const unordered = structures({ mask: heads[2]!, labels, probabilities }, { ordered: false });
    expect(unordered.map(({ aula, aulaNormalised }) => [aula, aulaNormalised])).toEqual(Array(2).fill([null, null]));
  });

  it("gives a single part the scores of its class, in 2D and 3D", () => {
    for (const shape of [
      [9, 11],
      [4, 5, 6],
    ]) {
      const random = new Random(4);
      const pixels = shape.reduce((a, b) => a * b, 1);
      const heads = Array.from({ length: 4 }, () => {
        const data = Float32Array.from({ length: 3 * pixels }, () => random.normal());
        for (let i = 0; i < pixels; i++) data[i]! += 3; // mostly background
        for (let i = 0; i < 8; i++) data[pixels + i]! += 9; // a run of class 1
        for (let i = pixels - 3; i < pixels; i++) data[2 * pixels + i]! += 9; // and one of class 2
        return { data, shape: [3, ...shape] };
      });
      const { mask, labels, probabilities } = scoreHeads(heads, { fusion: "mean" });
      const large = structures({ mask, labels, probabilities }, { minVoxels: 2 });
      const parts = structures({ mask, labels, probabilities });
      const agreement = aula(labels, 3);
      const pairs = pairwiseAgreement(labels, 3);
      const soft = softDiceConfidence(probabilities);
      for (const c of [1, 2]) {
        if (parts.filter((part) => part.class === c).length > 1) continue;
        const part = large.find((one) => one.class === c)!;
        expect(part.aula).toBeCloseTo(agreement.perClass[c]!, 12);
        expect(part.pairwiseAgreement).toBeCloseTo(pairs.perClass[c]!, 12);
        expect(part.softDiceConfidence).toBeCloseTo(soft.perClass[c]!, 12);
      }
      expect(parts.length).toBeGreaterThan(0);
    }
  });

  it("refuses what does not fit", () => {
    const mask = drawn("01", "10");
    const labels = { data: mask.data, shape: [1, 2, 2] };
    const probabilities = { data: new Float32Array(8), shape: [2, 2, 2] };
    const given = { mask, labels, probabilities };
    expectError(() => structures({ ...given, mask: drawn("02", "10") }), "ERR_LE_VALUE", "mask", "2");
    expectError(() => structures({ ...given, mask: drawn("010", "100") }), "ERR_LE_SHAPE", "mask", "2×3");
    expectError(() => structures({ ...given, labels: { ...labels, shape: [1, 4] } }), "ERR_LE_SHAPE", "labels", "4");
    expectError(() => structures(given, { spacing: [1] }), "ERR_LE_OPTION", "spacing", "2 numbers");
    expectError(() => structures(given, { minVoxels: -1 }), "ERR_LE_OPTION", "minVoxels", "-1");
  });
});
