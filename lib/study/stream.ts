// When would the alarm over a service's cases go off? Images in distribution calibrate it and come first, then the shifted ones.
import { Random } from "../random.js";
import type { AlarmStream, Comparison, ImageRecord, RunRecord } from "../results/comparison.js";
import type { Certificate } from "../runs/certificate.js";
import { METHODS } from "../runs/methods.js";
import {
  asConfidence,
  LEAST_SURE,
  recordedConfidences,
  recordedScore,
  SCORE_NAMES,
  SCORES,
  type ScoreName,
  scoreBehind,
  suited,
} from "../scores/scores.js";
import { StreamAlarm } from "../statistics/martingale.js";
import { quantile } from "../statistics/spread.js";
import { isRefused } from "./aggregate.js";
import { inOrder } from "./shift.js";

/** Orders in which the images come. */
const ORDERS = 100;

/** Between which shares of the orders a stream's values are told. */
const [LOW, HIGH] = [0.05, 0.95] as const;

/** Values of one image by the name of what is watched. */
type Watched = Record<string, number>;

/**
 * The alarm over a stream, of the first run of each method that has a confidence of every image.
 * @param inside runs on the images in distribution
 * @param outside the same runs on the shifted images
 */
export function alarmStreams(
  inside: readonly RunRecord[],
  outside: readonly RunRecord[],
  { summary, seed }: { summary: Comparison["summary"]; seed: number },
): AlarmStream[] {
  return METHODS.flatMap((method) => {
    const at = inside.findIndex((run) => run.method === method);
    const sides = [inside[at], outside[at]];
    const [known, shifted] = sides.map((run) => (run ? inOrder(run).images : []));
    if (!known || !shifted || known.length < 2 || shifted.length === 0) return [];
    const given = { heads: inside[at]?.heads.length ?? 0, summary };
    const images = [...known, ...shifted];
    const valuesOf = (name: ScoreName) => recordedConfidences(images, name, given);
    // How acceptable each is.
    const askedOf = (name: ScoreName) =>
      valuesOf(name)?.map((value, i) => (isRefused(images[i] as ImageRecord) ? LEAST_SURE : value)) ?? null;
    // What is watched beside the gate's score is what it is of an empty result, too: see `watchedOf`.
    const plainOf = (name: ScoreName) => {
      const values = images.map((image) => recordedScore(image, name));
      return values.some((value) => value === null)
        ? null
        : Float64Array.from(values as number[], (value) => asConfidence(name, value));
    };
    const own = suited((name) => valuesOf(scoreBehind(name, summary)));
    if (!own) return [];
    const scores = [scoreBehind(own.name, summary), ...SCORE_NAMES.filter((name) => SCORES[name].watched)];
    const watched = [...new Set(scores)].flatMap((name) => {
      const values = name === scores[0] ? askedOf(name) : plainOf(name);
      return values ? [{ name, values }] : [];
    });
    const cases = images.map(
      (_, i): Watched => Object.fromEntries(watched.map(({ name, values }) => [name, values[i] as number])),
    );
    const names = watched.map(({ name }) => name);
    return [{ method, watched: names, ...streamOf(cases.slice(0, known.length), cases.slice(known.length), seed) }];
  });
}

/** What the alarm of a certificate says of cases in their order, as in service. */
export interface CertifiedStream {
  /** What is watched together. */
  watched: string[];
  /** Calibration cases. */
  calibration: number;
  /** Cases of the stream. */
  cases: number;
  /** From which value on there is alarm. */
  limit: number;
  /** The largest martingale after each case. */
  values: number[];
  /** At which case, from 1, it goes off; null where it does not. */
  firedAt: number | null;
}

/**
 * Lets the alarm of a certificate take in cases one after another.
 * @param cases by the names of what is watched: see `watchedValues`
 */
export function certifiedStream(
  cases: readonly Readonly<Record<string, number | null>>[],
  { calibration }: Pick<Certificate, "calibration">,
): CertifiedStream {
  const alarm = new StreamAlarm(calibration as Record<string, number[]>);
  let firedAt: number | null = null;
  const values = cases.map((one) => {
    const { value, alarm: off } = alarm.observe(one);
    if (off) firedAt ??= alarm.cases;
    return value;
  });
  const [first = []] = Object.values(calibration);
  const of = { watched: Object.keys(calibration), calibration: first.length, cases: cases.length };
  return { ...of, limit: alarm.reading.limit, values, firedAt };
}

/** A random half of the images in distribution calibrates, the others are the stream, and after them the shifted ones. */
function streamOf(
  known: readonly Watched[],
  shifted: readonly Watched[],
  seed: number,
): Omit<AlarmStream, "method" | "watched"> {
  const random = new Random(seed);
  const half = known.length >> 1;
  const before = known.length - half;
  const orders = Array.from({ length: ORDERS }, (_, order) => {
    const own = random.shuffled(known);
    const calibration = own.slice(0, half);
    const names = Object.keys(own[0] as Watched);
    const alarm = new StreamAlarm(
      Object.fromEntries(names.map((name) => [name, calibration.map((values) => values[name] as number)])),
      { seed: seed + order },
    );
    let firedAt: number | null = null;
    const values = [...own.slice(half), ...random.shuffled(shifted)].map((image) => {
      const reading = alarm.observe(image);
      if (reading.alarm) firedAt ??= alarm.cases;
      return reading.value;
    });
    return { values, firedAt: firedAt ?? Number.POSITIVE_INFINITY, limit: alarm.reading.limit };
  });
  const [first] = orders as [(typeof orders)[number]];
  const over = (share: number) =>
    first.values.map((_, i) => quantile(Float64Array.from(orders, ({ values }) => values[i] as number).sort(), share));
  const timely = orders.filter(({ firedAt }) => firedAt > before);
  const delays = Float64Array.from(timely, ({ firedAt }) => firedAt - before).sort();
  const delay = delays[delays.length >> 1] ?? Number.POSITIVE_INFINITY;
  return {
    ...{ calibration: half, before, orders: ORDERS, limit: first.limit },
    ...{ values: first.values, low: over(LOW), high: over(HIGH) },
    falseAlarms: (orders.length - timely.length) / orders.length,
    delay: Number.isFinite(delay) ? delay : null,
    missed: timely.filter(({ firedAt }) => firedAt === Number.POSITIVE_INFINITY).length / orders.length,
  };
}
