// Labels of some marks of a scatter, beside the crowd: each in a free place near its mark, with a line to it.

/** In pixels, y downwards. */
export interface Point {
  x: number;
  y: number;
}

/** A label, and the line from its mark's ring to it. */
export interface Callout {
  /** Middle of the label. */
  centre: Point;
  /** The line's ends: on the ring, and at the label. */
  from: Point;
  to: Point;
}

/** What is to be labelled. */
export interface Labelled {
  /** The mark's place. */
  at: Point;
  /** Size of the text. */
  width: number;
  height: number;
}

/** Radius of the ring around a mark that has a label. */
export const RING = 8;

/** Room around a mark's middle that a label leaves free. */
const MARK = 7;

/** The least length of a line. */
const LEAST = 8;

const DIRECTIONS = Array.from({ length: 48 }, (_, i) => (i * Math.PI) / 24);

/**
 * Places labels: each where it covers fewest marks, then where its line crosses fewest, then nearest to its mark. The first ones
 * have the first choice.
 * @param marks the middles of all marks
 * @param area width and height of the chart, which labels stay inside of
 */
export function placeCallouts(
  marks: readonly Point[],
  labelled: readonly Labelled[],
  area: { width: number; height: number },
): Callout[] {
  const placed: (Callout & Labelled)[] = [];
  for (const label of labelled) {
    const others = marks.filter(({ x, y }) => x !== label.at.x || y !== label.at.y);
    const rings = labelled.filter((other) => other !== label).map(({ at }) => at);
    let best: { callout: Callout; cost: number } | undefined;
    for (const callout of candidates(label, area)) {
      const { centre, from, to } = callout;
      const covered =
        others.filter((mark) => gap(mark, centre, label) < MARK).length +
        rings.filter((ring) => gap(ring, centre, label) < RING + 2).length +
        placed.filter((other) => overlap(centre, label, other.centre, other) || crosses(other, centre, label)).length;
      const crossed =
        others.filter((mark) => distance(mark, from, to) < MARK - 1).length +
        placed.filter((other) => crosses(callout, other.centre, other)).length;
      const cost = 1e6 * covered + 1e3 * crossed + Math.hypot(to.x - from.x, to.y - from.y);
      if (!best || cost < best.cost) best = { callout, cost };
    }
    // In an area too small for the text: above its mark.
    const above = { x: label.at.x, y: label.at.y - RING };
    const callout = best?.callout ?? { centre: above, from: above, to: above };
    placed.push({ ...callout, ...label });
  }
  return placed.map(({ centre, from, to }) => ({ centre, from, to }));
}

/** In every direction and at every distance at which the label is inside. */
function* candidates({ at, width, height }: Labelled, area: { width: number; height: number }): Generator<Callout> {
  for (let far = RING + LEAST; far < Math.hypot(area.width, area.height); far += 4)
    for (const angle of DIRECTIONS) {
      const [right, down] = [Math.cos(angle), Math.sin(angle)];
      const centre = { x: at.x + far * right + (width / 2) * right, y: at.y + far * down + (height / 2) * down };
      const inside =
        centre.x >= width / 2 &&
        centre.x <= area.width - width / 2 &&
        centre.y >= height / 2 &&
        centre.y <= area.height - height / 2;
      if (!inside) continue;
      const to = nearest(at, centre, { width, height });
      const length = Math.hypot(to.x - at.x, to.y - at.y);
      if (length < RING + LEAST) continue;
      const from = { x: at.x + ((to.x - at.x) * RING) / length, y: at.y + ((to.y - at.y) * RING) / length };
      yield { centre, from, to };
    }
}

type Size = Pick<Labelled, "width" | "height">;

const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value));

/** The point of a box that is nearest to another point. */
function nearest({ x, y }: Point, centre: Point, { width, height }: Size): Point {
  return {
    x: clamp(x, centre.x - width / 2, centre.x + width / 2),
    y: clamp(y, centre.y - height / 2, centre.y + height / 2),
  };
}

/** From a point to a box; 0 inside. */
function gap(point: Point, centre: Point, size: Size): number {
  const { x, y } = nearest(point, centre, size);
  return Math.hypot(point.x - x, point.y - y);
}

function overlap(a: Point, sizeA: Size, b: Point, sizeB: Size): boolean {
  const apart = (distance: number, sum: number) => Math.abs(distance) >= sum / 2 + 2;
  return !apart(a.x - b.x, sizeA.width + sizeB.width) && !apart(a.y - b.y, sizeA.height + sizeB.height);
}

/** Whether a line comes near a box. */
function crosses({ from, to }: Pick<Callout, "from" | "to">, centre: Point, size: Size): boolean {
  const steps = Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / 2);
  for (let i = 0; i <= steps; i++) {
    const share = steps === 0 ? 0 : i / steps;
    const point = { x: from.x + share * (to.x - from.x), y: from.y + share * (to.y - from.y) };
    if (gap(point, centre, size) < 2) return true;
  }
  return false;
}

/** From a point to a line's nearest one. */
function distance({ x, y }: Point, from: Point, to: Point): number {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = dx * dx + dy * dy;
  const share = length === 0 ? 0 : clamp(((x - from.x) * dx + (y - from.y) * dy) / length, 0, 1);
  return Math.hypot(x - from.x - share * dx, y - from.y - share * dy);
}
