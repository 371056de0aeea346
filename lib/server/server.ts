import { randomUUID } from "node:crypto";
import type { Socket } from "node:net";
import { setTimeout } from "node:timers/promises";
import type { FastifyInstance } from "fastify";
import { checkOptions, defaultsOf } from "../options.js";
import { admissionOf, answerError, isThere, misdirected, notFound, routes } from "./routes.js";
import type { PredictionService } from "./service.js";
import { SERVER, type ServerOptions } from "./service-options.js";

/**
 * A fastify server with the routes of a service. `close()` answers what was accepted, and 503 meanwhile, then frees the models.
 *
 * ```ts
 * const app = await createServer(await PredictionService.open({ runs: ["runs/busi"] }));
 * await app.listen({ port: 8080 });
 * ```
 */
export async function createServer(service: PredictionService, options: ServerOptions = {}): Promise<FastifyInstance> {
  const { logger, linger, hosts } = { ...defaultsOf(SERVER), ...checkOptions("createServer", options, SERVER) };
  const { fastify, LogController } = await import("fastify");
  const { timeout, maxBody } = service.limits;
  const app = fastify({
    logger: logger ?? { level: "info" },
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: maxBody,
    // A body that takes longer than a prediction may is given up; headers sooner.
    requestTimeout: timeout + 1000,
    http: { headersTimeout: Math.min(10_000, timeout), connectionsCheckingInterval: 1000, maxHeaderSize: 16_384 },
    // Requests on open connections are answered while it closes: predictions by 503, with Retry-After.
    return503OnClosing: false,
    requestIdHeader: false,
    frameworkErrors: (error, request, reply) => answerError(service, error, request, reply),
    clientErrorHandler: refuseBytes,
    genReqId: ({ headers }) => {
      const given = headers["x-request-id"];
      return typeof given === "string" && /^[\w.:+/=-]{1,128}$/.test(given) ? given : randomUUID();
    },
  });
  app.addHook("onRequest", async (request, reply) => {
    reply.header("x-request-id", request.id);
    if (hosts && !isAllowed(request.headers.host, hosts)) throw misdirected();
  });
  // A connection whose request came before the end began, and is answered after, would be kept open for another, and the end wait for it.
  app.addHook("onSend", async (_request, reply) => {
    if (service.closing) reply.header("connection", "close");
  });
  app.addHook("onResponse", async (request, reply) => {
    if (service.closing && !app.server.listening) request.raw.socket.end();
    if (!isThere(request)) return; // told of as a client that has gone
    const { method, url } = request;
    const admitted = admissionOf(request);
    const line = {
      method,
      url: url.slice(0, 500),
      status: reply.statusCode,
      ms: Math.round(reply.elapsedTime * 10) / 10,
      ...(admitted && { model: admitted.model.name, images: admitted.images, decisions: admitted.decisions }),
    };
    // What asks for health and metrics every few seconds is no news.
    const level = reply.statusCode >= 500 ? "warn" : admitted ? "info" : "debug";
    request.log[level](line, "answered");
  });
  app.setNotFoundHandler((request, reply) => answerError(service, notFound(request), request, reply));
  app.addHook("preClose", async () => {
    const closed = service.close();
    if (app.server.listening) await setTimeout(linger);
    await closed;
  });
  await app.register(routes(service));
  return app;
}

/** Names without a dot belong to no domain, and addresses cannot be given to another. */
function isAllowed(header: string | undefined, hosts: readonly string[]): boolean {
  const host = (header ?? "").toLowerCase().replace(/:\d*$/, "").replace(/\.$/, "");
  const isAddress = /^[\d.]*$/.test(host) || host.startsWith("[");
  return (
    isAddress || !host.includes(".") || host.endsWith(".localhost") || hosts.some((name) => name.toLowerCase() === host)
  );
}

/** What cannot be read as a request has no path, and is answered in the general form. */
function refuseBytes(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || socket.destroyed) return;
  const [status, text, expected] =
    error.code === "HPE_HEADER_OVERFLOW"
      ? [431, "Request Header Fields Too Large", "a head of at most 16 KiB"]
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? [408, "Request Timeout", "a whole request in time"]
        : [400, "Bad Request", "a request of HTTP/1.1"];
  const message = `Expected ${expected} but received none.`;
  const body = JSON.stringify({ error: { code: `HTTP_${status}`, message } });
  if (socket.writable)
    socket.write(
      `HTTP/1.1 ${status} ${text}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
    );
  socket.destroy(error);
}
