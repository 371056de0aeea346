import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type ErrorCode, LayerEnsemblesError } from "../errors.js";

/**
 * Runs a command of this package in a process of its own and returns what it prints. Its notes and progress go to this
 * process's standard error.
 * @throws the error that it reports; `signal.reason`, after the process has ended
 */
export function runSelf(args: readonly string[], signal: AbortSignal): Promise<string> {
  signal.throwIfAborted();
  const main = fileURLToPath(new URL("./main.js", import.meta.url));
  const child = spawn(process.execPath, [...process.execArgv, main, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  const stop = () => child.kill("SIGTERM");
  signal.addEventListener("abort", stop, { once: true });
  let out = "";
  let lastError = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    lastError =
      text
        .trim()
        .split("\n")
        .findLast((line) => line.startsWith("error ")) ?? lastError;
    process.stderr.write(text);
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, killedBy) => {
      signal.removeEventListener("abort", stop);
      if (code === 0) return resolve(out);
      if (signal.aborted) return reject(signal.reason);
      const [, known, message] = /^error \[(ERR_LE_\w+)\]: (.*)/.exec(lastError) ?? [];
      reject(
        new LayerEnsemblesError(
          (known ?? "ERR_LE_INTERNAL") as ErrorCode,
          message ?? `Expected "layer-ensembles ${args[0]}" to end well but it ended with ${killedBy ?? code}.`,
        ),
      );
    });
  });
}
