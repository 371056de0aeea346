// What a server refuses, and that it goes on: requests that cost as much as they can, clients that are slow, runs that are damaged.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { blankPng, costlyRequests, sendRaw } from "../../bench/hostile.mjs";
import { encodePng } from "../../lib/data/encode-png.js";
import { type RunningServer, startServer, tinyRun } from "../support/serve.js";

let folder: string;
let run: string;
let png: Buffer;

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-limits-"));
  ({ run } = await tinyRun(folder));
  png = await encodePng({ data: Uint8Array.from({ length: 1600 }, (_, i) => (i * 7) % 256), shape: [40, 40] });
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const post = (base: string, body: Buffer, headers: Record<string, string> = {}, url = "/v1/predict?outputs=mask") =>
  fetch(`${base}${url}`, { method: "POST", body: new Uint8Array(body), headers });
const aula = async (response: Response) =>
  ((await response.json()) as { images: { aula: { value: number } }[] }).images[0]?.aula.value;
const resident = ({ child }: RunningServer) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1]) * 1024;

describe("a server", () => {
  let server: RunningServer;
  beforeAll(async () => {
    server = await startServer([run, "--precision", "fp32", "--max-body", "1", "--max-pixels", String(2 ** 20)], true);
  });
  afterAll(() => void server.child.kill("SIGKILL"));

  it("takes an image for what its bytes say, whatever it is called and however it is packed", async () => {
    const expected = await aula(await post(server.base, png, { "content-type": "image/png" }));
    for (const type of [
      "image/jpg",
      "IMAGE/PNG",
      "image/x-png; charset=binary",
      "application/octet-stream",
      "image/tif",
    ])
      expect(await aula(await post(server.base, png, { "content-type": type })), type).toBe(expected);
    expect(await sendRaw(server.port, { type: null, body: png })).toBe(200);
    const packed = {
      gzip: gzipSync(png),
      "x-gzip": gzipSync(png),
      deflate: deflateSync(png),
      br: brotliCompressSync(png),
    };
    for (const [encoding, body] of [
      ...Object.entries(packed),
      ["deflate", deflateRawSync(png)],
      ["identity", png],
    ] as const)
      expect(await aula(await post(server.base, body, { "content-encoding": encoding })), encoding).toBe(expected);
    const rest = Buffer.from("more");
    for (const [encoding, body] of Object.entries(packed))
      expect(
        (await post(server.base, Buffer.concat([body, rest]), { "content-encoding": encoding })).status,
        `${encoding} with more behind it`,
      ).toBe(400);
    for (const type of ["text/html", "application/json"])
      expect((await post(server.base, png, { "content-type": type })).status, type).toBe(415);
    expect((await post(server.base, png, { "content-encoding": "zstd" })).headers.get("accept-encoding")).toContain(
      "gzip",
    );
  });

  it("answers every error below /v2 in the protocol's form, and says which methods there are", async () => {
    const infer = "/v2/models/tiny/infer";
    const json = { "content-type": "application/json" };
    const body = Buffer.from("{}");
    const large = Buffer.alloc(2 ** 21);
    for (const [status, response] of [
      [404, fetch(`${server.base}/v2/`)],
      [404, fetch(`${server.base}/v2/models/tiny/ready/`)],
      [404, fetch(`${server.base}/v2/repository/index`, { method: "POST" })],
      [404, fetch(`${server.base}/v2/models/tiny/versions/2`)],
      [405, fetch(`${server.base}${infer}`)],
      [405, fetch(`${server.base}/v2/health/live`, { method: "DELETE" })],
      [400, post(server.base, body, json, infer)],
      [413, post(server.base, large, json, infer)],
      [415, post(server.base, body, { ...json, "content-encoding": "zstd" }, infer)],
    ] as const) {
      const {
        status: received,
        headers,
        url,
      } = await response.then(async (one) => {
        expect(await one.json(), one.url).toEqual({ error: expect.any(String) });
        return one;
      });
      expect(received, url).toBe(status);
      if (status === 405) expect(headers.get("allow"), url).toMatch(/GET|POST/);
    }
    const options = await fetch(`${server.base}/v1/predict`, { method: "OPTIONS" });
    expect([options.status, options.headers.get("allow")]).toEqual([204, "POST, OPTIONS"]);
    for (const path of ["/v1/predict", infer, "/livez", "/v2"])
      expect(await sendRaw(server.port, { method: "PROPFIND", path, body: "" }), path).toBe(405);
    const { error } = (await (await fetch(`${server.base}/v1/nothing`)).json()) as { error: object };
    expect(error).toMatchObject({ code: "HTTP_404" });
  });

  it("refuses what costs too much, within its memory, and serves others meanwhile", async () => {
    const { memoryBound } = (await server.line(({ msg }) => msg === "serving")) as unknown as { memoryBound: number };
    const ready = resident(server);
    let [largest, going, served] = [0, true, 0];
    const victim = async () => {
      while (going) {
        expect((await post(server.base, png)).status).toBe(200);
        served++;
        largest = Math.max(largest, resident(server));
      }
    };
    const serving = victim();
    const requests = costlyRequests(png, { model: "tiny", maxBody: 2 ** 20, maxPixels: 2 ** 20 });
    const attacker = async () => {
      for (let one = requests.pop(); one; one = requests.pop()) {
        const { name, right, ...request } = one;
        const status = await sendRaw(server.port, request);
        expect(right.includes(status), `${name}: ${status}`).toBe(true);
      }
    };
    await Promise.all(Array.from({ length: 6 }, attacker));
    going = false;
    await serving;
    expect(served).toBeGreaterThan(0);
    expect(largest - ready).toBeLessThan(memoryBound);
  });

  it("answers no name that a page from elsewhere could have", async () => {
    const ask = (host: string) => sendRaw(server.port, { method: "GET", path: "/livez", body: "", headers: { host } });
    for (const host of ["localhost:8080", "127.0.0.1", "[::1]:80", "scanner"]) expect(await ask(host), host).toBe(200);
    for (const host of ["evil.example", "127.0.0.1.evil.example:8080"]) expect(await ask(host), host).toBe(421);
  });
});

it("keeps no place for a body that is not there yet", async () => {
  const server = await startServer([run, "--max-queue", "2"]);
  const sockets = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const socket = net.connect(server.port, "127.0.0.1");
      socket.on("error", () => {});
      const head = "POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\nx";
      await new Promise((resolve) => socket.write(head, resolve));
      return socket;
    }),
  );
  // Whoever came before has been read by the time that an answer comes back.
  expect((await post(server.base, png)).status).toBe(200);
  expect((await post(server.base, png)).status).toBe(200);
  for (const socket of sockets) socket.destroy();
});

it("keeps its time while an image is worked on, and ends when told to", async () => {
  const server = await startServer([run, "--timeout", "0.2", "--linger", "0"]);
  const outputs = "?outputs=overlay,entropy,variance,probabilities,mutualInformation,expectedEntropy";
  const response = await post(server.base, blankPng(4096, 4096), {}, `/v1/predict${outputs}`);
  expect(response.status).toBe(503);
  expect(Number(response.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
  server.child.kill("SIGTERM");
  expect(await server.ended).toBe(0);
});

it("goes on with the former state where a run would end the process", async () => {
  const moving = path.join(folder, "moving");
  await cp(run, moving, { recursive: true });
  const server = await startServer([moving]);
  const file = path.join(moving, "run.json");
  writeFileSync(file, readFileSync(file, "utf8").replace('"skip":', '"passes": 1000000000, "skip":'));
  server.child.kill("SIGHUP");
  await server.line(({ msg }) => msg.startsWith("not reloaded"));
  expect((await post(server.base, png)).status).toBe(200);
}, 60_000);
