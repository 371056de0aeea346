import { availableParallelism } from "node:os";
import { type Command, InvalidArgumentError } from "commander";
import { type DeviceFlags, placement } from "../inference/device.js";
import { type Gate, parseGate } from "../scores/gate.js";
import type { AlarmEvent } from "../server/index.js";
import { integer, number, oneOf, type Parser, text } from "./arguments.js";
import { newCommand, runSession, type Session, UsageError } from "./command.js";
import { withDeviceOptions } from "./device-options.js";

const LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;

/** Variable of the environment with the token of outcomes. */
const TOKEN = "LAYER_ENSEMBLES_OUTCOMES_TOKEN";

interface Flags extends DeviceFlags {
  host: string;
  port: number;
  workers?: number;
  maxBatch: number;
  maxDelay: number;
  maxQueue: number;
  timeout: number;
  maxBody: number;
  maxPixels: number;
  maxSide: number;
  maxMemory?: number;
  allowHost?: string[];
  maxImages: number;
  gate?: Gate | null;
  state?: string;
  outcomes?: boolean;
  outcomesToken?: string;
  linger: number;
  logLevel: (typeof LEVELS)[number];
  json?: boolean;
}

/** `serve`: answers predictions over HTTP. */
export function serveCommand(): Command {
  const command = newCommand(
    "serve",
    "answer predictions over HTTP, with batching, limits, health checks, metrics and a gate",
    "layer-ensembles serve runs/busi --port 8080 --gate aula:6.5\n" +
      "layer-ensembles serve breast=runs/busi heart=runs/acdc --host 0.0.0.0\n" +
      "curl --data-binary @image.png -H 'content-type: image/png' http://127.0.0.1:8080/v1/predict",
    "A page to try it is at /, the API at /docs. SIGHUP loads the runs again without dropping a request; SIGTERM and Ctrl-C " +
      "answer what was accepted, then end with exit code 0. The log, one JSON object a line, goes to standard output.",
  )
    .argument("<runs...>", "run folders; NAME=FOLDER serves one under another name")
    .option("--host <address>", "where to listen; 0.0.0.0 for every address", text, "127.0.0.1")
    .option("--port <n>", "0 for any that is free", integer({ min: 0, max: 65535 }), 8080)
    .option("--max-batch <n>", "images of one size that share a pass", integer({ min: 1, max: 1024 }), 8)
    .option("--max-delay <ms>", "longest wait for others to share a pass", number({ min: 0, max: 60_000 }), 4)
    .option("--max-queue <n>", "images of one run accepted at a time; more are refused (503)", integer({ min: 1 }), 64)
    .option("--timeout <seconds>", "longest time from a request to its answer", number({ min: 0.01, max: 86_400 }), 30)
    .option("--max-body <MiB>", "largest request", number({ min: 0.001, max: 2047 }), 32)
    .option("--max-pixels <n>", "largest image, in pixels as stored", integer({ min: 1 }), 2 ** 24)
    .option("--max-side <n>", "largest side of an image, in pixels as stored", integer({ min: 1 }), 2 ** 15)
    .option(
      "--max-memory <MiB>",
      "what requests may take together, beside the models (default: a quarter of the machine's, 1024 to 4096)",
      number({ min: 64, max: 2 ** 22 }),
    )
    .option("--max-images <n>", "most images in one request", integer({ min: 1, max: 1024 }), 16)
    .option(
      "--workers <n>",
      `threads that decode and encode images (default: half of the cores; there are ${availableParallelism()})`,
      integer({ min: 0, max: 256 }),
    )
    .option(
      "--gate <score:threshold>",
      "results below it are for review, whatever a certificate says; none for no gate (default: each run's)",
      gate,
    )
    .option(
      "--state <dir>",
      "keep the alarms over the served cases of certified runs there, by name (default: in each run)",
      text,
    )
    .option(
      "--outcomes",
      `take outcomes of audited cases at /v1/outcomes, from who has the token (--outcomes-token, or ${TOKEN} in the environment)`,
    )
    .option("--outcomes-token <file>", "file with the token", text)
    .option(
      "--allow-host <names...>",
      "names in the header Host that are answered (default: with a loopback --host, localhost and addresses; else any)",
    )
    .option("--linger <seconds>", "go on answering so long when told to stop (503)", number({ min: 0, max: 600 }), 1)
    .option("--log-level <level>", LEVELS.join(", "), oneOf(LEVELS), "info");
  return withDeviceOptions(command).action((runs: string[], flags: Flags) =>
    runSession(flags.json ?? false, (session) => serve(runs, flags, session)),
  );
}

const gate: Parser<Gate | null> = (value) => {
  if (value === "none") return null;
  try {
    return parseGate(value);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
};

/** `NAME=FOLDER`, or a folder that gives its own name. */
function nameRuns(runs: readonly string[]): Record<string, string> | string[] {
  if (!runs.some((run) => run.includes("="))) return [...runs];
  const named: Record<string, string> = {};
  for (const run of runs) {
    const at = run.indexOf("=");
    const name = at < 0 ? (run.replace(/\/+$/, "").split("/").at(-1) ?? run) : run.slice(0, at);
    if (Object.hasOwn(named, name)) throw new UsageError(`expected runs of different names, not ${name} twice`);
    named[name] = run.slice(at + 1);
  }
  return named;
}

/** The token of outcomes; never from the command line, which others may see. */
async function readToken(file: string | undefined): Promise<string> {
  if (file === undefined) {
    const token = process.env[TOKEN];
    if (!token) throw new UsageError(`expected --outcomes-token FILE, or the token in ${TOKEN}, with --outcomes`);
    return token;
  }
  const { ioError, readText } = await import("../data/files.js");
  const text = await readText(file, 2 ** 16).catch((error) => {
    throw ioError(file, "a file with the token", error);
  });
  return text.trim();
}

/** Before there is a log. */
function warn({ model, error }: AlarmEvent, session: Session): void {
  session.note(`warning: the alarm over the cases of ${model}: ${(error as Error).message}`);
}

async function serve(runs: string[], flags: Flags, session: Session): Promise<void> {
  const { createServer, PredictionService } = await import("../server/index.js");
  if (flags.outcomesToken !== undefined && !flags.outcomes)
    throw new UsageError("expected --outcomes with --outcomes-token");
  const { host, port, workers, timeout, maxBody, maxBatch, maxDelay, maxQueue, logLevel } = flags;
  const { maxPixels, maxSide, maxMemory, maxImages } = flags;
  const { threads } = flags;
  let tell = (event: AlarmEvent) => warn(event, session);
  const service = await PredictionService.open({
    runs: nameRuns(runs),
    ...{ maxBatch, maxDelay, maxQueue, maxPixels, maxSide, maxImages },
    ...(maxMemory !== undefined && { maxMemory: Math.floor(maxMemory * 2 ** 20) }),
    timeout: timeout * 1000,
    maxBody: Math.floor(maxBody * 2 ** 20),
    ...(workers !== undefined && { workers }),
    ...(flags.gate !== undefined && { gate: flags.gate }),
    ...(flags.state !== undefined && { state: flags.state }),
    ...(flags.outcomes && { outcomes: { token: await readToken(flags.outcomesToken) } }),
    onAlarm: (event) => tell(event),
    ...placement(flags),
    ...(threads !== undefined && { threads }),
  });
  const loopback = /^(localhost|127(\.\d+){3}|::1)$/.test(host);
  const app = await createServer(service, {
    logger: { level: logLevel },
    linger: flags.linger * 1000,
    ...(flags.allowHost ? { hosts: flags.allowHost } : loopback && { hosts: [] }),
  });
  tell = ({ model, what, error }) => {
    if (what === "void") app.log.error({ model }, "certificate void: every result is for a person until it is renewed");
    else app.log.error({ model, err: error }, "the alarm over the served cases cannot be kept");
  };
  for (const { name, certificate } of service.models) {
    const { state, message } = certificate.status;
    if (message !== undefined && (state !== "none" || flags.gate !== undefined))
      app.log.warn({ model: name, state }, message);
  }
  const reload = () => {
    for (const { name } of service.models)
      service.reload(name).then(
        () => app.log.info({ model: name, version: service.model(name).version }, "reloaded"),
        (error) => app.log.error({ model: name, err: error }, "not reloaded: the former state goes on"),
      );
  };
  process.on("SIGHUP", reload);
  try {
    if (!session.signal.aborted) {
      await app.listen({ host, port });
      app.log.info(service.summary, "serving");
      await new Promise((resolve) => session.signal.addEventListener("abort", resolve, { once: true }));
      app.log.info("stopping: answering what was accepted");
    }
  } finally {
    process.off("SIGHUP", reload);
    // A pass of the model that has begun cannot always be stopped; what was accepted has no more time than this.
    const late = setTimeout(
      () => {
        app.log.warn("ending with a pass of the model under way");
        process.exit(1);
      },
      (timeout + flags.linger + 5) * 1000,
    );
    await app.close();
    clearTimeout(late);
  }
  app.log.info("stopped");
}
