import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { LayerEnsemblesError } from "../errors.js";
import { PACKAGE_ROOT } from "../package.js";
import type { RawKernel } from "./addon.js";
import { load } from "./load.js";
import { MachineMemory, machineFile } from "./machine-memory.js";

/** A kernel of libtorch whose numbers are wrong, and what is done instead. */
export interface KernelDetour {
  /** Such as "bfloat16 gradients (weight) of a 3×3×3 convolution, from 64 to 64 channels, of 2×64×2×8×8". */
  kernel: string;
  /** `contiguous`, `float32`, `float32 contiguous`, or `plain`: by matrix products. */
  way: string;
}

/** What is known of the kernels that a training uses. */
export interface KernelReport {
  /** How many there are. */
  kernels: number;
  /** How many of them were tried just now; the others had been before, on this machine. */
  tried: number;
  /** Those that are not used as they are. */
  detours: KernelDetour[];
  /** Why some could not be tried; undefined where all were. They take the way that is known to be right elsewhere. */
  untried?: string;
}

/** What the child is told: a kernel, and the ways that are left. */
export interface KernelQuestion {
  call: object;
  ways: string[];
}

/** What the child says, a line each: it begins with a way, knows whether that is right, or cannot know. */
export interface KernelAnswer {
  question: number;
  way: string;
  right?: boolean;
  problem?: string;
}

/** How kernels are tried. */
export interface TrialOptions {
  signal?: AbortSignal;
  /** Milliseconds in which a kernel that is under way must end. A wrong one may not end at all. @default 120_000 */
  patience?: number;
  /** Called for each that is known then. */
  onProgress?: (done: number, of: number) => void;
}

/** Ways that may end the child before kernels are left untried: something else is wrong then. */
const MOST_DEATHS = 40;

/** The ways that are known to be right on this machine, by their kernel. */
class Known {
  readonly #memory = new MachineMemory(machineFile("kernels"), (value): value is string => typeof value === "string");

  way({ call, ways }: RawKernel): string | undefined {
    const way = this.#memory.get(JSON.stringify(call));
    return way !== undefined && ways.includes(way) ? way : undefined;
  }

  add({ call }: RawKernel, way: string): void {
    this.#memory.set(JSON.stringify(call), way);
  }
}

/**
 * Compares kernels of libtorch with their definition, each once on this machine, in a process of its own: a wrong one may
 * write anywhere.
 * @returns how many were tried, and why others could not be
 * @throws ERR_LE_LIBTORCH_BROKEN where no way gives the right numbers, or `signal.reason`
 */
export async function tryKernels(
  kernels: readonly RawKernel[],
  { onProgress, ...options }: TrialOptions = {},
): Promise<{ tried: number; untried?: string }> {
  const known = new Known();
  const open = kernels.filter((kernel) => known.way(kernel) === undefined);
  let tried = 0;
  const problem = await tryEach(open, options, (kernel, way) => {
    known.add(kernel, way);
    tried++;
    onProgress?.(tried, open.length);
  });
  return { tried, ...(problem !== "" && { untried: problem }) };
}

/** From now on this process takes the way that was found to be right for each kernel. Returns those that are no straight way. */
export function takeDetours(kernels: readonly RawKernel[]): KernelDetour[] {
  const { addon } = load();
  const known = new Known();
  const detours: KernelDetour[] = [];
  for (const kernel of kernels) {
    const [usual = "none"] = kernel.ways;
    const way = known.way(kernel) ?? usual;
    if (way !== usual) addon.rememberKernel(kernel.call, way);
    if (way !== "none") detours.push({ kernel: kernel.text, way });
  }
  return detours;
}

/** A kernel that is not known yet, with the ways that are left. */
interface Open {
  kernel: RawKernel;
  ways: string[];
  way?: string;
}

/**
 * Tries kernels whatever is known of them.
 * @param found is told the first right way of each
 * @returns why some were not tried, or ""
 * @throws as {@link tryKernels}
 */
export async function tryEach(
  kernels: readonly RawKernel[],
  { signal, patience = 120_000 }: Omit<TrialOptions, "onProgress">,
  found: (kernel: RawKernel, way: string) => void,
): Promise<string> {
  if (kernels.length === 0) return "";
  const child = path.join(PACKAGE_ROOT, "dist/native/kernels-child.js");
  if (!existsSync(child)) return `${child} is missing: npm run build`;
  let open: Open[] = kernels.map((kernel) => ({ kernel, ways: [...kernel.ways] }));
  for (let deaths = 0; deaths < MOST_DEATHS; deaths++) {
    const asked = open;
    const wrong = (entry: Open, way: string) => {
      entry.ways.splice(entry.ways.indexOf(way), 1);
      if (entry.ways.length === 0) throw noWay(entry.kernel);
    };
    const { answers, ended } = await ask(child, asked, { signal, patience }, ({ question, way, right }) => {
      if (right) found((asked[question] as Open).kernel, way);
    });
    for (const { question, way, right } of answers) {
      const entry = asked[question] as Open;
      if (right) entry.way = way;
      else if (right === false) wrong(entry, way);
    }
    open = asked.filter(({ way }) => way === undefined);
    if (open.length === 0) return "";
    const last = answers.at(-1);
    if (last?.problem !== undefined) return last.problem;
    const entry = last?.right === undefined && last ? asked[last.question] : undefined;
    const tooSlow = ended === "slow" ? `one took longer than ${patience / 1000} seconds` : undefined;
    // What was killed from outside says nothing of a kernel, nor does a way behind which there is no other to be slow.
    if (!last || !entry || ended === "killed" || (tooSlow && entry.ways.length === 1))
      return tooSlow ?? `their process was ${ended}`;
    wrong(entry, last.way); // which ended the process, or never ends
  }
  return `they ended ${MOST_DEATHS} processes`;
}

function noWay({ text }: RawKernel): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_LIBTORCH_BROKEN",
    `Expected the right numbers from some way to compute the ${text} but received wrong ones from all: this libtorch cannot be trusted on this machine. Fix: use another version of it, or checkKernels: false where you know better.`,
  );
}

/** Runs one child until it ends: by itself or by a crash, killed from outside, or slow. */
function ask(
  child: string,
  questions: readonly Open[],
  { signal, patience }: { signal: AbortSignal | undefined; patience: number },
  onAnswer: (answer: KernelAnswer) => void,
): Promise<{ answers: KernelAnswer[]; ended: string }> {
  const { libtorch, addon } = load();
  const { threads } = addon.info() as { threads?: number };
  return new Promise((resolve, reject) => {
    const started = spawn("/bin/sh", ["-c", 'ulimit -c 0; exec "$@"', "sh", process.execPath, child, String(threads)], {
      stdio: ["pipe", "pipe", "ignore"],
      env: { ...process.env, LAYER_ENSEMBLES_LIBTORCH: libtorch.folder, NODE_OPTIONS: "" },
      ...(signal && { signal }),
      killSignal: "SIGKILL",
    });
    const answers: KernelAnswer[] = [];
    let slow = false;
    const stop = () => {
      slow = true;
      started.kill("SIGKILL");
    };
    let timer = setTimeout(stop, patience);
    const lines = createInterface({ input: started.stdout }).on("line", (line) => {
      clearTimeout(timer);
      timer = setTimeout(stop, patience);
      if (!line.endsWith("}")) return; // cut off
      const answer = JSON.parse(line) as KernelAnswer;
      answers.push(answer);
      onAnswer(answer);
    });
    started.stdin.on("error", () => {}); // a child that is gone; its exit says more
    started.stdin.end(JSON.stringify(questions.map(({ kernel, ways }) => ({ call: kernel.call, ways }))));
    started.on("error", (cause) => {
      clearTimeout(timer);
      if (signal?.aborted) reject(signal.reason);
      else resolve({ answers, ended: `not to be started (${cause.message})` });
    });
    started.on("close", (status, by) => {
      clearTimeout(timer);
      lines.close();
      resolve({ answers, ended: slow ? "slow" : by === "SIGKILL" ? "killed" : `ended (${by ?? status})` });
    });
  });
}
