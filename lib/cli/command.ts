import { Command } from "commander";

/** What a command can use: where results go, and the signal that an interrupt sets. */
export interface Session {
  /** Set by SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
  /** Whether results are wanted as JSON. */
  readonly json: boolean;
  /** Writes a result to standard output, waiting where the reader is slow. */
  print(text: string): Promise<void>;
  /** Writes one line for people to standard error. */
  note(text: string): void;
}

/** What was asked for cannot be meant: exit code 2. */
export class UsageError extends Error {}

/** Stopped by a signal: exit code 128 + the signal's number, as shells have it. */
export class Interrupted extends Error {
  constructor(
    readonly signalName: "SIGINT" | "SIGTERM",
    readonly exitCode: number,
  ) {
    super(`stopped by ${signalName}`);
  }
}

/** Starts a command with the options that all have, and with more to say and an example in its help. */
export function newCommand(name: string, summary: string, example: string, more = ""): Command {
  const sentence = `${summary[0]?.toUpperCase()}${summary.slice(1)}.`;
  return new Command(name)
    .summary(summary)
    .description(more ? `${sentence} ${more}` : sentence)
    .option("--json", "print results as JSON")
    .option("--debug", "print the stack of an error")
    .addHelpText("after", `\nExample:\n  ${example.split("\n").join("\n  ")}`);
}

/** JSON for standard output; NaN and infinities, which JSON lacks, become null. */
export function toJson(value: unknown, indent?: number): string {
  return `${JSON.stringify(value, (_, item) => (typeof item === "number" && !Number.isFinite(item) ? null : item), indent)}\n`;
}

/** Runs a command's work with a {@link Session}; the handlers of signals are there only while it runs. */
export async function runSession(json: boolean, work: (session: Session) => Promise<void>): Promise<void> {
  const controller = new AbortController();
  const stop = (name: NodeJS.Signals, number: number) => {
    // The second one kills: the default action, as if nobody had listened.
    if (controller.signal.aborted) {
      restore();
      process.kill(process.pid, name);
      return;
    }
    process.stderr.write("\nstopping (press Ctrl-C again to stop at once)\n");
    controller.abort(new Interrupted(name as Interrupted["signalName"], 128 + number));
  };
  const onInterrupt = () => stop("SIGINT", 2);
  const onTerminate = () => stop("SIGTERM", 15);
  const restore = () => {
    process.off("SIGINT", onInterrupt);
    process.off("SIGTERM", onTerminate);
  };
  process.on("SIGINT", onInterrupt);
  process.on("SIGTERM", onTerminate);
  try {
    await work({
      signal: controller.signal,
      json,
      print: (text) =>
        new Promise((resolve) => {
          if (process.stdout.write(text)) resolve();
          else process.stdout.once("drain", resolve);
        }),
      note: (text) => process.stderr.write(`${text}\n`),
    });
  } finally {
    restore();
  }
}
