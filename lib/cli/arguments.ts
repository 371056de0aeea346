import { InvalidArgumentError } from "commander";
import { nearest } from "../options.js";

/** Reads one command-line value; throws commander's error for a bad one, which ends the program with exit code 2. */
export type Parser<T> = (text: string) => T;

/** A whole number within bounds (both included). */
export function integer({ min = -Infinity, max = Infinity }: { min?: number; max?: number } = {}): Parser<number> {
  return (text) => {
    const value = Number(text);
    if (!/^[+-]?\d+$/.test(text.trim()) || value < min || value > max)
      throw new InvalidArgumentError(`Expected a whole number${within(min, max)}.`);
    return value;
  };
}

/** A finite number within bounds (both included). */
export function number({ min = -Infinity, max = Infinity }: { min?: number; max?: number } = {}): Parser<number> {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || value < min || value > max)
      throw new InvalidArgumentError(`Expected a number${within(min, max)}.`);
    return value;
  };
}

function within(min: number, max: number): string {
  if (min === -Infinity && max === Infinity) return "";
  if (max === Infinity) return ` of at least ${min}`;
  if (min === -Infinity) return ` of at most ${max}`;
  return ` from ${min} to ${max}`;
}

/** Comma-separated values. An empty one is refused. */
export function list<T>(item: Parser<T>): Parser<T[]> {
  return (text) => {
    const parts = text.split(",").map((part) => part.trim());
    if (parts.some((part) => part === "")) throw new InvalidArgumentError("Expected values separated by commas.");
    return parts.map(item);
  };
}

/** Any text that is not empty. */
export const text: Parser<string> = (value) => {
  if (value.trim() === "") throw new InvalidArgumentError("Expected text that is not empty.");
  return value;
};

/** One of a few names; a near miss is answered with the right one. */
export function oneOf<const T extends string>(names: readonly T[]): Parser<T> {
  return (value) => {
    const found = names.find((name) => name === value);
    if (found !== undefined) return found;
    const near = nearest(value, names);
    const hint = near === undefined ? "" : ` Did you mean ${near}?`;
    throw new InvalidArgumentError(`Expected one of ${names.join(", ")}.${hint}`);
  };
}

/** `HEIGHTxWIDTH`, one number for a square, or `DEPTHxHEIGHTxWIDTH`. */
export const size: Parser<[height: number, width: number] | [depth: number, height: number, width: number]> = (
  value,
) => {
  const parts = value.trim().split(/[x×]/i);
  const [first = 0, second = first, third] = parts.map(Number);
  if (parts.length > 3 || !parts.every((part) => /^\d{1,5}$/.test(part) && Number(part) > 0))
    throw new InvalidArgumentError(
      "Expected HEIGHTxWIDTH in pixels, such as 128x128. For volumes: DEPTHxHEIGHTxWIDTH.",
    );
  return third === undefined ? [first, second] : [first, second, third];
};

/** An input's shape `NxCxHxW`; shorter forms leave out N, then C. Volumes: the whole `NxCxDxHxW`. */
export const inputShape: Parser<{ channels?: number; size: number[] }> = (value) => {
  const parts = value.trim().split(/[x×]/i);
  const numbers = parts.map(Number);
  if (numbers.length < 2 || numbers.length > 5 || !parts.every((part) => /^[1-9]\d{0,4}$/.test(part)))
    throw new InvalidArgumentError("Expected NxCxHxW, such as 1x1x128x128, or NxCxDxHxW, such as 1x1x32x64x64.");
  if (numbers.length === 5) return { channels: numbers[1] as number, size: numbers.slice(2) };
  const [width, height, channels] = numbers.reverse() as [number, number, number?];
  return { ...(channels === undefined ? {} : { channels }), size: [height, width] };
};
