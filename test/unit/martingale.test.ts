import { describe, expect, it } from "vitest";
import { StreamAlarm } from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import { expectError } from "./support/heads.js";

const normals = (n: number, seed: number, shift = 0) => {
  const random = new Random(seed);
  return Array.from({ length: n }, () => random.normal() + shift);
};

describe("StreamAlarm", () => {
  it("bets as the Simple Jumper does on ranks among all earlier cases", () => {
    const alarm = new StreamAlarm({ score: [0.1, 0.4, 0.2, 0.3] }, { jump: 0.1 });
    // Of no ties p is in (#below + [0, 1]) / (n + 1).
    const first = alarm.observe({ score: 0.5 });
    const u = first.streams.score?.p as number;
    expect(u).toBeGreaterThanOrEqual(4 / 5);
    expect(u).toBeLessThanOrEqual(1);
    expect(first.value).toBeCloseTo((1 * (1 - (u - 0.5)) + 1 + (1 + (u - 0.5))) / 3, 12);
    const second = alarm.observe({ score: 0.45 });
    const v = second.streams.score?.p as number;
    expect(v).toBeGreaterThanOrEqual(4 / 6); // 0.5 is now among the earlier ones
    expect(v).toBeLessThanOrEqual(5 / 6);
    const all = 3 * first.value;
    const laid = [1 - (u - 0.5), 1, 1 + (u - 0.5)].map((capital) => 0.9 * capital + (0.1 * all) / 3);
    const S = [-1, 0, 1].map((epsilon, i) => (laid[i] as number) * (1 + epsilon * (v - 0.5)));
    expect(second.value).toBeCloseTo(S.reduce((sum, one) => sum + one, 0) / 3, 12);
  });

  it("breaks ties evenly: of equal values p is uniform", () => {
    const alarm = new StreamAlarm({ score: new Array(20).fill(1) });
    const p = Array.from({ length: 2000 }, () => alarm.observe({ score: 1 }).streams.score?.p as number).sort(
      (a, b) => a - b,
    );
    const farthest = Math.max(...p.map((value, i) => Math.abs(value - (i + 0.5) / p.length)));
    expect(farthest).toBeLessThan(1.63 / Math.sqrt(p.length)); // Kolmogorov, 1 %
    expect(alarm.reading.alarm).toBe(false);
  });

  it("raises a false alarm in at most 1 % of streams, however long, also of a small calibration", () => {
    let fired = 0;
    for (let stream = 0; stream < 300; stream++) {
      const alarm = new StreamAlarm({ score: normals(30, 1000 + stream) }, { seed: stream });
      for (const score of normals(2000, 5000 + stream)) alarm.observe({ score });
      if (alarm.reading.alarm) fired++;
    }
    expect(fired).toBeLessThanOrEqual(3 + 3 * Math.sqrt(3)); // 1 % of 300, three standard errors
  });

  it.each([3, -3])("goes off within 50 cases that are shifted by %d", (shift) => {
    const alarm = new StreamAlarm({ score: normals(100, 1) });
    for (const score of normals(200, 2)) alarm.observe({ score });
    expect(alarm.reading.alarm).toBe(false);
    for (const score of normals(50, 3, shift)) alarm.observe({ score });
    expect(alarm.reading.alarm).toBe(true);
    expect(alarm.state().firedAt).toBeGreaterThan(200);
  });

  it("watches several values, each with a limit of its share, and stays off where one is not there", () => {
    const alarm = new StreamAlarm({ score: normals(100, 1), distance: normals(100, 2) });
    expect(alarm.reading.limit).toBe(200);
    for (const distance of normals(50, 3, 3)) alarm.observe({ distance, score: null });
    expect(alarm.reading).toMatchObject({ alarm: true, streams: { score: { value: 1, p: null } } });
  });

  it("keeps the alarm, whatever comes after", () => {
    const alarm = new StreamAlarm({ score: normals(100, 1) });
    for (const score of normals(50, 3, 4)) alarm.observe({ score });
    const { firedAt } = alarm.state();
    for (const score of normals(1000, 4)) alarm.observe({ score });
    expect(alarm.reading.alarm).toBe(true);
    expect(alarm.state().firedAt).toBe(firedAt);
  });

  it("goes on from its state to the same values, as if it had never stopped", () => {
    const whole = new StreamAlarm({ score: [1, 1, 2, 3] }, { seed: 7 });
    const values = Array.from({ length: 60 }, (_, i) => (i * 7) % 5);
    const readings = values.map((score) => whole.observe({ score }));
    let parted = new StreamAlarm({ score: [1, 1, 2, 3] }, { seed: 7 });
    const again = values.map((score) => {
      parted = StreamAlarm.from(JSON.parse(JSON.stringify(parted.state())));
      return parted.observe({ score });
    });
    expect(again).toEqual(readings);
    expect(parted.state()).toEqual(whole.state());
  });

  it("neither overflows nor dies in a long stream", () => {
    const alarm = new StreamAlarm({ score: [0] });
    for (let i = 0; i < 3000; i++) alarm.observe({ score: i });
    expect(Number.isFinite(alarm.reading.value)).toBe(true);
    for (let i = 0; i < 3000; i++) alarm.observe({ score: -i });
    expect(alarm.reading.value).toBeGreaterThan(0);
    expect(alarm.state().streams.score?.reference.length).toBeLessThanOrEqual(10_000);
  });

  it("refuses what is no number, an unknown value and a damaged state, and is left as it was", () => {
    expectError(() => new StreamAlarm({}), "ERR_LE_VALUE", "calibration");
    expectError(() => new StreamAlarm({ score: [] }), "ERR_LE_VALUE", "score");
    expectError(() => new StreamAlarm({ score: [Number.NaN] }), "ERR_LE_VALUE", "score");
    expectError(() => new StreamAlarm({ score: [1] }, { jump: 0 }), "ERR_LE_OPTION", "jump");
    const alarm = new StreamAlarm({ score: [1] });
    const before = alarm.state();
    expectError(() => alarm.observe({ score: Number.NaN }), "ERR_LE_VALUE", "score");
    expectError(() => alarm.observe({ scores: 1 }), "ERR_LE_VALUE", "scores");
    expect(alarm.state()).toEqual(before);
    for (const damaged of [
      null,
      {},
      { ...before, format: 2 },
      { ...before, cases: -1 },
      { ...before, streams: { score: null } },
      { ...before, streams: { score: { reference: [], capital: [1, 1, 1] } } },
      { ...before, streams: { score: { reference: [1], capital: [1, 1] } } },
      { ...before, streams: { score: { reference: ["1"], capital: [1, 1, 1] } } },
    ])
      expectError(() => StreamAlarm.from(damaged), "ERR_LE_OPTION");
  });
});
