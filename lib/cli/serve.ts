import { type Command, InvalidArgumentError } from "commander";
import { defaultsOf, option, toldOf, type Values } from "../options.js";
import { type Gate, parseGate } from "../scores/gate.js";
import type { AlarmEvent } from "../server/index.js";
import { SERVER, SERVICE } from "../server/service-options.js";
import { each, givenOf, type Parser, text, withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, UsageError } from "./command.js";

/** Variable of the environment with the token of outcomes. */
const TOKEN = "LAYER_ENSEMBLES_OUTCOMES_TOKEN";

const OPTIONS = {
  host: option.string({ default: "127.0.0.1", text: "where to listen; 0.0.0.0 for every address", arg: "address" }),
  port: option.integer({ min: 0, max: 65535, default: 8080, text: "where to listen; 0 for any that is free" }),
  ...toldOf(SERVICE),
  outcomes: option.boolean({ text: "take outcomes of audited cases at /v1/outcomes, from who has the token" }),
  outcomesToken: option.string({ otherwise: `the token in ${TOKEN}`, text: "file with the token", arg: "file" }),
  allowHost: option.with(SERVER.hosts, { otherwise: "any; none where --host is a loopback address" }),
  linger: SERVER.linger,
  logLevel: option.oneOf(["trace", "debug", "info", "warn", "error", "fatal", "silent"], {
    ...{ default: "info", arg: "level" },
    text: "one JSON object a line, on standard output",
  }),
};

interface Flags extends Values<typeof OPTIONS> {
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
  ).argument("<runs...>", "run folders; NAME=FOLDER serves one under another name");
  return withOptions(command, OPTIONS, { gate, allowHost: each(text) }).action((runs: string[], flags: Flags) =>
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
  const { host, port, linger, logLevel, allowHost } = { ...defaultsOf(OPTIONS), ...flags };
  let tell = (event: AlarmEvent) => warn(event, session);
  const service = await PredictionService.open({
    runs: nameRuns(runs),
    ...givenOf(flags, toldOf(SERVICE)),
    ...(flags.outcomes && { outcomes: { token: await readToken(flags.outcomesToken) } }),
    onAlarm: (event) => tell(event),
  });
  const loopback = /^(localhost|127(\.\d+){3}|::1)$/.test(host);
  const app = await createServer(service, {
    logger: { level: logLevel },
    linger,
    ...(allowHost ? { hosts: allowHost } : loopback && { hosts: [] }),
  });
  tell = ({ model, what, error }) => {
    if (what === "void") app.log.error({ model }, "certificate void: every result is for a person until it is renewed");
    else app.log.error({ model, err: error }, "the alarm over the served cases cannot be kept");
  };
  for (const { name, certificate, predictedDice } of service.models) {
    if (predictedDice.stale !== null) app.log.warn({ model: name }, predictedDice.stale);
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
      service.limits.timeout + linger + 5000,
    );
    await app.close();
    clearTimeout(late);
  }
  app.log.info("stopped");
}
