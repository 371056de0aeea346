// Every stage of a request: what its clock, a client that leaves, and SIGTERM do to it.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { blankPng } from "../../bench/hostile.mjs";
import { encodePng } from "../../lib/data/encode-png.js";
import { Backbone, LayerEnsemble } from "../../lib/index.js";
import { type RunningServer, startServer, tinyRun } from "../support/serve.js";

vi.setConfig({ testTimeout: 120_000 });

let folder: string;
let run: string;
/** One whose passes take a while. */
let slow: string;
let png: Buffer;

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-stages-"));
  const tiny = await tinyRun(folder);
  run = tiny.run;
  slow = path.join(folder, "slow");
  const { notes } = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8"));
  const backbone = await Backbone.create("plain-unet", { width: 16, depth: 3 });
  const model = await LayerEnsemble.create(backbone, { inputSize: [768, 768], device: "cpu" });
  await model.save(slow, { ...notes, preprocessing: { ...notes.preprocessing, size: [768, 768] } });
  await model.dispose();
  await backbone.dispose();
  png = await encodePng({ data: Uint8Array.from({ length: 1600 }, (_, i) => (i * 7) % 256), shape: [40, 40] });
}, 180_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const OUTPUTS = "entropy,variance,probabilities,mutualInformation,expectedEntropy";
interface Answered {
  status: number | undefined;
  error?: string;
}
/** A request with a body, whose end is told. */
function post(server: RunningServer, body: Buffer, type = "image/png") {
  const request = http.request(`${server.base}/v1/predict?outputs=mask`, {
    method: "POST",
    headers: { "content-type": type },
  });
  const answered = new Promise<Answered>((resolve) => {
    request.on("error", (error: NodeJS.ErrnoException) => resolve({ status: undefined, error: error.code ?? "" }));
    request.on("response", (response) => {
      response
        .resume()
        .on("end", () => resolve({ status: response.statusCode }))
        .on("error", () => resolve({ status: undefined }));
    });
  });
  request.end(body);
  return { request, answered };
}

/** The same with so many images, which the slow run takes a while for. */
function postMany(server: RunningServer, count: number) {
  const part = Buffer.concat([
    Buffer.from('--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'),
    png,
    Buffer.from("\r\n"),
  ]);
  const body = Buffer.concat([...new Array<Buffer>(count).fill(part), Buffer.from("--b--\r\n")]);
  return post(server, body, "multipart/form-data; boundary=b");
}

/** A connection that sends as it is told, and reads only if it is told. */
async function connection(server: RunningServer, text: string, reads = true) {
  const socket = net.connect({ port: server.port, host: "127.0.0.1" });
  socket.on("error", () => {});
  let received = "";
  if (reads)
    socket.setEncoding("latin1").on("data", (part: string) => {
      received += part;
    });
  else socket.pause();
  const closed = new Promise<void>((resolve) => socket.on("close", () => resolve()));
  await new Promise((resolve) => socket.write(text, resolve));
  return { socket, closed, received: () => received };
}
const HEAD = (bytes: number, query = "outputs=mask", more = "") =>
  `POST /v1/predict?${query} HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n${more}Content-Length: ${bytes}\r\n\r\n`;
/** Asks for arrays of many megabytes, and does not read them. */
async function unread(server: RunningServer) {
  const large = blankPng(1200, 1200);
  const asked = await connection(
    server,
    HEAD(large.length, `outputs=${OUTPUTS}`, "Accept: application/x-npz\r\n"),
    false,
  );
  asked.socket.write(large);
  await until(async () => (await metric(server, 'stage_seconds_count{stage="finish"}')) >= 2);
  return asked;
}

async function metric({ base }: RunningServer, name: string): Promise<number> {
  const text = await (await fetch(`${base}/metrics`)).text();
  return Number(
    text
      .split("\n")
      .find((line) => line.startsWith(`layer_ensembles_${name}`))
      ?.split(" ")
      .at(-1) ?? 0,
  );
}
const until = async (fits: () => Promise<boolean>) => {
  while (!(await fits())) await new Promise((resolve) => setTimeout(resolve, 2));
};
/** Its image is with the model. */
const predicting = (server: RunningServer, before = 0) =>
  until(
    async () =>
      (await metric(server, 'stage_seconds_count{stage="prepare"}')) === before + 1 &&
      (await metric(server, "queue_waiting")) === 0,
  );
const accepted = (server: RunningServer) => metric(server, "queue_accepted");

describe("the end, by SIGTERM, comes", () => {
  it("while a body is on its way: the rest is read, and 503 is answered", async () => {
    const server = await startServer([run, "--linger", "0"]);
    const { socket, received, closed } = await connection(server, HEAD(png.length));
    socket.write(png.subarray(0, 50));
    expect((await fetch(`${server.base}/livez`)).status).toBe(200);
    server.child.kill("SIGTERM");
    await server.line(({ msg }) => msg.startsWith("stopping"));
    // Those that idle by then have been closed; the end must not wait until this one has idled for long enough.
    await until(() =>
      fetch(server.base).then(
        () => false,
        () => true,
      ),
    );
    socket.write(png.subarray(50));
    await closed;
    expect(received()).toMatch(/^HTTP\/1\.1 503 /);
    expect(await server.ended).toBe(0);
  });

  it("though a body never comes", async () => {
    const server = await startServer([run, "--linger", "0", "--timeout", "1"]);
    await connection(server, `${HEAD(100_000)}x`);
    expect((await fetch(`${server.base}/livez`)).status).toBe(200);
    server.child.kill("SIGTERM");
    expect(await server.ended).toBe(0);
  });

  it("while an image waits for company: it waits no longer, and is answered", async () => {
    const server = await startServer([run, "--linger", "0", "--max-batch", "8", "--max-delay", "20000"]);
    const { answered } = post(server, png);
    await until(async () => (await metric(server, "queue_waiting")) === 1);
    server.child.kill("SIGTERM");
    expect(await answered).toEqual({ status: 200 });
    expect(await server.ended).toBe(0);
  });

  it("while an image is decoded, and while it is predicted: it is answered", async () => {
    for (const stage of ["decoded", "predicted"]) {
      const server = await startServer([stage === "decoded" ? run : slow, "--linger", "0"]);
      const { answered } = post(server, stage === "decoded" ? blankPng(4000, 4000) : png);
      await (stage === "decoded" ? until(async () => (await accepted(server)) === 1) : predicting(server));
      server.child.kill("SIGTERM");
      expect(await answered, stage).toEqual({ status: 200 });
      expect(await server.ended, stage).toBe(0);
    }
  });

  it("though the client does not read its answer", async () => {
    const server = await startServer([run, "--linger", "0", "--timeout", "5"]);
    const { socket, closed } = await unread(server);
    server.child.kill("SIGTERM");
    expect(await server.ended).toBe(0);
    socket.resume();
    await closed;
  });

  it("while a run is loaded again", async () => {
    const server = await startServer([run, "--linger", "0"]);
    server.child.kill("SIGHUP");
    expect((await fetch(`${server.base}/livez`)).status).toBe(200);
    server.child.kill("SIGTERM");
    expect(await server.ended).toBe(0);
  });
});

describe("the time of a request ends", () => {
  it("while its body is on its way", async () => {
    const server = await startServer([run, "--timeout", "0.5"]);
    const { received, closed } = await connection(server, `${HEAD(100_000)}x`);
    await closed;
    expect(received()).toMatch(/^HTTP\/1\.1 408 /);
    expect(await post(server, png).answered).toEqual({ status: 200 });
  });

  it("while it is predicted, and the pass with it", async () => {
    const server = await startServer([slow, "--timeout", "0.5"]);
    expect(await postMany(server, 16).answered).toEqual({ status: 503 });
    await until(async () => (await accepted(server)) === 0);
    expect(await metric(server, 'rejections_total{code="ERR_LE_TIMEOUT"}')).toBe(1);
  });

  it("while its answer is sent, of which nothing stays", async () => {
    const server = await startServer([run, "--timeout", "3"]);
    const { socket, closed } = await unread(server);
    await server.line(({ msg }) => msg === "client gone");
    socket.resume();
    await closed;
    expect(await accepted(server)).toBe(0);
    expect(await post(server, png).answered).toEqual({ status: 200 });
  });
});

describe("a client leaves", () => {
  it("while its image is predicted: nobody else loses by it, and the next one is answered", async () => {
    const server = await startServer([slow, "--max-batch", "1"]);
    const first = postMany(server, 8);
    await until(async () => (await accepted(server)) === 8 && (await metric(server, "queue_waiting")) < 8);
    first.request.destroy();
    const second = post(server, png);
    expect((await server.line(({ msg }) => msg === "client gone")).status).toBe(499);
    expect(await second.answered).toEqual({ status: 200 });
    await until(async () => (await accepted(server)) === 0);
    expect(await metric(server, 'rejections_total{code="ERR_LE_ABORTED"}')).toBe(1);
  });
});

it("counts a client that leaves in the middle of its body once, as such", async () => {
  const server = await startServer([run]);
  const { socket } = await connection(server, `${HEAD(100_000)}x`);
  expect((await fetch(`${server.base}/livez`)).status).toBe(200);
  socket.destroy();
  expect((await server.line(({ msg }) => msg === "client gone")).status).toBe(499);
  const lines = (await (await fetch(`${server.base}/metrics`)).text()).split("\n");
  expect(lines.filter((line) => line.startsWith("layer_ensembles_rejections_total"))).toEqual([
    'layer_ensembles_rejections_total{code="ERR_LE_ABORTED"} 1',
  ]);
});

describe("a client that leaves while its answer is sent", () => {
  it.each(["closes", "resets"])("is told of as such where it %s its connection", async (how) => {
    const server = await startServer([run]);
    const { socket } = await unread(server);
    if (how === "closes") socket.destroy();
    else socket.resetAndDestroy();
    expect((await server.line(({ msg }) => msg === "client gone")).status).toBe(499);
    expect(server.log.filter(({ msg, url }) => msg === "answered" && String(url).startsWith("/v1"))).toEqual([]);
    expect(await metric(server, 'rejections_total{code="ERR_LE_ABORTED"}')).toBe(1);
    expect(await metric(server, 'request_seconds_count{route="/v1/predict",status="499"}')).toBe(1);
    expect(await post(server, png).answered).toEqual({ status: 200 });
  });
});

it("has no word of a request in its metrics", async () => {
  const server = await startServer([run]);
  const series = async () => {
    const text = await (await fetch(`${server.base}/metrics`)).text();
    // What is not a comment is a series: a name, labels without line breaks, a number.
    const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    for (const line of lines)
      expect(line).toMatch(/^[a-z_:][\w:]*(\{\w+="[^"\\\n]*"(,\w+="[^"\\\n]*")*\})? [-+\w.]+$/i);
    return lines.map((line) => line.replace(/ \S+$/, "")).filter((line) => !line.startsWith("node"));
  };
  const evil = (n: number) => `evil${n}"} 1\nfake_metric{x="y`;
  const send = (n: number) => {
    const name = encodeURIComponent(evil(n));
    const form = (field: string, file: string) =>
      Buffer.from(
        `--b\r\nContent-Disposition: form-data; name="${field}"; filename="${file}"\r\n\r\n${png.toString("latin1")}\r\n--b--\r\n`,
        "latin1",
      );
    return [
      fetch(`${server.base}/${name}`),
      fetch(`${server.base}/v2/models/${name}`),
      fetch(`${server.base}/v2/models/${name}/infer`, { method: "POST", body: "{}" }),
      fetch(`${server.base}/v2/models/tiny/infer`, {
        method: "POST",
        body: JSON.stringify({ id: evil(n), inputs: [{ name: evil(n), shape: [1], datatype: evil(n), data: [1] }] }),
      }),
      fetch(`${server.base}/v1/predict?model=${name}`, { method: "POST", body: new Uint8Array(png) }),
      fetch(`${server.base}/v1/predict?outputs=${name}&fusion=${name}`, { method: "POST", body: new Uint8Array(png) }),
      fetch(`${server.base}/v1/predict?outputs=mask`, {
        method: "POST",
        body: new Uint8Array(png),
        headers: { "content-type": "image/png", "x-request-id": `evil${n}`, "user-agent": `evil${n}` },
      }),
      fetch(`${server.base}/v1/predict?outputs=mask`, {
        method: "POST",
        body: new Uint8Array(form(`evil${n}`, `evil${n}.png`)),
        headers: { "content-type": "multipart/form-data; boundary=b" },
      }),
      fetch(`${server.base}/v1/predict`, { method: `EVIL${n}` }).catch(() => {}),
    ];
  };
  await Promise.all(send(0));
  await series(); // which is counted, too
  const before = await series();
  for (let n = 1; n < 10; n++) await Promise.all(send(n));
  const after = await series();
  expect(after.sort()).toEqual(before.sort());
  expect(after.filter((line) => /evil|fake/i.test(line))).toEqual([]);
});
