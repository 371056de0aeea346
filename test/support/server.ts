import http from "node:http";
import net from "node:net";
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
  return { requests, base: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}` };
}

/** Sends the first `bytes` and breaks the connection. */
export function cutOff(response: http.ServerResponse, data: Buffer, start: number, bytes: number, etag = '"1"') {
  response.writeHead(start ? 206 : 200, { etag, "content-length": data.length - start });
  response.write(data.subarray(start, start + bytes), () => setTimeout(() => response.destroy(), 200));
  return true;
}

/** A proxy on this machine that opens tunnels; gives its address and where it was asked to go. */
export async function serveProxy() {
  const targets: string[] = [];
  const proxy = http.createServer();
  proxy.on("connect", (request, client: net.Socket) => {
    targets.push(request.url ?? "");
    const { hostname, port } = new URL(`http://${request.url}`);
    const upstream = net.connect(Number(port), hostname, () => {
      client.write("HTTP/1.1 200 OK\r\n\r\n");
      upstream.pipe(client).pipe(upstream);
    });
    for (const socket of [upstream, client]) socket.on("error", () => client.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  return { targets, address: `http://127.0.0.1:${(proxy.address() as net.AddressInfo).port}` };
}
