import { spawn } from "node:child_process";
import path from "node:path";
import { PACKAGE_ROOT } from "../../lib/package.js";

/** How a run of the command line ended. */
export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** What may be set for a run. */
export interface CliOptions {
  cwd?: string;
  /** Called with all of standard error so far, and a way to send a signal. */
  onProgress?: (stderr: string, kill: (signal: NodeJS.Signals) => void) => void;
  env?: NodeJS.ProcessEnv;
}

/** Runs the built program in a process of its own; one that hangs is killed. */
export function cli(args: readonly string[], { cwd, onProgress, env }: CliOptions = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [path.join(PACKAGE_ROOT, "dist/cli/main.js"), ...args], {
      cwd,
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const timer = setTimeout(() => child.kill("SIGKILL"), 50_000);
    const ended = { stdout: "", stderr: "" };
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      ended.stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      ended.stderr += text;
      onProgress?.(ended.stderr, (signal) => child.kill(signal));
    });
    child.on("error", reject);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, ...ended });
    });
  });
}
