import { existsSync } from "node:fs";
import { cp, rm } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import { readText, writeAtomic } from "../data/files.js";
import { duration, formatTable } from "../report/table.js";
import type { StudyConfig, StudyRun } from "../study/config.js";
import { newCommand, runSession, type Session, toJson, UsageError } from "./command.js";
import { runSelf } from "./self.js";
import { trainOptions } from "./train-options.js";

interface Flags {
  trainOnly?: boolean;
  dryRun?: boolean;
  json?: boolean;
}

/** `study`: trains every method over several seeds, tunes and compares. */
export function studyCommand(): Command {
  const command = newCommand(
    "study",
    "train all methods of a study over several seeds, tune them and compare them",
    "layer-ensembles study study.json",
    "A study that was stopped goes on where it was: run the command again.",
  )
    .argument("<config>", "JSON file that says what is trained on what: see docs/study.md")
    .option("--train-only", "stop after the trainings")
    .option("--dry-run", "only list what would be trained");
  return command.action((file: string, flags: Flags) =>
    runSession(flags.json ?? false, (session) => study(file, flags, session)),
  );
}

async function study(file: string, flags: Flags, session: Session): Promise<void> {
  const { readStudy, studyRuns } = await import("../study/config.js");
  const config = await readStudy(file);
  const runs = studyRuns(config);
  for (const run of runs) checkFlags(run);
  const ledger = await Ledger.open(config.out);
  if (flags.dryRun) {
    await session.print(session.json ? toJson({ runs }, 2) : list(runs, ledger));
    return;
  }
  for (const [i, run] of runs.entries()) {
    if (ledger.seconds(run) !== undefined) continue;
    session.note(`training ${i + 1} of ${runs.length}: ${run.method}, seed ${run.seed}`);
    const started = performance.now();
    if (run.copyOf) await copyRun(run.copyOf, run.folder);
    else {
      const begun = ["state.safetensors", "members"].some((name) => existsSync(path.join(run.folder, name)));
      const line = begun ? ["--run", run.folder, "--resume"] : run.flags;
      await runSelf(["train", ...line, "--json"], session.signal);
    }
    await ledger.done(run, (performance.now() - started) / 1000);
  }
  if (flags.trainOnly) {
    await session.print(session.json ? toJson({ runs }, 2) : list(runs, ledger));
    return;
  }
  await tuneAndCompare(config, runs, session);
}

async function tuneAndCompare(config: StudyConfig, runs: readonly StudyRun[], session: Session): Promise<void> {
  const { commandLine } = await import("../study/config.js");
  if (config.tune !== false)
    for (const { folder } of runs.filter(({ method }) => method === "le")) {
      session.note(`tuning ${path.basename(folder)}`);
      await runSelf(["tune", folder, ...commandLine(config.tune), "--json"], session.signal);
    }
  const { title, data, out } = config;
  const line = commandLine({ title, data, out: path.join(out, "comparison"), ...config.compare });
  const json = session.json ? ["--json"] : [];
  await session.print(
    await runSelf(["compare", ...runs.map(({ folder }) => folder), ...line, ...json], session.signal),
  );
}

/** Refuses flags of `train` that do not exist, before anything is trained. */
function checkFlags({ method, flags }: StudyRun): void {
  const command = trainOptions()
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  try {
    command.parse(flags, { from: "user" });
  } catch (error) {
    const said = error instanceof Error ? error.message.replace(/^error: /, "") : String(error);
    throw new UsageError(`the study's flags for ${method}: ${said}`);
  }
}

function list(runs: readonly StudyRun[], ledger: Ledger): string {
  return formatTable(
    [
      { heading: "method", align: "left" },
      { heading: "seed" },
      { heading: "run", align: "left" },
      { heading: "trained", align: "left" },
    ],
    runs.map((run) => {
      const seconds = ledger.seconds(run);
      return [
        run.method,
        String(run.seed),
        run.folder,
        seconds === undefined ? "no" : run.copyOf ? "as a member" : `in ${duration(seconds)}`,
      ];
    }),
  );
}

async function copyRun(from: string, to: string): Promise<void> {
  await rm(to, { recursive: true, force: true }); // a copy that was cut short
  await cp(from, to, { recursive: true });
}

/** Which runs are trained, in study.json beside them; a stopped study goes on from it. */
class Ledger {
  private constructor(
    private readonly file: string,
    private readonly trained: Record<string, number>,
  ) {}

  static async open(out: string): Promise<Ledger> {
    const file = path.join(out, "study.json");
    if (!existsSync(file)) return new Ledger(file, {});
    const { trained } = JSON.parse(await readText(file)) as { trained: Record<string, number> };
    return new Ledger(file, trained);
  }

  /** Seconds of a run's training; undefined before its end. */
  seconds({ folder }: StudyRun): number | undefined {
    return this.trained[path.basename(folder)];
  }

  async done({ folder }: StudyRun, seconds: number): Promise<void> {
    this.trained[path.basename(folder)] = seconds;
    await writeAtomic(this.file, `${JSON.stringify({ trained: this.trained }, null, 2)}\n`);
  }
}
