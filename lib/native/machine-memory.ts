import { createHash } from "node:crypto";
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { load } from "./load.js";
import { userCache } from "./locate.js";

/** What of the environment decides which kernels libtorch runs. */
const CHOOSES_KERNELS = /^(ONEDNN|DNNL|MKL|ATEN_CPU|OMP_NUM)_?/;

/**
 * The file of what is known of this machine, with this libtorch and this many threads. What a file was written for can
 * not change, so that nothing in it grows old.
 * @param what `kernels`, `steps`
 */
export function machineFile(what: string): string {
  const { addon, libtorch } = load();
  const { threads, isa, addon: version } = addon.info() as Record<string, unknown>;
  const environment = Object.entries(process.env).filter(([name]) => CHOOSES_KERNELS.test(name));
  const machine = [os.cpus()[0]?.model, isa, libtorch.version, libtorch.flavour, threads, version, environment.sort()];
  const key = createHash("sha256").update(JSON.stringify(machine)).digest("hex").slice(0, 16);
  return path.join(userCache(), what, `${key}.jsonl`);
}

/** Memories by their file: what the disk does not take, the process keeps. */
const open = new Map<string, Map<string, unknown>>();

/**
 * What was found out once and holds for good: in a file of lines, to which processes add side by side. A file that cannot
 * be read or written is no error: what it would have said is found out again.
 */
export class MachineMemory<Value> {
  readonly #file: string;
  readonly #known: Map<string, Value>;

  /** @param isValue what does not pass, such as the end of a line that was cut off, is not there */
  constructor(file: string, isValue: (value: unknown) => value is Value) {
    this.#file = file;
    let known = open.get(file) as Map<string, Value> | undefined;
    if (!known) {
      known = new Map();
      open.set(file, known);
      for (const line of linesOf(file)) {
        try {
          const [key, value] = JSON.parse(line) as [unknown, unknown];
          if (typeof key === "string" && isValue(value)) known.set(key, value);
        } catch {}
      }
    }
    this.#known = known;
  }

  get(key: string): Value | undefined {
    return this.#known.get(key);
  }

  set(key: string, value: Value): void {
    this.#known.set(key, value);
    try {
      mkdirSync(path.dirname(this.#file), { recursive: true });
      // In front too: what a killed process left of a line ends there.
      appendFileSync(this.#file, `\n${JSON.stringify([key, value])}\n`);
    } catch {}
  }
}

function linesOf(file: string): string[] {
  try {
    return readFileSync(file, "utf8").split("\n");
  } catch {
    return [];
  }
}
