import { existsSync } from "node:fs";
import { cp, rm } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import { readText, writeAtomic } from "../data/files.js";
import { parseJson } from "../data/json.js";
import { LayerEnsemblesError } from "../errors.js";
import { withFolder } from "../native/folder-lock.js";
import { checkOptions, option } from "../options.js";
import { duration } from "../results/format.js";
import { formatTable } from "../results/text.js";
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
  if (flags.dryRun) {
    const ledger = await Ledger.open(config.out);
    await session.print(session.json ? toJson({ runs }, 2) : list(runs, ledger));
    return;
  }
  await withFolder(config.out, () => trainAll(config, runs, flags, session));
}

async function trainAll(config: StudyConfig, runs: readonly StudyRun[], flags: Flags, session: Session): Promise<void> {
  const ledger = await Ledger.open(config.out);
  for (const run of runs) ledger.check(run);
  for (const [i, run] of runs.entries()) {
    if (ledger.seconds(run) !== undefined) continue;
    session.note(`training ${i + 1} of ${runs.length}: ${run.method}, seed ${run.seed}`);
    await ledger.begin(run);
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

/** What study.json says. */
interface Trained {
  /** Seconds of each run's training, by the name of its folder. */
  trained: Record<string, number>;
  /** The flags of each training that has begun. Earlier versions do not say. */
  flags?: Record<string, string[]>;
}

/** Which runs are trained, in study.json beside them; a stopped study goes on from it. */
class Ledger {
  private constructor(
    private readonly file: string,
    private readonly content: Required<Trained>,
  ) {}

  static async open(out: string): Promise<Ledger> {
    const file = path.join(out, "study.json");
    if (!existsSync(file)) return new Ledger(file, { trained: {}, flags: {} });
    try {
      const { trained, flags = {} } = checkOptions("its runs", parseJson(await readText(file)) as Trained, {
        trained: option.required(option.record(option.number({ min: 0 }))),
        flags: option.record(option.array(option.string({ empty: true }))),
      });
      return new Ledger(file, { trained: { ...trained }, flags: { ...flags } });
    } catch (cause) {
      throw new LayerEnsemblesError(
        "ERR_LE_DATA",
        `Expected a study's list of runs in ${file} but received another file: ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  /** @throws ERR_LE_OPTION for a run that has been trained, or begun, with other flags */
  check({ folder, flags }: StudyRun): void {
    const now = withoutFolders(flags).join(" ");
    const before = this.content.flags[path.basename(folder)]?.join(" ") ?? now;
    if (before !== now)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected the flags with which ${folder} was begun, ${before}, but received ${now}: name another folder as the study's ` +
          "'out', or remove that run and what study.json says of it.",
      );
  }

  /** Notes with which flags a run is trained. */
  async begin({ folder, flags }: StudyRun): Promise<void> {
    this.content.flags[path.basename(folder)] = withoutFolders(flags);
    await this.#write();
  }

  /** Seconds of a run's training; undefined before its end. */
  seconds({ folder }: StudyRun): number | undefined {
    const name = path.basename(folder);
    return Object.hasOwn(this.content.trained, name) ? this.content.trained[name] : undefined;
  }

  async done({ folder }: StudyRun, seconds: number): Promise<void> {
    this.content.trained[path.basename(folder)] = seconds;
    await this.#write();
  }

  async #write(): Promise<void> {
    await writeAtomic(this.file, `${JSON.stringify(this.content, null, 2)}\n`);
  }
}

/** Flags without the folders, which may have moved. */
function withoutFolders(flags: readonly string[]): string[] {
  return flags.filter((_, i) => ![flags[i], flags[i - 1]].some((flag) => flag === "--data" || flag === "--run"));
}
