import type { EpochEvent, TrainingEvent } from "../ensemble/training.js";
import { duration, fixed } from "../report/table.js";

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
    if (event.type === "start") {
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
