import fc from "fast-check";
import { expect, it } from "vitest";
import { type Callout, type Point, placeCallouts, RING } from "../../lib/report/figures/callouts.js";

const area = { width: 330, height: 270 };
const size = { width: 75, height: 14 };
const point = fc.record({
  x: fc.double({ min: 0, max: area.width, noNaN: true }),
  y: fc.double({ min: 0, max: area.height, noNaN: true }),
});

/** From a point to a label. */
function gap({ x, y }: Point, { centre }: Callout): number {
  const out = (distance: number, side: number) => Math.max(0, Math.abs(distance) - side / 2);
  return Math.hypot(out(x - centre.x, size.width), out(y - centre.y, size.height));
}

it("touches no mark, no ring and no other label where there is room, wherever the marks are", () => {
  fc.assert(
    fc.property(fc.array(point, { minLength: 2, maxLength: 40 }), (marks) => {
      const labelled = marks.slice(0, 2).map((at) => ({ at, ...size }));
      const callouts = placeCallouts(marks, labelled, area);
      for (const [i, callout] of callouts.entries()) {
        const { centre, from } = callout;
        expect(centre.x).toBeGreaterThanOrEqual(size.width / 2 - 1e-9);
        expect(centre.x).toBeLessThanOrEqual(area.width - size.width / 2 + 1e-9);
        expect(centre.y).toBeGreaterThanOrEqual(size.height / 2 - 1e-9);
        expect(centre.y).toBeLessThanOrEqual(area.height - size.height / 2 + 1e-9);
        for (const mark of marks) expect(gap(mark, callout)).toBeGreaterThanOrEqual(6);
        for (const { at } of labelled) expect(gap(at, callout)).toBeGreaterThanOrEqual(RING);
        expect(Math.hypot(from.x - marks[i]!.x, from.y - marks[i]!.y)).toBeCloseTo(RING, 6);
      }
      const [a, b] = callouts as [Callout, Callout];
      const apart = Math.abs(a.centre.x - b.centre.x) >= size.width || Math.abs(a.centre.y - b.centre.y) >= size.height;
      expect(apart).toBe(true);
    }),
    { numRuns: 100 },
  );
});

it("is next to a mark that stands alone, and leads there", () => {
  const [callout] = placeCallouts([{ x: 100, y: 100 }], [{ at: { x: 100, y: 100 }, ...size }], area) as [Callout];
  expect(gap({ x: 100, y: 100 }, callout)).toBeLessThan(2 * RING + 6);
  expect(gap(callout.to, callout)).toBeCloseTo(0, 6);
});

it("stays inside where there is no room at all, and above its mark where the text fits nowhere", () => {
  const crowd = Array.from({ length: 34 * 28 }, (_, i) => ({ x: (i % 34) * 10, y: Math.floor(i / 34) * 10 }));
  const at = crowd[400] as Point;
  const [callout] = placeCallouts(crowd, [{ at, ...size }], area) as [Callout];
  expect(callout.centre.x).toBeGreaterThanOrEqual(size.width / 2);
  const [tight] = placeCallouts([at], [{ at, ...size }], { width: 20, height: 20 }) as [Callout];
  expect(tight.centre).toEqual({ x: at.x, y: at.y - RING });
});
