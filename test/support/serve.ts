import { type ChildProcess, spawn } from "node:child_process";
import path from "node:path";
import { onTestFinished } from "vitest";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { cli } from "./cli.js";

/** A line of the server's log. */
export interface LogLine {
  msg: string;
  reqId?: string;
  status?: number;
  [more: string]: unknown;
}

/** A running `layer-ensembles serve`. */
export interface RunningServer {
  base: string;
  port: number;
  child: ChildProcess;
  log: LogLine[];
  /** Resolves with the first line, past or future, that fits. */
  line(fits: (line: LogLine) => boolean): Promise<LogLine>;
  /** Exit code, or the signal that ended it. */
  ended: Promise<number | string | null>;
}

/** Starts the built program on a free port. @param keep Whether it outlives the test that started it. */
export async function startServer(args: readonly string[], keep = false): Promise<RunningServer> {
  const main = path.join(PACKAGE_ROOT, "dist/cli/main.js");
  const child = spawn(process.execPath, [main, "serve", "--port", "0", "--device", "cpu", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const log: LogLine[] = [];
  const listeners = new Set<() => void>();
  let rest = "";
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    log.push(...lines.map((line) => JSON.parse(line) as LogLine));
    for (const listener of listeners) listener();
  });
  const ended = new Promise<number | string | null>((resolve) =>
    child.on("close", (code, signal) => resolve(signal ?? code)),
  );
  const line = (fits: (line: LogLine) => boolean) =>
    new Promise<LogLine>((resolve, reject) => {
      const look = () => {
        const found = log.find(fits);
        if (!found) return;
        listeners.delete(look);
        resolve(found);
      };
      listeners.add(look);
      look();
      void ended.then((how) => reject(new Error(`the server ended with ${how}: ${errors}`)));
    });
  if (!keep) onTestFinished(() => void child.kill("SIGKILL"));
  const { msg } = await line((one) => one.msg.startsWith("Server listening at"));
  const port = Number(/:(\d+)$/.exec(msg)?.[1]);
  return { base: `http://127.0.0.1:${port}`, port, child, log, line, ended };
}

/** Trains a tiny run for two classes at 32×32 on phantoms of 40×40, into `folder`; gives the run's and the data's folder. */
export async function tinyRun(folder: string): Promise<{ run: string; data: string }> {
  const [run, data] = [path.join(folder, "tiny"), path.join(folder, "data")];
  await writePhantoms(data, { count: 30, size: 40, seed: 1 });
  const network = ["--backbone", "plain-unet", "--width", "4", "--depth", "2", "--size", "32", "--device", "cpu"];
  const ended = await cli(["train", "--data", data, "--run", run, ...network, "--epochs", "1", "--precision", "fp32"]);
  if (ended.code !== 0) throw new Error(ended.stderr);
  return { run, data };
}
