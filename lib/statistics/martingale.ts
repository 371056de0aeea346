// Does a stream of cases still look like the calibration cases? A test that may be looked at after every case, for ever.
import { checkFinite, fail } from "../checks.js";
import { checkFields, checkOptions, describe, type OptionSpecs, option } from "../options.js";
import { Random } from "../random.js";
import { mean } from "./spread.js";

/** Options of {@link StreamAlarm}. */
export interface StreamAlarmOptions {
  /** Chance of a false alarm, ever, where the cases stay exchangeable with the calibration's. @default 0.01 */
  falseAlarm?: number;
  /** J: the share of each bet that is laid anew at every case. @default 0.01 */
  jump?: number;
  /** Breaks ties; the same seed gives the same values. @default 0 */
  seed?: number;
}

/** What a {@link StreamAlarm} has seen, as plain JSON. */
export interface StreamAlarmState {
  /** Version of this layout; 1. */
  format: 1;
  /** As given. */
  falseAlarm: number;
  /** As given. */
  jump: number;
  /** As given. */
  seed: number;
  /** Cases that were observed. */
  cases: number;
  /** Number of the case, from 1, at which the alarm went off; null where it has not. */
  firedAt: number | null;
  /** By name of the value that is watched. */
  streams: Record<string, StreamState>;
}

/** One value of the cases. */
export interface StreamState {
  /** Ascending: what a new value is ranked among. */
  reference: number[];
  /** S of the bets that values fall, that nothing changes, and that they rise. */
  capital: [down: number, still: number, up: number];
}

/** What an observed case has come to. */
export interface StreamAlarmReading {
  /** Largest martingale value of the streams: 1 at the start, larger the stranger the cases have been. */
  value: number;
  /** From which value on there is alarm. */
  limit: number;
  /** Whether the alarm has gone off, now or before: it stays. */
  alarm: boolean;
  /** Of each stream. */
  streams: Record<string, StreamReading>;
}

/** What a case has come to in one of its values. */
export interface StreamReading {
  /** Its martingale. */
  value: number;
  /** The case's rank among those before, in [0, 1]; null where it had no such value. */
  p: number | null;
}

/** Earlier cases that a new one is ranked among; a stream that has as many takes in no more. */
const MOST_REFERENCE = 10_000;

/** Bets: that values fall, that nothing changes, that they rise. */
const BETS = [-1, 0, 1] as const;

/** No capital falls below it, so that a bet lost over millions of cases can be won back. */
const LEAST = 1e-100;

const SETTINGS = {
  falseAlarm: option.number({ above: 0, below: 1 }),
  jump: option.number({ above: 0, max: 1 }),
  seed: option.integer(),
};
const numbers = option.array(option.number(), { min: 1 });
const STATE: OptionSpecs = {
  format: option.required(option.oneOf([1])),
  ...Object.fromEntries(Object.entries(SETTINGS).map(([name, spec]) => [name, option.required(spec)])),
  cases: option.required(option.integer({ min: 0 })),
  firedAt: option.required(option.orNull(option.integer({ min: 1 }))),
  streams: option.required(option.record(option.custom("an object", (value) => typeof value === "object"))),
};
const STREAM: OptionSpecs = {
  reference: option.required(numbers),
  capital: option.required(option.array(option.number({ above: 0 }), { length: BETS.length })),
};

/**
 * A conformal test martingale (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2022, ch. 8) on one or several values
 * of each case, such as its score and its distance from the training images. A case's p-value is its rank among the calibration
 * cases and those served before, ties broken at random: u = (#below + θ (#equal + 1)) / (n + 1), uniform as long as the cases are
 * exchangeable. The Simple Jumper bets on it: for ε in -1, 0, 1 first S_ε ← (1 - J) S_ε + J ΣS / 3, then S_ε ← S_ε (1 + ε (u - ½)).
 * The alarm goes off where the mean of the S of a stream reaches its number of streams / falseAlarm (100 for one stream): by Ville's
 * inequality the chance that it ever does so without a change is at most `falseAlarm`.
 *
 * Cases that were served join those that later ones are ranked among: ranked among the calibration cases alone, p-values would not be
 * uniform, and a calibration that happens to be a little off would raise the alarm in the end.
 */
export class StreamAlarm {
  readonly #state: StreamAlarmState;

  /**
   * @param calibration by name what is watched: the values of the calibration cases, at least one each, finite
   * @throws ERR_LE_VALUE, ERR_LE_OPTION
   */
  constructor(calibration: Readonly<Record<string, ArrayLike<number>>>, options: StreamAlarmOptions = {}) {
    const { falseAlarm = 0.01, jump = 0.01, seed = 0 } = checkOptions("StreamAlarm", options, SETTINGS);
    const names = Object.keys(calibration);
    if (names.length === 0) fail("ERR_LE_VALUE", "calibration", "at least one list of values", "none");
    const streams = names.map((name) => {
      const values = calibration[name] as ArrayLike<number>;
      checkFinite(`calibration '${name}'`, values);
      if (values.length === 0) fail("ERR_LE_VALUE", `calibration '${name}'`, "at least one value", "none");
      const reference = [...Float64Array.from(values).sort()];
      return [name, { reference, capital: [1, 1, 1] }] as const;
    });
    this.#state = {
      ...{ format: 1, falseAlarm, jump, seed, cases: 0, firedAt: null },
      streams: Object.fromEntries(streams) as unknown as StreamAlarmState["streams"],
    };
  }

  /**
   * Goes on from what {@link StreamAlarm.state} gave.
   * @throws ERR_LE_OPTION for what is none
   */
  static from(state: unknown): StreamAlarm {
    const { streams, ...settings } = checkFields("the alarm's state", state as StreamAlarmState, STATE);
    const alarm = new StreamAlarm({ none: [0] });
    const checked = Object.entries(streams).map(([name, stream]) => {
      const { reference, capital } = checkFields(`stream '${name}' of the alarm's state`, stream, STREAM);
      return [name, { reference: reference.toSorted((a, b) => a - b), capital: [...capital] }] as const;
    });
    Object.assign(alarm.#state, settings, { streams: Object.fromEntries(checked) });
    return alarm;
  }

  /** All that is to be kept for {@link StreamAlarm.from}, as plain JSON: a copy. */
  state(): StreamAlarmState {
    return structuredClone(this.#state);
  }

  /** Cases that were observed. */
  get cases(): number {
    return this.#state.cases;
  }

  /** Where the alarm stands. */
  get reading(): StreamAlarmReading {
    return this.#reading({});
  }

  /**
   * Takes in one case.
   * @param values by name; a stream without a value, or with null, passes over this case
   * @throws ERR_LE_VALUE for a stream that there is not, or a number that is not finite; nothing is changed then
   */
  observe(values: Readonly<Record<string, number | null | undefined>>): StreamAlarmReading {
    const state = this.#state;
    for (const [name, value] of Object.entries(values)) {
      const known = Object.keys(state.streams);
      if (!known.includes(name)) fail("ERR_LE_VALUE", "values", `one of ${known.join(", ")}`, describe(name));
      if (typeof value === "number" && !Number.isFinite(value))
        fail("ERR_LE_VALUE", `value '${name}'`, "a finite number or null", describe(value));
    }
    // Of the case's number, so that who goes on from a state draws what it would have drawn.
    const random = new Random(state.seed ^ Math.imul(state.cases + 1, 0x9e3779b1));
    state.cases++;
    const p: Record<string, number> = {};
    for (const [name, stream] of Object.entries(state.streams)) {
      const tie = random.uniform();
      const value = values[name];
      if (value === undefined || value === null) continue;
      p[name] = rank(stream.reference, value, tie);
      bet(stream.capital, p[name], state.jump);
    }
    const reading = this.#reading(p);
    if (!reading.alarm && reading.value >= reading.limit) {
      state.firedAt = state.cases;
      return { ...reading, alarm: true };
    }
    return reading;
  }

  #reading(p: Record<string, number>): StreamAlarmReading {
    const { streams, falseAlarm, firedAt } = this.#state;
    const read = Object.entries(streams).map(([name, { capital }]) => {
      return [name, { value: mean(capital), p: p[name] ?? null }] as const;
    });
    return {
      value: Math.max(...read.map(([, { value }]) => value)),
      limit: read.length / falseAlarm,
      alarm: firedAt !== null,
      streams: Object.fromEntries(read),
    };
  }
}

/** A value's p-value among others, which it joins while there is room. */
function rank(reference: number[], value: number, tie: number): number {
  const below = firstFrom(reference, (other) => other >= value);
  const notAbove = firstFrom(reference, (other) => other > value);
  const p = (below + tie * (notAbove - below + 1)) / (reference.length + 1);
  if (reference.length < MOST_REFERENCE) reference.splice(notAbove, 0, value);
  return p;
}

/** Index of the first of ascending numbers that is so; their number where none is. */
function firstFrom(ascending: readonly number[], isSo: (value: number) => boolean): number {
  let [low, high] = [0, ascending.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isSo(ascending[middle] as number)) high = middle;
    else low = middle + 1;
  }
  return low;
}

function bet(capital: number[], u: number, jump: number): void {
  const all = capital.reduce((sum, one) => sum + one, 0);
  BETS.forEach((epsilon, i) => {
    const laid = (1 - jump) * (capital[i] as number) + (jump * all) / BETS.length;
    // A double overflows after some 1 700 cases of the same kind; the alarm has gone off long before.
    capital[i] = Math.min(Number.MAX_VALUE / 4, Math.max(LEAST, laid * (1 + epsilon * (u - 0.5))));
  });
}
