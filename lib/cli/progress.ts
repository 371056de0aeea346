import type { EpochEvent, PreparedEvent, TrainingEvent } from "../ensemble/training.js";
import { duration, fixed } from "../results/format.js";

/** Where progress goes: `process.stderr`, or a stand-in. */
export interface Terminal {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

/** A bar of so many cells, filled to a share of 0 to 1. */
export function bar(share: number, cells: number): string {
  const filled = Math.round(Math.min(1, Math.max(0, share)) * cells);
  return "━".repeat(filled) + "╌".repeat(cells - filled);
}

/**
 * One line that is drawn anew on a terminal; nothing is drawn elsewhere. `print` writes lasting lines above it, on
 * terminals and elsewhere alike.
 */
export class StatusLine {
  #shown = false;
  constructor(readonly terminal: Terminal) {}

  draw(text: string): void {
    if (!this.terminal.isTTY) return;
    const room = Math.max(20, (this.terminal.columns || 80) - 1);
    this.terminal.write(`\r${[...text].slice(0, room).join("")}\x1b[K`);
    this.#shown = true;
  }

  print(text: string): void {
    this.clear();
    this.terminal.write(`${text}\n`);
  }

  clear(): void {
    if (this.#shown) this.terminal.write("\r\x1b[K");
    this.#shown = false;
  }
}

/** Shows a training run: a bar with loss, speed and time left on a terminal, and one lasting line per epoch. */
export function trainingProgress(line: StatusLine): (event: TrainingEvent) => void {
  return (event) => {
    if (event.type === "preparing") {
      const { done, kernels } = event;
      line.draw(`trying kernels of libtorch ${bar(done / kernels, 20)} ${done}/${kernels}, once on this machine`);
    } else if (event.type === "prepared") {
      for (const text of preparationLines(event)) line.print(text);
    } else if (event.type === "start") {
      if (event.before.length > 0) line.print(`resuming at epoch ${event.before.length + 1} of ${event.epochs}`);
    } else if (event.type === "batch") {
      const done = (event.epoch + event.batch / event.batches) / event.epochs;
      line.draw(
        `epoch ${event.epoch + 1}/${event.epochs} ${bar(done, 20)} ${event.batch}/${event.batches}` +
          `  loss ${fixed(event.loss, 4)}  ${fixed(event.imagesPerSecond, 1)} images/s` +
          `  ${duration(event.secondsLeft)} left`,
      );
    } else {
      line.print(epochLine(event));
    }
  };
}

/** How many kernels are named that take another way. */
const NAMED = 3;

function preparationLines({ precision, stepSeconds, kernels }: PreparedEvent): string[] {
  const lines: string[] = [];
  if (stepSeconds) {
    const milliseconds = (seconds: number) => `${fixed(seconds * 1000, seconds < 0.1 ? 1 : 0)} ms`;
    lines.push(
      `a batch takes ${milliseconds(stepSeconds.fp32)} in float32 and ${milliseconds(stepSeconds.bf16)} in bfloat16: ${precision} is used`,
    );
  }
  if (!kernels) return lines;
  const { detours, untried, tried } = kernels;
  if (tried > 0) lines.push(`${tried} kernels of libtorch were compared with their definition`);
  if (untried !== undefined) lines.push(`kernels of libtorch could not be compared with their definition: ${untried}`);
  if (detours.length > 0) {
    lines.push(
      `${detours.length} of ${kernels.kernels} kernels of libtorch are passed by, because they are wrong on this machine or on others:`,
    );
    for (const { kernel, way } of detours.slice(0, NAMED)) lines.push(`  ${kernel}: ${way} instead`);
    if (detours.length > NAMED) lines.push(`  and ${detours.length - NAMED} others: see "detours" in run.json`);
  }
  return lines;
}

function epochLine(event: EpochEvent): string {
  const { validation } = event;
  const number = String(event.epoch + 1).padStart(String(event.epochs).length);
  const parts = [`epoch ${number}/${event.epochs}`, `train loss ${fixed(event.loss, 4)}`];
  if (validation) {
    parts.push(`val loss ${fixed(validation.loss, 4)}`, `val Dice ${fixed(validation.fused.dice)}`);
    parts.push(`val nll ${fixed(validation.fused.nll)}`);
  }
  parts.push(`${fixed(event.imagesPerSecond, 1)} images/s`, `${duration(event.secondsLeft)} left`);
  return parts.join("  ") + (validation && event.improved ? "  *" : "");
}

/** Counts images on a terminal: `predicting ━━━━╌╌╌╌ 12/40`. */
export function counter(line: StatusLine, what: string, total: number): (done: number) => void {
  return (done) => line.draw(`${what} ${bar(total === 0 ? 1 : done / total, 20)} ${done}/${total}`);
}
