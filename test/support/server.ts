import http from "node:http";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";

/** Where nothing listens. */
export const unreachable = "http://127.0.0.1:9";

interface Request {
  url: string;
  range: string | undefined;
}

/** A server on this machine; `answer` may treat single requests in its own way by returning true. */
export async function serve(
  data: Buffer,
  answer: (n: number, request: http.IncomingMessage, response: http.ServerResponse) => boolean = () => false,
  etag = '"1"',
) {
  const requests: Request[] = [];
  const server = http.createServer((request, response) => {
    const range = request.headers.range;
    requests.push({ url: request.url ?? "", range });
    if (answer(requests.length, request, response)) return;
    const start = range && request.headers["if-range"] === etag ? Number(/bytes=(\d+)-/.exec(range)?.[1]) : 0;
    response.writeHead(start ? 206 : 200, { etag, "content-length": data.length - start });
    response.end(data.subarray(start));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return { requests, base: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

/** Sends the first `bytes` and breaks the connection. */
export function cutOff(response: http.ServerResponse, data: Buffer, start: number, bytes: number, etag = '"1"') {
  response.writeHead(start ? 206 : 200, { etag, "content-length": data.length - start });
  response.write(data.subarray(start, start + bytes), () => setTimeout(() => response.destroy(), 50));
  return true;
}
