// The alarm over a stream in a comparison: when it goes off, of what it is made, and where there is none.
import { describe, expect, it } from "vitest";
import { Random } from "../../lib/random.js";
import type { RunRecord } from "../../lib/results/comparison.js";
import { alarmTable } from "../../lib/results/tables.js";
import { StreamAlarm } from "../../lib/statistics/martingale.js";
import { alarmStreams, certifiedStream } from "../../lib/study/stream.js";
import { makeComparison } from "../support/comparison.js";

const [run] = makeComparison({ methods: ["le"], seeds: 1, images: 1, shift: false }).runs as [RunRecord];
const [image] = run.images as [RunRecord["images"][number]];

/** A run whose images have a normal AULA around a mean, and a distance. */
function runOf(count: number, mean: number, distance: (random: Random) => number | null, seed = 1): RunRecord {
  const random = new Random(seed);
  const images = Array.from({ length: count }, (_, i) => ({
    ...{ ...image, id: String(i), aula: mean + random.normal(), tapDistance: distance(random) },
  }));
  return { ...run, images };
}

const settings = { summary: "sum", seed: 0 } as const;
const inside = runOf(200, 5, (random) => random.uniform());

describe("the alarm over a stream", () => {
  it("goes off some tens of images after a clear change, and hardly ever before", () => {
    const [stream] = alarmStreams([inside], [runOf(100, 3, (random) => 0.9 + 0.1 * random.uniform(), 2)], settings);
    expect(stream).toMatchObject({ method: "le", watched: ["aula", "tapDistance"], calibration: 100, before: 100 });
    expect(stream?.limit).toBe(200); // two values, each with half of the 1 %
    expect(stream?.falseAlarms).toBeLessThanOrEqual(0.04);
    expect(stream?.missed).toBe(0);
    expect(stream?.delay).toBeGreaterThan(5);
    expect(stream?.delay).toBeLessThan(50);
    for (const name of ["values", "low", "high"] as const) expect(stream?.[name]).toHaveLength(200);
    const at = 100 + (stream?.delay as number) - 1;
    // Where half of the orders have gone off, the band reaches over the limit.
    expect(stream?.high[at]).toBeGreaterThanOrEqual(200);
    expect(stream?.low.every((value, i) => value <= (stream.high[i] as number))).toBe(true);
  });

  it("does not go off where nothing changes", () => {
    const same = runOf(200, 5, (random) => random.uniform(), 3);
    const [stream] = alarmStreams([inside], [same], settings);
    expect(stream?.falseAlarms).toBeLessThanOrEqual(0.04);
    expect(stream?.missed).toBeGreaterThanOrEqual(0.95);
    expect(stream?.delay).toBeNull();
  });

  it("is the same for the same seed, and of the first seed of a method", () => {
    const shifted = runOf(30, 3, () => 1, 2);
    const one = alarmStreams([inside], [shifted], settings);
    expect(alarmStreams([inside, { ...run, seed: 1 }], [shifted, { ...run, seed: 1 }], settings)).toEqual(one);
    expect(alarmStreams([inside], [shifted], { ...settings, seed: 1 })).not.toEqual(one);
    expect(alarmStreams([{ ...inside, images: inside.images.toReversed() }], [shifted], settings)).toEqual(one);
  });

  it("watches what every image has, and is none where that is nothing or the images are too few", () => {
    const without = runOf(20, 3, () => null, 2);
    expect(alarmStreams([inside], [without], settings)[0]?.watched).toEqual(["aula"]);
    expect(alarmStreams([inside], [without], settings)[0]?.limit).toBe(100);
    expect(alarmStreams([runOf(1, 5, () => 0)], [without], settings)).toEqual([]);
    expect(alarmStreams([inside], [{ ...run, images: [] }], settings)).toEqual([]);
  });

  it("of a certificate takes cases in their order, and says at which it goes off", () => {
    const random = new Random(4);
    const normal = (count: number, mean: number) => Array.from({ length: count }, () => mean + random.normal());
    const calibration = { aula: normal(100, 5), tapDistance: normal(100, 0) };
    const cases = [...normal(40, 5), ...normal(60, 2)].map((aula, i) => ({
      aula,
      tapDistance: i % 7 ? random.normal() : null,
    }));
    const stream = certifiedStream(cases, { calibration });
    const alarm = new StreamAlarm(calibration);
    expect(stream.values).toEqual(cases.map((one) => alarm.observe(one).value));
    expect(stream).toMatchObject({ watched: ["aula", "tapDistance"], calibration: 100, cases: 100, limit: 200 });
    const { firedAt } = stream;
    expect(firedAt).toBeGreaterThan(40);
    expect(stream.values.findIndex((value) => value >= 200) + 1).toBe(firedAt);
    expect(certifiedStream(cases.slice(0, 40), { calibration }).firedAt).toBeNull();
  });

  it("is a row for each method", () => {
    const comparison = makeComparison({ methods: ["plain", "le"] });
    const { rows, columns, name } = alarmTable(comparison);
    expect(rows.map(name.of)).toEqual(["Plain (2 seeds)", "LE (2 seeds)"]);
    expect(columns.map(({ of }) => of(rows[1] as (typeof rows)[number])).slice(0, 3)).toEqual([
      "AULA, distance",
      30,
      30,
    ]);
    expect(alarmTable(makeComparison({ shift: false })).rows).toEqual([]);
  });
});
