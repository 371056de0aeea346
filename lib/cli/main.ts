#!/usr/bin/env node
import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Command, CommanderError } from "commander";
import { LayerEnsemblesError } from "../errors.js";
import { PACKAGE_VERSION } from "../package.js";
import { certifyCommand } from "./certify.js";
import { Interrupted, UsageError } from "./command.js";
import { compareCommand } from "./compare.js";
import { convertCommand } from "./convert.js";
import { demoCommand } from "./demo.js";
import { doctorCommand } from "./doctor.js";
import { evaluateCommand } from "./evaluate.js";
import { infoCommand } from "./info.js";
import { installLibtorchCommand } from "./install-libtorch.js";
import { layersCommand } from "./layers.js";
import { predictCommand } from "./predict.js";
import { reportCommand } from "./report.js";
import { scoreCommand } from "./score.js";
import { serveCommand } from "./serve.js";
import { studyCommand } from "./study.js";
import { trainCommand } from "./train.js";
import { tuneCommand } from "./tune.js";

/** The program with all its commands. What is heavy is imported by a command when it runs. */
function program(): Command {
  const root = new Command("layer-ensembles")
    .description("Segmentation with Layer Ensembles: one network, one pass, and how far to trust the result")
    .version(PACKAGE_VERSION)
    .addHelpText("after", "\nEvery command has --help with an example. Exit codes: 0 done, 1 failed, 2 wrong usage.")
    .configureOutput({ outputError: (text, write) => write(oneLine(text)) })
    .exitOverride();
  for (const command of [
    infoCommand(),
    convertCommand(),
    layersCommand(),
    trainCommand(),
    tuneCommand(),
    certifyCommand(),
    predictCommand(),
    evaluateCommand(),
    scoreCommand(),
    serveCommand(),
    compareCommand(),
    reportCommand(),
    studyCommand(),
    demoCommand(),
    doctorCommand(),
    installLibtorchCommand(),
  ])
    root.addCommand(command.copyInheritedSettings(root));
  return root;
}

/** `error: unknown option '--epoch' (Did you mean --epochs?)` */
function oneLine(text: string): string {
  return `${text.trim().replace(/\s*\n\s*/g, " ")}\n`;
}

/** Says what went wrong and gives the exit code. */
function report(error: unknown, debug: boolean): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof Interrupted) return error.exitCode;
  if (error instanceof UsageError) {
    process.stderr.write(oneLine(`error: ${error.message}`));
    return 2;
  }
  const known = error instanceof LayerEnsemblesError ? error : undefined;
  const code = known?.code ?? (error as NodeJS.ErrnoException | undefined)?.code ?? "ERR_LE_INTERNAL";
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(`error [${code}]: ${message}\n`);
  if (debug && error instanceof Error) {
    process.stderr.write(`${error.stack}\n`);
    for (let cause = error.cause; cause !== undefined; cause = (cause as Error).cause)
      process.stderr.write(`cause: ${cause instanceof Error ? cause.stack : String(cause)}\n`);
  }
  return 1;
}

/**
 * Runs the command line in this process: results on standard output, progress and errors on standard error. Signals stop the
 * command that runs.
 * @param args what follows the program's name, such as `["predict", "--run", "runs/busi", …]`
 * @returns the exit code: 0 done, 1 failed, 2 wrong usage, 128 + the signal's number where one stopped it
 */
export async function main(args: readonly string[]): Promise<number> {
  const before = process.exitCode;
  process.exitCode = undefined;
  try {
    await program().parseAsync(args, { from: "user" });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    return report(error, args.includes("--debug"));
  } finally {
    process.exitCode = before;
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    // A reader such as `head` may leave early; that is no failure.
    process.exit(error.code === "EPIPE" ? 0 : report(error, false));
  });
  main(process.argv.slice(2)).then((code) => {
    process.exitCode = code;
  });
}
