// What the benchmarks share: contenders in child processes that answer one JSON line with another, rounds that go from
// one contender to the next (A B C A B C …), medians and ratios within a round.
import { spawn, spawnSync } from "node:child_process";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));

/**
 * A child process that is told what to do by bench/worker.mjs's commands. Only one of them works at a time; the others
 * sleep, because OpenMP threads wait passively.
 */
export class Contender {
  #child;
  #answers = [];
  #ended;

  /** @param {string[]} command program and arguments */
  constructor(title, command, env = {}) {
    this.title = title;
    this.#child = spawn(command[0], command.slice(1), {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, OMP_WAIT_POLICY: "passive", LAYER_ENSEMBLES_PREPARE_TRAINING: "off", ...env },
    });
    const fail = (reason) => {
      this.#ended = new Error(`${title} ended: ${reason}`);
      for (const { reject } of this.#answers.splice(0)) reject(this.#ended);
    };
    this.#child.on("error", fail);
    this.#child.on("exit", (code, signal) => fail(`exit code ${code ?? signal}`));
    this.#child.stdin.on("error", () => {}); // the exit says why
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      const { error, ...answer } = JSON.parse(line);
      const { resolve, reject } = this.#answers.shift();
      if (error === undefined) resolve(answer);
      else reject(new Error(`${title}: ${error}`));
    });
  }

  /** Sends one command and waits for its answer. */
  ask(command) {
    if (this.#ended) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      this.#answers.push({ resolve, reject });
      this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    });
  }

  close() {
    this.#child.stdin.end();
  }
}

/** This package in a process of its own. */
export function ours(title = "layer-ensembles") {
  return new Contender(title, [process.execPath, path.join(here, "worker.mjs")]);
}

/**
 * PyTorch, or null where no Python with torch is found: PYTHON, then python3.
 * @param script of bench/peers: `pytorch.py` is tuned, `imported.py` eager
 */
export function pytorch(python = process.env.PYTHON || "python3", script = "pytorch.py") {
  const probe = spawnSync(python, ["-c", "import torch, numpy"], { encoding: "utf8" });
  if (probe.status !== 0) return null;
  const title = script === "pytorch.py" ? "PyTorch, tuned" : "PyTorch, eager";
  return new Contender(title, [python, path.join(here, "peers", script)]);
}

/** Predictions before the first that counts. */
const WARM_UPS = 10;

/**
 * Runs every cell once per round, in the order given.
 * @param {{contender: Contender, command: object, times?: number[], cpu?: number[]}[]} cells `times` and `cpu` (ms) are added to each
 * @param {(round: number) => void} onRound
 */
export async function runRounds(cells, rounds, onRound = () => {}) {
  for (const cell of cells) {
    cell.times = [];
    cell.cpu = [];
    // The first run of a shape chooses algorithms and fills the memory pool, the first some make JavaScript fast.
    const warmUps = cell.command.do === "predict" ? WARM_UPS : 1;
    for (let i = 0; i < warmUps; i++) await cell.contender.ask(cell.command);
  }
  for (let round = 0; round < rounds; round++) {
    onRound(round);
    for (const { contender, command, times, cpu } of cells) {
      const answer = await contender.ask(command);
      times.push(answer.ms);
      cpu.push(answer.cpu);
    }
  }
}

/** Value at a share of the sorted values, linear between neighbours. */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

export const median = (values) => quantile(values, 0.5);

/** Median and quartiles of the ratios within a round; null where one of the two is missing. */
export function ratio(cell, base) {
  if (!cell?.times || !base?.times) return null;
  const ratios = cell.times.map((time, round) => time / base.times[round]);
  return { median: median(ratios), quartiles: [quantile(ratios, 0.25), quantile(ratios, 0.75)] };
}

/** Rows of text as a table: the first column to the left, the others to the right. */
export function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (row) => row.map((text, i) => (i === 0 ? text.padEnd(widths[i]) : text.padStart(widths[i]))).join("  ");
  return [line(rows[0]), widths.map((width) => "-".repeat(width)).join("  "), ...rows.slice(1).map(line)].join("\n");
}

export const milliseconds = (cell) => (cell?.times ? median(cell.times).toFixed(1) : "");
export const times = (value, digits = 2) => (value ? `${value.median.toFixed(digits)}×` : "");

/** The machine, in the words of a report. */
export function machine() {
  const cpu = os.cpus()[0]?.model.trim() ?? "unknown";
  return {
    cpu,
    cores: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    node: process.version,
  };
}
