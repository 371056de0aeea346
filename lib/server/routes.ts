import type { IncomingMessage } from "node:http";
import { finished } from "node:stream/promises";
import type { MultipartFile } from "@fastify/multipart";
import type { FastifyError, FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from "fastify";
import { PREDICTION_FUSIONS } from "../ensemble/model.js";
import { LayerEnsemblesError } from "../errors.js";
import { PACKAGE_VERSION } from "../native/package.js";
import { checkOptions, option } from "../options.js";
import { ANSWER_TYPES, negotiate } from "./answers.js";
import { documentationPage } from "./documentation-page.js";
import { OUTPUTS } from "./image-work.js";
import { INPUT, TENSORS } from "./kserve.js";
import { openApi } from "./openapi.js";
import type { Place } from "./queue.js";
import type { ServedModel } from "./served-model.js";
import type { PredictionService, RequestOptions } from "./service.js";
import { uploadPage } from "./upload-page.js";

/** Content types of a body that is one image; what it is, its bytes say. */
const IMAGE_TYPES = ["image/png", "image/jpeg", "image/tiff", "application/octet-stream", "application/x-npy"];

/** A request whose model has room for it. */
interface Admitted {
  model: ServedModel;
  place: Place;
  /** Aborted on timeout and when the client has gone. */
  signal: AbortSignal;
  /** `performance.now()` at its head. */
  started: number;
  /** Whether its body is here, so that the handler gives the place back. */
  handled: boolean;
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
    const { limits } = service;
    const { default: multipart } = await import("@fastify/multipart");
    app.removeAllContentTypeParsers();
    app.addContentTypeParser("*", (_request: FastifyRequest, payload: IncomingMessage) => readBody(payload, service));
    await app.register(multipart, {
      limits: {
        fileSize: limits.maxBody,
        files: limits.maxImages,
        fields: 8,
        parts: limits.maxImages + 8,
        headerPairs: 32,
      },
      throwFileSizeLimit: true,
    });
    app.setErrorHandler<FastifyError | LayerEnsemblesError>((error, request, reply) =>
      answerError(service, error, request, reply),
    );
    app.addHook("onResponse", async (request, reply) => {
      const route = request.routeOptions.url ?? "none";
      service.metrics.requests.observe({ route, status: String(reply.statusCode) }, reply.elapsedTime / 1000);
    });
    app.addHook("preClose", () => service.close());
    addPredict(app, service);
    addInfer(app, service);
    addInformation(app, service);
  };
}

/** Lets a request in before its body is read, or refuses it; gives the place back if it never gets to the handler. */
function admission(service: PredictionService) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const { query, params, headers } = request;
    const name = (params as { name?: string }).name ?? (query as { model?: string }).model;
    if (name !== undefined && typeof name !== "string")
      throw httpError(400, "Expected one model but received several.");
    const model = findModel(service, name);
    if (headers["content-encoding"] !== undefined && headers["content-encoding"] !== "identity")
      throw httpError(415, "Expected a body without content-encoding.");
    if (Number(headers["content-length"]) > service.limits.maxBody) throw tooLarge(service);
    let place: Place;
    try {
      if (service.closing) throw new LayerEnsemblesError("ERR_LE_DISPOSED", "The server is stopping.");
      place = model.queue.reserve();
    } catch (error) {
      await discardBody(request.raw);
      throw error;
    }
    const abort = new AbortController();
    const admitted: Admitted = {
      model,
      place,
      signal: abort.signal,
      started: performance.now(),
      handled: false,
      images: 0,
      decisions: [],
    };
    admissions.set(request, admitted);
    const { timeout } = service.limits;
    const timer = setTimeout(() => {
      abort.abort(
        new LayerEnsemblesError(
          "ERR_LE_TIMEOUT",
          `Expected to answer within ${timeout} ms but received no result in time.`,
        ),
      );
      if (!admitted.handled && !reply.sent) void reply.send(abort.signal.reason);
    }, timeout);
    reply.raw.once("close", () => {
      clearTimeout(timer);
      if (!reply.raw.writableFinished) {
        abort.abort(new LayerEnsemblesError("ERR_LE_ABORTED", "The client has gone."));
        service.metrics.rejections.inc({ code: "ERR_LE_ABORTED" });
        const ms = Math.round(performance.now() - admitted.started);
        request.log.info({ url: request.url.slice(0, 500), status: 499, ms, model: model.name }, "client gone");
      }
      if (!admitted.handled) place.release();
    });
  };
}

function addPredict(app: FastifyInstance, service: PredictionService): void {
  app.post(
    "/v1/predict",
    {
      bodyLimit: service.limits.maxBody,
      onRequest: admission(service),
    },
    async (request, reply) => {
      const admitted = admissions.get(request) as Admitted;
      admitted.handled = true;
      const { model, place, signal, started } = admitted;
      try {
        service.metrics.stages.observe({ stage: "read" }, (performance.now() - started) / 1000);
        const type = negotiate(request.headers.accept);
        if (!type) throw httpError(406, `Expected ${ANSWER_TYPES.join(", ")} to be accepted.`);
        const chosen = parseQuery(request.query);
        const files = await Promise.race([readFiles(request, service), rejectOn(signal)]);
        place.grow(files.length - 1);
        admitted.images = files.length;
        const timeout = service.limits.timeout - (performance.now() - started);
        const options = {
          ...chosen,
          arrays: type === "application/x-npz",
          signal,
          timeout: Math.max(1, timeout),
          place,
        };
        const answers = await allOrNone(files.map(({ name, bytes }) => service.predict(model, bytes, options, name)));
        admitted.decisions = answers.map(({ decision }) => decision);
        const { body, type: contentType } = await service.write(type, model, answers);
        return reply.type(contentType).send(bufferOf(body));
      } finally {
        place.release();
      }
    },
  );
}

/** Rejects once the signal is set. */
function rejectOn(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** Waits for all even where one fails, so that a place is not given back while work goes on. */
async function allOrNone<T>(work: Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

/** The options of a prediction, from the query; `model` was read before. */
function parseQuery(query: unknown): Pick<RequestOptions, "skip" | "fusion" | "outputs"> {
  const { model: _, skip, outputs, ...rest } = query as Record<string, string | string[]>;
  const options = {
    ...rest,
    ...(skip !== undefined && { skip: typeof skip === "string" && /^\d{1,6}$/.test(skip) ? Number(skip) : skip }),
    ...(outputs !== undefined && { outputs: String(outputs).split(",").filter(Boolean) }),
  };
  checkOptions("the query", options, {
    skip: option.integer({ min: 0 }),
    fusion: option.oneOf(PREDICTION_FUSIONS),
    outputs: option.array(option.oneOf(OUTPUTS)),
  });
  return options as Pick<RequestOptions, "skip" | "fusion" | "outputs">;
}

/** Reads a body into memory, up to the limit; what is beyond is thrown away, so that the client gets to read why. */
async function readBody(payload: IncomingMessage, service: PredictionService): Promise<Buffer> {
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const part of payload.iterator({ destroyOnReturn: false })) {
      length += part.length;
      if (length > service.limits.maxBody) {
        payload.resume();
        throw tooLarge(service);
      }
      parts.push(part);
    }
  } catch (error) {
    throw error instanceof LayerEnsemblesError
      ? error
      : httpError(400, "Expected a whole body but received a part of one.");
  }
  return Buffer.concat(parts);
}

/** Lets a body pass by: a connection that is closed while its client still sends would lose the answer. */
async function discardBody(payload: IncomingMessage): Promise<void> {
  payload.resume();
  await finished(payload).catch(() => {});
}

async function readFiles(
  request: FastifyRequest,
  service: PredictionService,
): Promise<{ name: string; bytes: Buffer }[]> {
  if (!request.isMultipart()) {
    const type = request.headers["content-type"]?.split(";")[0]?.trim().toLowerCase() ?? "none";
    if (!IMAGE_TYPES.includes(type))
      throw httpError(
        415,
        `Expected the content type ${IMAGE_TYPES.join(", ")} or multipart/form-data but received ${type.slice(0, 100)}.`,
      );
    return [{ name: "image", bytes: request.body as Buffer }];
  }
  const files: { name: string; bytes: Buffer }[] = [];
  let total = 0;
  const read = async (file: MultipartFile) => {
    const bytes = await file.toBuffer();
    total += bytes.length;
    if (total > service.limits.maxBody) throw tooLarge(service);
    files.push({ name: (file.filename || file.fieldname).slice(0, 200), bytes });
  };
  try {
    for await (const file of request.files()) await read(file);
  } catch (error) {
    if (error instanceof LayerEnsemblesError || (error as FastifyError).statusCode) throw error;
    throw httpError(400, `Expected a whole multipart body but received a damaged one: ${(error as Error).message}`);
  }
  if (files.length === 0) throw httpError(400, "Expected at least one file in the multipart body but received none.");
  return files;
}

function addInfer(app: FastifyInstance, service: PredictionService): void {
  app.get("/v2", async () => ({
    name: "layer-ensembles",
    version: PACKAGE_VERSION,
    extensions: ["binary_tensor_data"],
  }));
  app.get("/v2/health/live", async () => ({ live: true }));
  app.get("/v2/health/ready", async (_request, reply) => {
    if (service.closing) reply.code(503);
    return { live: true, ready: !service.closing };
  });
  for (const path of ["/v2/models/:name", "/v2/models/:name/versions/:version"]) {
    app.get<{ Params: ModelParams }>(path, async ({ params }) => describeModel(findVersion(service, params)));
    app.get<{ Params: ModelParams }>(`${path}/ready`, async ({ params }, reply) => {
      const { name } = findVersion(service, params);
      if (service.closing) reply.code(503);
      return { name, ready: !service.closing };
    });
    app.post<{ Params: ModelParams }>(
      `${path}/infer`,
      { bodyLimit: service.limits.maxBody, onRequest: admission(service) },
      async (request, reply) => {
        const admitted = admissions.get(request) as Admitted;
        admitted.handled = true;
        const { place, signal, started, model } = admitted;
        try {
          service.metrics.stages.observe({ stage: "read" }, (performance.now() - started) / 1000);
          findVersion(service, request.params);
          if (!(request.body instanceof Buffer)) throw httpError(400, "Expected a body but received none.");
          const length = request.headers["inference-header-content-length"];
          if (length !== undefined && (typeof length !== "string" || !/^\d{1,10}$/.test(length)))
            throw httpError(400, "Expected a number of bytes for Inference-Header-Content-Length.");
          const timeout = Math.max(1, service.limits.timeout - (performance.now() - started));
          const { bytes, headerLength, decisions } = await service.infer(model, request.body, {
            ...(length !== undefined && { headerLength: Number(length) }),
            place,
            signal,
            timeout,
          });
          admitted.images = decisions.length;
          admitted.decisions = decisions;
          if (headerLength !== undefined) reply.header("Inference-Header-Content-Length", headerLength);
          reply.type(headerLength === undefined ? "application/json" : "application/octet-stream");
          return reply.send(bufferOf(bytes));
        } finally {
          place.release();
        }
      },
    );
  }
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

function addInformation(app: FastifyInstance, service: PredictionService): void {
  app.get("/livez", async () => ({ status: "alive" }));
  app.get("/readyz", async (_request, reply) => {
    if (service.closing) reply.code(503);
    return { status: service.closing ? "stopping" : "ready" };
  });
  app.get("/metrics", async (_request, reply) => {
    const { registry } = service.metrics;
    return reply.type(registry.contentType).send(await registry.metrics());
  });
  app.get("/v1/models", async () => ({
    models: service.models.map(({ name, version, spatialAxes, notes, run, gate, queue }) => ({
      name,
      version,
      classes: notes.classNames,
      preprocessing: notes.preprocessing,
      volumes: spatialAxes === 3,
      skip: run.skip,
      gate: gate ? { score: gate.score ?? "aula", threshold: gate.threshold } : null,
      queue: { accepted: queue.accepted, waiting: queue.waiting },
    })),
  }));
  app.get("/openapi.json", async () => openApi(app.prefix, service));
  for (const [path, page] of [
    ["/", uploadPage],
    ["/docs", documentationPage],
  ] as const)
    app.get(path, async (_request, reply) =>
      reply
        .type("text/html; charset=utf-8")
        .header(
          "content-security-policy",
          "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
        )
        .send(page(app.prefix)),
    );
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

function answerError(
  service: PredictionService,
  error: FastifyError | LayerEnsemblesError,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const known = error instanceof LayerEnsemblesError;
  // Whose body is not here in time is late himself.
  const late = known && error.code === "ERR_LE_TIMEOUT" && !request.raw.complete;
  const status = late ? 408 : ((known ? STATUS[error.code] : (error as FastifyError).statusCode) ?? 500);
  if (late) reply.header("connection", "close");
  const code = known ? error.code : ((error as FastifyError).code ?? `HTTP_${status}`);
  if (code !== "ERR_LE_ABORTED") service.metrics.rejections.inc({ code });
  if (status >= 500 && status !== 503) request.log.error({ err: error }, "failed");
  if (status === 503) {
    const { queue } = admissions.get(request)?.model ?? service.models[0] ?? {};
    reply.header("retry-after", queue?.retryAfter ?? 1);
  }
  const message = status === 500 ? "The prediction failed: see the server's log." : error.message;
  const isV2 = request.routeOptions.url?.slice(request.server.prefix.length).startsWith("/v2");
  reply
    .code(status)
    .type("application/json; charset=utf-8")
    .send(isV2 ? { error: message } : { error: { code, message }, requestId: request.id });
}
