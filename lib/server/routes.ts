import { type IncomingMessage, METHODS } from "node:http";
import { finished } from "node:stream/promises";
import type { FastifyError, FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from "fastify";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, type OptionSpec, type Values } from "../options.js";
import { PACKAGE_VERSION } from "../package.js";
import { ANSWER_TYPES, type AnswerType, negotiate } from "./answers.js";
import { ENCODINGS, encodingOf, readBody } from "./body.js";
import type { Held } from "./budget.js";
import { documentationPage } from "./documentation-page.js";
import { INPUT, TENSORS } from "./kserve.js";
import {
  answer,
  type Described,
  describeInfer,
  describeOutcomes,
  describePredict,
  modelParameter,
  openApi,
  telling,
} from "./openapi.js";
import { type GivenOutcome, type OutcomeFault, OutcomeRefusal, type Outcomes } from "./outcomes.js";
import type { Place } from "./queue.js";
import type { ServedModel } from "./served-model.js";
import { CHOICES, type PredictionService, timeoutError } from "./service.js";
import { uploadPage } from "./upload-page.js";

/** Content types of a body that is one image. What it is, its bytes say; only what says that it is something else is refused. */
const IMAGE_TYPES =
  /^(image\/[^/]+|(application|binary)\/(octet-stream|x-nifti|nifti|x-nrrd|gzip|x-gzip|x-npy|npy|x-numpy|numpy|x-binary|x-download|force-download|x-www-form-urlencoded|dicom\+image)|\*\/\*)$/;

/** A request whose model is known. */
interface Admitted {
  model: ServedModel;
  /** Aborted on timeout and when the client has gone. */
  signal: AbortSignal;
  /** `performance.now()` at its head. */
  started: number;
  /** Memory of its body. */
  body?: Held;
  /** Memory of its answer. */
  answer: Held;
  images: number;
  decisions: (string | null)[];
}

const admissions = new WeakMap<FastifyRequest, Admitted>();

/** What is known of a prediction that was let in, for its line in the log. */
export function admissionOf(request: FastifyRequest): Pick<Admitted, "model" | "images" | "decisions"> | undefined {
  return admissions.get(request);
}

/**
 * The HTTP routes of a service, as a fastify plugin with settings of its own: `app.register(routes(service), { prefix })`. When
 * the application closes, the service finishes what it accepted and is closed.
 */
export function routes(service: PredictionService): FastifyPluginAsync {
  return async (app) => {
    const known = new Map<string, Set<string>>();
    const paths: Record<string, Record<string, object>> = {};
    // A path that there is refuses them by 405, with those that it has.
    for (const method of METHODS)
      if (method !== "CONNECT" && !app.supportedMethods.includes(method)) app.addHttpMethod(method);
    app.removeAllContentTypeParsers();
    app.addContentTypeParser("*", async (request: FastifyRequest, payload: IncomingMessage) => {
      const admitted = admissions.get(request);
      if (!admitted) {
        payload.resume();
        return undefined;
      }
      const { bytes, held } = await readBody(payload, {
        maxBody: service.limits.maxBody,
        budget: service.memory.bodies,
        encoding: request.headers["content-encoding"],
        length: lengthOf(request),
        signal: admitted.signal,
      });
      admitted.body = held;
      return bytes;
    });
    app.setErrorHandler<FastifyError | LayerEnsemblesError>((error, request, reply) =>
      answerError(service, error, request, reply),
    );
    app.addHook("onRoute", ({ url, method, config }) => {
      const methods = known.get(url) ?? new Set<string>();
      for (const one of [method].flat()) methods.add(one);
      known.set(url, methods);
      const { operation } = (config ?? {}) as Partial<Described["config"]>;
      // Those for HEAD are fastify's own.
      if (!operation || method === "HEAD") return;
      const path = url.slice(app.prefix.length).replace(/:(\w+)/g, "{$1}") || "/";
      paths[path] = { ...paths[path], [String(method).toLowerCase()]: operation };
    });
    app.addHook("onResponse", async (request, reply) => {
      const route = request.routeOptions.url ?? "none";
      const status = isThere(request) ? String(reply.statusCode) : GONE;
      service.metrics.requests.observe({ route, status }, reply.elapsedTime / 1000);
    });
    app.addHook("preClose", () => service.close());
    addPredict(app, service);
    addInformation(app, service, paths);
    addInfer(app, service);
    const { outcomes } = service;
    if (outcomes) await app.register(async (inner) => addOutcomes(inner, service, outcomes));
    addRefusals(app, known);
  };
}

/** A length that is told; undefined for a body in chunks. */
function lengthOf({ headers }: FastifyRequest): number | undefined {
  const length = headers["content-length"];
  return length === undefined ? undefined : Number(length);
}

/** Refuses by a request's head what can be, before its body is read; from here on its time runs. */
function admission(service: PredictionService) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const { query, params, headers } = request;
    const name = (params as { name?: string }).name ?? (query as { model?: string }).model;
    if (name !== undefined && typeof name !== "string")
      throw httpError(400, "Expected one model but received several.");
    const model = findModel(service, name);
    if (!encodingOf(headers["content-encoding"])) {
      reply.header("accept-encoding", ENCODINGS.join(", "));
      throw httpError(415, `Expected a body without content-encoding, or in one of ${ENCODINGS.join(", ")}.`);
    }
    if ((lengthOf(request) ?? 0) > service.limits.maxBody) throw tooLarge(service);
    try {
      if (service.closing) throw new LayerEnsemblesError("ERR_LE_DISPOSED", "The server is stopping.");
      // A place is taken once the body is here, so that nobody holds one by sending slowly.
      model.queue.reserve().release();
    } catch (error) {
      await discardBody(request.raw);
      throw error;
    }
    const abort = new AbortController();
    const answer = service.memory.answers.take(0, {
      idle: () => sending !== undefined && performance.now() - sending > SLOW,
      evict: () => reply.raw.destroy(),
    });
    const admitted: Admitted = {
      model,
      signal: abort.signal,
      started: performance.now(),
      answer,
      images: 0,
      decisions: [],
    };
    admissions.set(request, admitted);
    let sending: number | undefined;
    const { timeout } = service.limits;
    const timer = setTimeout(() => {
      abort.abort(timeoutError(timeout));
      // Who does not read his answer in time does not get it.
      if (sending !== undefined) reply.raw.destroy();
    }, timeout);
    reply.raw.once("prefinish", () => {
      sending = performance.now();
    });
    let sent = false;
    reply.raw.once("finish", () => {
      sent = isThere(request);
    });
    reply.raw.once("close", () => {
      clearTimeout(timer);
      answer.release();
      admitted.body?.release();
      if (!sent) {
        abort.abort(new LayerEnsemblesError("ERR_LE_ABORTED", "The client has gone."));
        service.metrics.rejections.inc({ code: "ERR_LE_ABORTED" });
        const ms = Math.round(performance.now() - admitted.started);
        request.log.info(
          { url: request.url.slice(0, 500), status: Number(GONE), ms, model: model.name },
          "client gone",
        );
      }
    });
  };
}

/** Status, in logs and metrics, of what its client did not wait for. */
const GONE = "499";

/** Whether a request's client is still there. An answer that has ended went out then: a socket that was destroyed throws away the rest. */
export function isThere({ raw }: FastifyRequest): boolean {
  return !raw.socket.destroyed;
}

/** Lets a body pass by for a while: a connection that is closed while its client still sends would lose the answer. */
async function discardBody(payload: IncomingMessage): Promise<void> {
  payload.resume();
  await finished(payload, { signal: AbortSignal.timeout(1000) }).catch(() => {});
}

/** Milliseconds after which an answer that is still being sent may be given up where others need the room. */
const SLOW = 2000;

/** Takes a place for a request whose body is here, and gives it back when the work is done. */
async function placed<T>(
  service: PredictionService,
  request: FastifyRequest,
  work: (admitted: Admitted, place: Place, left: () => number) => Promise<T>,
): Promise<T> {
  const admitted = admissions.get(request) as Admitted;
  const { model, started, signal } = admitted;
  signal.throwIfAborted();
  if (service.closing) throw new LayerEnsemblesError("ERR_LE_DISPOSED", "The server is stopping.");
  const place = model.queue.reserve();
  try {
    service.metrics.stages.observe({ stage: "read" }, (performance.now() - started) / 1000);
    return await work(admitted, place, () => Math.max(1, service.limits.timeout - (performance.now() - started)));
  } finally {
    place.release();
    admitted.body?.release();
  }
}

function addPredict(app: FastifyInstance, service: PredictionService): void {
  const admit = admission(service);
  app.post(
    "/v1/predict",
    {
      ...describePredict(service),
      bodyLimit: service.limits.maxBody,
      onRequest: async (request, reply) => {
        if (!negotiate(request.headers.accept))
          throw httpError(406, `Expected ${ANSWER_TYPES.join(", ")} to be accepted.`);
        checkType(request);
        parseQuery(request.query);
        await admit(request, reply);
      },
    },
    (request, reply) =>
      placed(service, request, async (admitted, place, left) => {
        const { model, signal, answer } = admitted;
        const type = negotiate(request.headers.accept) as AnswerType;
        const files = await readFiles(request, service, signal);
        place.grow(files.length - 1);
        admitted.images = files.length;
        const options = {
          ...parseQuery(request.query),
          arrays: type === "application/x-npz",
          signal,
          place,
          held: answer,
        };
        const answers = await allOrNone(
          files.map(({ name, bytes }) => service.predict(model, bytes, { ...options, timeout: left() }, name)),
        );
        admitted.decisions = answers.map(({ decision }) => decision);
        const { body, type: contentType } = await service.write(type, model, answers, { signal, held: answer });
        signal.throwIfAborted();
        return reply.type(contentType).send(bufferOf(body));
      }),
  );
}

/** Waits for all even where one fails, so that a place is not given back while work goes on. */
async function allOrNone<T>(work: Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

/** What was chosen in the query; `model` was read before. */
function parseQuery(query: unknown): Values<typeof CHOICES> {
  const { model: _, ...rest } = query as Record<string, string | string[]>;
  const options = Object.entries(rest).map(([name, text]) => [name, readChoice(text, name)]);
  return checkOptions<Values<typeof CHOICES>>("the query", Object.fromEntries(options), CHOICES);
}

/** A text as the value that it stands for; one that stands for none is refused as it is. */
function readChoice(text: string | string[], name: string): unknown {
  const spec = Object.hasOwn(CHOICES, name) ? (CHOICES[name as keyof typeof CHOICES] as OptionSpec) : undefined;
  if (!spec?.element) return typeof text === "string" ? readOne(text, spec) : text;
  return String(text)
    .split(",")
    .filter(Boolean)
    .map((one) => readOne(one, spec.element));
}

function readOne(text: string, spec: OptionSpec | undefined): unknown {
  if (text === "none" && spec?.accepts(null)) return null;
  const form = spec?.kind === "integer" ? /^\d{1,6}$/ : spec?.kind === "number" ? /^\d*\.?\d+(e-\d{1,3})?$/ : undefined;
  return form?.test(text) ? Number(text) : text;
}

function typeOf({ headers }: FastifyRequest): string | undefined {
  return headers["content-type"]?.split(";")[0]?.trim().toLowerCase();
}

/** A body without a type is what its bytes say. */
function checkType(request: FastifyRequest): void {
  const type = typeOf(request);
  if (type === undefined || type === "multipart/form-data" || IMAGE_TYPES.test(type)) return;
  throw httpError(
    415,
    `Expected the content type of an image, application/octet-stream, application/x-npy or multipart/form-data but received ${type.slice(0, 100)}.`,
  );
}

async function readFiles(
  request: FastifyRequest,
  service: PredictionService,
  signal: AbortSignal,
): Promise<{ name: string; bytes: Uint8Array }[]> {
  const bytes = bodyOf(request);
  if (typeOf(request) !== "multipart/form-data") return [{ name: "image", bytes }];
  return service.readForm(bytes, request.headers["content-type"] as string, signal);
}

function bodyOf({ body }: FastifyRequest): Uint8Array {
  if (!(body instanceof Uint8Array)) throw httpError(400, "Expected a body but received none.");
  return body;
}

function addInfer(app: FastifyInstance, service: PredictionService): void {
  app.get("/v2", telling("The server's name, version and extensions", answer("Metadata")), async () => ({
    name: "layer-ensembles",
    version: PACKAGE_VERSION,
    extensions: ["binary_tensor_data"],
  }));
  app.get("/v2/health/live", telling("Whether the server lives", answer("It does")), async () => ({ live: true }));
  const ready = telling("Whether every model answers", answer("They do"));
  app.get("/v2/health/ready", ready, async (_request, reply) => ({ live: true, ready: isReady(service, reply) }));
  const name = modelParameter(service, "path");
  const version = { name: "version", in: "path", required: true, schema: { type: "string" } };
  for (const [path, parameters] of [
    ["/v2/models/:name", [name]],
    ["/v2/models/:name/versions/:version", [name, version]],
  ] as const) {
    const described = telling("What the model takes and gives", answer("Names, types and shapes"), parameters);
    app.get<{ Params: ModelParams }>(path, described, async ({ params }) =>
      describeModel(findVersion(service, params)),
    );
    const ready = telling("Whether the model answers", answer("It does", "Ready"), parameters);
    app.get<{ Params: ModelParams }>(`${path}/ready`, ready, async ({ params }, reply) => {
      const { name } = findVersion(service, params);
      return { name, ready: isReady(service, reply) };
    });
    app.post<{ Params: ModelParams }>(
      `${path}/infer`,
      {
        ...describeInfer(parameters),
        bodyLimit: service.limits.maxBody,
        onRequest: async (request, reply) => {
          findVersion(service, request.params);
          await admission(service)(request, reply);
        },
      },
      (request, reply) =>
        placed(service, request, async (admitted, place, left) => {
          const { signal, model, answer } = admitted;
          const length = request.headers["inference-header-content-length"];
          if (length !== undefined && (typeof length !== "string" || !/^\d{1,10}$/.test(length)))
            throw httpError(400, "Expected a number of bytes for Inference-Header-Content-Length.");
          const { bytes, headerLength, decisions } = await service.infer(model, bodyOf(request), {
            ...(length !== undefined && { headerLength: Number(length) }),
            place,
            signal,
            timeout: left(),
            held: answer,
          });
          admitted.images = decisions.length;
          admitted.decisions = decisions;
          if (headerLength !== undefined) reply.header("Inference-Header-Content-Length", headerLength);
          reply.type(headerLength === undefined ? "application/json" : "application/octet-stream");
          return reply.send(bufferOf(bytes));
        }),
    );
  }
}

/** Paths and methods that there are not: below /v2 an error has another form. */
function addRefusals(app: FastifyInstance, known: ReadonlyMap<string, ReadonlySet<string>>): void {
  const all = app.supportedMethods;
  for (const [url, methods] of [...known]) {
    // With a prefix, the page at / has two addresses, of which fastify tells one.
    if (app.prefix !== "" && [app.prefix, `${app.prefix}/`].includes(url)) continue;
    const allow = [...methods, "OPTIONS"].join(", ");
    app.route({
      method: all.filter((method) => !methods.has(method)),
      url: url.slice(app.prefix.length),
      onRequest: async ({ method }, reply) => {
        reply.header("allow", allow);
        if (method === "OPTIONS") return reply.code(204).send();
        throw httpError(405, `Expected one of the methods ${allow} but received ${method}.`);
      },
      handler: () => {},
    });
  }
  app.route({
    method: all,
    url: "/v2/*",
    onRequest: async (request) => {
      throw notFound(request);
    },
    handler: () => {},
  });
}

/** A Host that is not answered. */
export function misdirected(): Error {
  return httpError(
    421,
    "Expected a Host that this server answers to but received another one. Allow it: --allow-host NAME.",
  );
}

/** A path that there is not. */
export function notFound({ method, url }: FastifyRequest): Error {
  return httpError(404, `Expected one of the routes in /openapi.json but received ${method} ${url.slice(0, 200)}.`);
}

interface ModelParams {
  name: string;
  version?: string;
}

function findVersion(service: PredictionService, { name, version }: ModelParams): ServedModel {
  const model = findModel(service, name);
  if (version !== undefined && version !== String(model.version))
    throw httpError(
      404,
      `Expected version ${model.version} of ${model.name} but received ${JSON.stringify(version.slice(0, 100))}.`,
    );
  return model;
}

/** What the Open Inference Protocol says of a model; -1 stands for any size. */
function describeModel({ name, version, spatialAxes, notes }: ServedModel) {
  const spatial = new Array<number>(spatialAxes).fill(-1);
  const classes = notes.classNames.length;
  const shapes = { S: [-1, ...spatial], "C×S": [-1, classes, ...spatial], "1": [-1] };
  return {
    name,
    versions: [String(version)],
    platform: "layer-ensembles_libtorch",
    inputs: [{ name: INPUT, datatype: "FP32", shape: [-1, notes.preprocessing.channels, ...spatial] }],
    outputs: Object.entries(TENSORS).map(([name, { datatype, perImage }]) => ({
      name,
      datatype,
      shape: shapes[perImage],
    })),
  };
}

/** A part of its own, whose bodies are JSON and are read once the token is known. */
function addOutcomes(app: FastifyInstance, service: PredictionService, outcomes: Outcomes): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", async (request: FastifyRequest, payload: IncomingMessage) => {
    const { bytes, held } = await readBody(payload, {
      maxBody: service.limits.maxBody,
      budget: service.memory.bodies,
      encoding: request.headers["content-encoding"],
      length: lengthOf(request),
      signal: AbortSignal.timeout(service.limits.timeout),
    });
    request.raw.once("close", () => held.release());
    return bytes;
  });
  app.post(
    "/v1/outcomes",
    {
      ...describeOutcomes(),
      bodyLimit: service.limits.maxBody,
      onRequest: async (request, reply) => {
        const [, token] = /^bearer +(\S+)$/i.exec(request.headers.authorization ?? "") ?? [];
        if (token === undefined) {
          reply.header("www-authenticate", "Bearer");
          throw httpError(401, "Expected the header Authorization: Bearer TOKEN but received none.");
        }
        if (!outcomes.isToken(token)) throw httpError(403, "Expected the server's token but received another one.");
        if (!/^application\/(.+\+)?json$/.test(typeOf(request) ?? ""))
          throw httpError(415, "Expected the content type application/json.");
        if (!encodingOf(request.headers["content-encoding"]))
          throw httpError(415, `Expected a body without content-encoding, or in one of ${ENCODINGS.join(", ")}.`);
        if (service.closing) throw new LayerEnsemblesError("ERR_LE_DISPOSED", "The server is stopping.");
      },
    },
    async (request, reply) => {
      const given = parseGiven(bodyOf(request));
      const { model, dice } = await outcomes.add(given).catch((error) => {
        throw asRefusal(error);
      });
      service.metrics.outcomes.observe({ model }, dice);
      request.log.info({ model, id: given.id, dice }, "outcome");
      return reply.code(201).send({ id: given.id, model, dice });
    },
  );
}

function parseGiven(bytes: Uint8Array): GivenOutcome {
  try {
    return JSON.parse(bufferOf(bytes).toString("utf8")) as GivenOutcome;
  } catch (error) {
    throw httpError(400, `Expected JSON but received what is none: ${(error as Error).message.slice(0, 100)}.`);
  }
}

const FAULTS: Readonly<Record<OutcomeFault, number>> = { unknown: 404, taken: 409, unfit: 422 };

/** An outcome that is not taken, as its client is told: what is wrong with the run's file is for the log. */
function asRefusal(error: unknown): unknown {
  if (error instanceof OutcomeRefusal) return httpError(FAULTS[error.fault], error.message);
  const { code, cause } = error as LayerEnsemblesError;
  const isFull = ["ENOSPC", "EDQUOT", "EFBIG"].includes((cause as NodeJS.ErrnoException | undefined)?.code ?? "");
  if (code === "ERR_LE_IO" && isFull)
    return Object.assign(
      httpError(507, "Expected space on the disk for the outcome but received none: nothing has changed."),
      {
        code: "ERR_LE_IO",
      },
    );
  return code === "ERR_LE_DATA" ? Object.assign(httpError(500, (error as Error).message), { code }) : error;
}

function addInformation(app: FastifyInstance, service: PredictionService, paths: object): void {
  app.get("/v1/models", telling("The models, their classes, gates and queues", answer("The models")), async () => ({
    models: service.models.map(({ name, version, spatialAxes, notes, run, gate, certificate, queue }) => ({
      name,
      version,
      classes: notes.classNames,
      preprocessing: notes.preprocessing,
      volumes: spatialAxes === 3,
      skip: run.skip,
      gate: gate ? { score: gate.score ?? "aula", threshold: gate.threshold } : null,
      certificate: certificate.status,
      queue: { accepted: queue.accepted, waiting: queue.waiting },
    })),
  }));
  app.get("/livez", telling("Whether the process lives", answer("It does")), async () => ({ status: "alive" }));
  const states = { ...answer("They are"), ...answer("The server is stopping", undefined, 503) };
  app.get("/readyz", telling("Whether predictions are accepted", states), async (_request, reply) => ({
    status: isReady(service, reply) ? "ready" : "stopping",
    ...certificatesOf(service),
  }));
  const text = { 200: { description: "Text", content: { "text/plain": { schema: { type: "string" } } } } };
  app.get("/metrics", telling("Metrics for Prometheus", text), async (_request, reply) => {
    const { registry } = service.metrics;
    return reply.type(registry.contentType).send(await registry.metrics());
  });
  const itself = telling("This description", answer("OpenAPI 3.1"));
  app.get("/openapi.json", itself, async () => openApi(app.prefix, service, paths));
  for (const [path, page, summary] of [
    ["/docs", documentationPage, "This description, as a page"],
    ["/", uploadPage, "A page to try it"],
  ] as const)
    app.get(
      path,
      telling(summary, { 200: { description: "A page", content: { "text/html": {} } } }),
      async (_, reply) =>
        reply
          .type("text/html; charset=utf-8")
          .header(
            "content-security-policy",
            "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
          )
          .send(page(app.prefix)),
    );
}

/** Of each model that has one, whether its certificate holds, and why not. A server that accepts nothing is ready all the same. */
function certificatesOf({ models }: PredictionService): object {
  const certified = models.filter(({ certificate }) => certificate.state !== "none");
  const said = certified.map(({ name, certificate: { status } }) => {
    const { state, message } = status;
    return [name, { state, ...(message !== undefined && { message }) }];
  });
  return said.length > 0 ? { certificates: Object.fromEntries(said) } : {};
}

/** Whether predictions are accepted; an answer that they are not is 503. */
function isReady({ closing }: PredictionService, reply: FastifyReply): boolean {
  if (closing) reply.code(503);
  return !closing;
}

function bufferOf({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}

function findModel(service: PredictionService, name: string | undefined): ServedModel {
  try {
    return service.model(name);
  } catch (error) {
    throw httpError(name === undefined ? 400 : 404, (error as Error).message);
  }
}

function tooLarge({ limits }: PredictionService): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_TOO_LARGE",
    `Expected a body of at most ${limits.maxBody} bytes but received more.`,
  );
}

function httpError(statusCode: number, message: string): Error & { statusCode: number } {
  return Object.assign(new Error(message), { statusCode });
}

const STATUS: Partial<Record<LayerEnsemblesError["code"], number>> = {
  ERR_LE_DATA: 400,
  ERR_LE_SHAPE: 400,
  ERR_LE_VALUE: 400,
  ERR_LE_OPTION: 400,
  ERR_LE_TOO_LARGE: 413,
  ERR_LE_BUSY: 503,
  ERR_LE_TIMEOUT: 503,
  ERR_LE_DISPOSED: 503,
  ERR_LE_ABORTED: 499,
};

/** Answers an error in the form that its path has. */
export function answerError(
  service: PredictionService,
  error: FastifyError | LayerEnsemblesError | Error,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const known = error instanceof LayerEnsemblesError;
  // Whose body is not here in time is late himself.
  const late = known && error.code === "ERR_LE_TIMEOUT" && !request.raw.complete;
  const status = late ? 408 : ((known ? STATUS[error.code] : (error as FastifyError).statusCode) ?? 500);
  if (late) reply.header("connection", "close");
  const code = known ? error.code : ((error as FastifyError).code ?? `HTTP_${status}`);
  // Who has gone is counted as such.
  if (code !== "ERR_LE_ABORTED" && isThere(request)) service.metrics.rejections.inc({ code });
  if (status >= 500 && status !== 503) request.log.error({ err: error }, "failed");
  if (status === 503) {
    const model = admissions.get(request)?.model ?? service.models[0];
    reply.header("retry-after", model ? service.retryAfter(model) : 1);
  }
  const message = status === 500 ? "The prediction failed: see the server's log." : error.message;
  reply
    .code(status)
    .type("application/json; charset=utf-8")
    .send(isInference(request) ? { error: message } : { error: { code, message }, requestId: request.id });
}

/** Whether a path is of the Open Inference Protocol. */
function isInference({ url, routeOptions, server }: FastifyRequest): boolean {
  const path = (routeOptions.url ?? url).slice(server.prefix.length);
  return /^\/v2(?![^/?])/.test(path);
}
