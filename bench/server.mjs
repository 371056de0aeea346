// How the server behaves under load, overload, hostile requests and at its end. Every answer is checked against the offline
// prediction of the same image.
//   node bench/server.mjs --run RUN --images FOLDER [--parts load,batching,overload,sigterm,hostile] [--seconds 600]
//     [--clients 20] [--hostile 2000] [--rounds 3] [--server "--max-batch 8 …"]
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { decodeImage } from "../dist/data/image.js";
import { fileItems, infer, openRun } from "../dist/inference/inference.js";
import { PACKAGE_ROOT } from "../dist/package.js";
import { hostileRequests, sendRaw } from "./hostile.mjs";

const sharp = createRequire(import.meta.url)("sharp");

const { values: options } = parseArgs({
  options: {
    run: { type: "string" },
    images: { type: "string" },
    parts: { type: "string", default: "load,batching,overload,sigterm,hostile" },
    seconds: { type: "string", default: "600" },
    clients: { type: "string", default: "20" },
    hostile: { type: "string", default: "2000" },
    rounds: { type: "string", default: "3" },
    server: { type: "string", default: "" },
  },
});
if (!options.run || !options.images) {
  process.stderr.write("expected --run RUN --images FOLDER\n");
  process.exit(2);
}
const clients = Number(options.clients);
const say = (text) => process.stdout.write(`${text}\n`);
let failures = 0;
const check = (good, text) => {
  if (!good) failures++;
  say(`  ${good ? "ok  " : "FAIL"} ${text}`);
};

const folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-bench-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

/** Images of mixed sizes, with what the offline prediction says of each. */
async function makeCases() {
  const names = readdirSync(options.images).filter((name) => /\.(png|jpg|tif)$/.test(name));
  const files = [];
  for (const [i, name] of names.slice(0, 12).entries()) {
    const image = sharp(path.join(options.images, name));
    const { width, height } = await image.metadata();
    const scale = [1, 0.75, 2, 4][i % 4];
    const file = path.join(folder, `${i}.png`);
    const resized = await image
      .resize(Math.round(width * scale), Math.round(height * scale), { fit: "fill" })
      .png()
      .toBuffer();
    writeFileSync(file, resized);
    files.push(file);
  }
  const { model, notes } = await openRun(options.run, {});
  const cases = [];
  const signal = new AbortController().signal;
  for await (const { prediction, mask } of infer(model, await fileItems(files, notes), { signal, batchSize: 1 }))
    cases.push({ bytes: readFileSync(files[cases.length]), aula: prediction.aula?.value ?? null, mask });
  await model.dispose();
  return { cases, binary: notes.classNames.length === 2 };
}

/** Starts `serve` on a free port. */
async function start(...more) {
  const args = [
    path.join(PACKAGE_ROOT, "dist/cli/main.js"),
    "serve",
    `model=${options.run}`,
    "--port",
    "0",
    "--log-level",
    "info",
  ];
  const child = spawn(process.execPath, [...args, ...options.server.split(" ").filter(Boolean), ...more], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let rest = "";
  const log = { slowest: 0 };
  const port = await new Promise((resolve, reject) => {
    child.on("exit", () => reject(new Error("the server ended")));
    child.stdout.setEncoding("utf8").on("data", (text) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const { msg, status, ms } = JSON.parse(line);
        const listening = /listening at http:\/\/[\d.]+:(\d+)/.exec(msg);
        if (listening) resolve(Number(listening[1]));
        if (msg === "answered" && status === 200) log.slowest = Math.max(log.slowest, ms);
      }
    });
  });
  const ended = new Promise((resolve) => child.on("close", (code, signal) => resolve(signal ?? code)));
  return {
    port,
    log,
    pid: child.pid,
    ended,
    kill: (signal) => child.kill(signal),
    async stop() {
      child.kill("SIGTERM");
      return ended;
    },
  };
}

/** One POST of bytes; resolves with the answer, or with `error` where the connection failed. `cut`: leave after so many ms. */
function post(agent, port, bytes, { cut, type = "image/png", query = "?outputs=mask" } = {}) {
  return new Promise((resolve) => {
    let started = performance.now();
    const request = http.request(
      {
        agent,
        port,
        host: "127.0.0.1",
        method: "POST",
        path: `/v1/predict${query}`,
        headers: { "content-type": type, "content-length": bytes.length },
      },
      (response) => {
        const parts = [];
        response.on("data", (part) => parts.push(part));
        response.on("error", (error) => resolve({ error }));
        response.on("end", () =>
          resolve({
            status: response.statusCode,
            headers: response.headers,
            body: Buffer.concat(parts),
            ms: performance.now() - started,
          }),
        );
      },
    );
    request.on("error", (error) => resolve({ error, cut: cut !== undefined }));
    // Where the client has more to ask than connections, its own queue does not count.
    request.on("socket", () => {
      started = performance.now();
    });
    request.end(bytes);
    if (cut !== undefined) setTimeout(() => request.destroy(), cut);
  });
}

const largest = { aula: 0, pixels: 0 };
/** Whether an answer is that of its image. Batches of other sizes round differently, so that a pixel at an edge may differ. */
async function isRight({ body }, { aula, mask }, binary) {
  const [image] = JSON.parse(body).images;
  const png = await decodeImage(Buffer.from(image.files.mask.data, "base64"), "mask");
  if (png.shape.slice(1).join() !== mask.shape.join()) return false;
  let different = 0;
  for (let i = 0; i < mask.data.length; i++) if (png.data[i] !== mask.data[i] * (binary ? 255 : 1)) different++;
  const share = different / mask.data.length;
  const distance = aula === null ? 0 : Math.abs(aula - image.aula.value);
  largest.aula = Math.max(largest.aula, distance);
  largest.pixels = Math.max(largest.pixels, share);
  return share < 0.01 && distance < 0.1;
}

function quantile(sorted, q) {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

function residentMiB(pid) {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
}

async function metric(port, name) {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "m").exec(text)?.[1]);
}

/** Clients that ask one request after the other until time is up, or `stop` says so. */
async function drive(server, { cases, binary }, { seconds, bad = 0, disconnects = 0, count = clients, verify = true }) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: count });
  const until = performance.now() + seconds * 1000;
  const seen = { right: 0, wrong: 0, bad: 0, badWrong: 0, cut: 0, other: {}, errors: 0, ms: [] };
  let turn = 0;
  const client = async () => {
    while (performance.now() < until) {
      const n = turn++;
      const one = cases[n % cases.length];
      const kind = (n * 2654435761) % 1000;
      if (kind < bad * 1000) {
        const { status, error } = await post(agent, server.port, one.bytes.subarray(0, one.bytes.length >> 1));
        if (error || status !== 400) seen.badWrong++;
        else seen.bad++;
      } else if (kind < (bad + disconnects) * 1000) {
        await post(agent, server.port, one.bytes, { cut: n % 40 });
        seen.cut++;
      } else {
        const answer = await post(agent, server.port, one.bytes);
        if (answer.error) seen.errors++;
        else if (answer.status !== 200) seen.other[answer.status] = (seen.other[answer.status] ?? 0) + 1;
        else {
          seen.ms.push(answer.ms);
          if (!verify || (await isRight(answer, one, binary))) seen.right++;
          else seen.wrong++;
        }
      }
    }
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: count }, client));
  agent.destroy();
  seen.ms.sort((a, b) => a - b);
  return { ...seen, perSecond: seen.ms.length / ((performance.now() - started) / 1000) };
}

async function load(cases) {
  const seconds = Number(options.seconds);
  say(`load: ${clients} clients, ${seconds} s, ${cases.cases.length} images of mixed sizes, 1 % bad, 1 % leave`);
  const server = await start();
  const memory = [];
  const lag = [];
  const sampling = setInterval(async () => {
    memory.push(residentMiB(server.pid));
    lag.push(await metric(server.port, "nodejs_eventloop_lag_p50_seconds"));
  }, 1000);
  const seen = await drive(server, cases, { seconds, bad: 0.01, disconnects: 0.01 });
  clearInterval(sampling);
  const settled = memory.slice(Math.floor(memory.length * 0.3));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const fifth = Math.max(1, Math.floor(settled.length / 5));
  const [early, late] = [mean(settled.slice(0, fifth)), mean(settled.slice(-fifth))];
  lag.sort((a, b) => a - b);
  say(
    `  ${seen.perSecond.toFixed(1)} images/s; p50 ${quantile(seen.ms, 0.5).toFixed(0)} ms, p99 ${quantile(seen.ms, 0.99).toFixed(0)} ms; ` +
      `event loop, median of p50 (with the timer's own 5 ms): ${(quantile(lag, 0.5) * 1000).toFixed(1)} ms`,
  );
  say(
    `  largest difference from offline: AULA ${largest.aula.toExponential(1)}, share of pixels ${largest.pixels.toExponential(1)}`,
  );
  check(seen.right > 0 && seen.wrong === 0, `${seen.right} right answers, ${seen.wrong} wrong`);
  check(
    seen.errors === 0 && Object.keys(seen.other).length === 0,
    `lost: ${seen.errors}, other statuses: ${JSON.stringify(seen.other)}`,
  );
  check(
    seen.badWrong === 0,
    `${seen.bad} damaged images answered with 400, ${seen.badWrong} otherwise; ${seen.cut} clients left`,
  );
  check(
    late < early * 1.1,
    `memory after warm-up ${early.toFixed(0)} MiB, at the end ${late.toFixed(0)} MiB (largest ${Math.max(...memory).toFixed(0)})`,
  );
  check(quantile(lag, 0.5) < 0.01, "the event loop's p50 delay is under 10 ms");
  check((await metric(server.port, "layer_ensembles_queue_accepted")) === 0, "nothing is left in the queue");
  check((await server.stop()) === 0, "exit code 0");
  return seen.perSecond;
}

async function batching(cases) {
  const seconds = Math.min(20, Number(options.seconds) / 6);
  say(`batching: interleaved rounds of ${seconds.toFixed(0)} s`);
  const [batched, single] = [await start(), await start("--max-batch", "1")];
  const ratios = [];
  const rates = { batched: [], single: [], sequential: [] };
  await drive(batched, cases, { seconds: 2 });
  await drive(single, cases, { seconds: 2 });
  for (let round = 0; round < Number(options.rounds); round++) {
    const one = (await drive(single, cases, { seconds, verify: false })).perSecond;
    const many = (await drive(batched, cases, { seconds, verify: false })).perSecond;
    rates.single.push(one);
    rates.batched.push(many);
    rates.sequential.push((await drive(single, cases, { seconds: seconds / 2, count: 1, verify: false })).perSecond);
    ratios.push(many / one);
  }
  const median = (values) =>
    quantile(
      [...values].sort((a, b) => a - b),
      0.5,
    );
  for (const [name, values] of Object.entries(rates))
    say(`  ${name}: ${values.map((rate) => rate.toFixed(1)).join(", ")} images/s`);
  check(median(ratios) >= 1.3, `batched / one at a time (same clients): ${median(ratios).toFixed(2)}`);
  say(`  batched / one client after the other: ${(median(rates.batched) / median(rates.sequential)).toFixed(2)}`);
  await Promise.all([batched.stop(), single.stop()]);
}

async function overload(cases, capacity) {
  const timeout = 2;
  const server = await start("--max-queue", "32", "--timeout", String(timeout));
  const perSecond = capacity ?? (await drive(server, cases, { seconds: 5 })).perSecond;
  const seconds = Math.min(60, Number(options.seconds) / 3);
  say(`overload: ${(5 * perSecond).toFixed(0)} requests/s for ${seconds.toFixed(0)} s, timeout ${timeout} s`);
  const agent = new http.Agent({ keepAlive: true, maxSockets: 400 });
  const seen = { 200: 0, 503: 0, other: 0, errors: 0, noRetry: 0, wrong: 0, ms: [] };
  const pending = new Set();
  const started = performance.now();
  for (let n = 0; performance.now() - started < seconds * 1000; ) {
    const due = ((performance.now() - started) / 1000) * 5 * perSecond;
    for (; n < due; n++) {
      const one = cases.cases[n % cases.cases.length];
      const work = post(agent, server.port, one.bytes).then(async (answer) => {
        if (answer.error) seen.errors++;
        else if (answer.status === 200) {
          seen[200]++;
          seen.ms.push(answer.ms);
          if (n % 10 === 0 && !(await isRight(answer, one, cases.binary))) seen.wrong++;
        } else if (answer.status === 503) {
          seen[503]++;
          if (!(Number(answer.headers["retry-after"]) >= 1)) seen.noRetry++;
        } else seen.other++;
      });
      pending.add(work);
      void work.finally(() => pending.delete(work));
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await Promise.all(pending);
  agent.destroy();
  seen.ms.sort((a, b) => a - b);
  say(
    `  200: ${seen[200]} (${(seen[200] / seconds).toFixed(1)}/s), 503: ${seen[503]}; p99 of the accepted ${quantile(seen.ms, 0.99).toFixed(0)} ms`,
  );
  check(seen.other === 0 && seen.errors === 0, `other statuses: ${seen.other}, broken connections: ${seen.errors}`);
  check(
    seen[200] > 0 && seen[503] > 0 && seen.noRetry === 0 && seen.wrong === 0,
    "some of both, each 503 with Retry-After, answers right",
  );
  check((await server.stop()) === 0, "exit code 0");
  // The client works on the same cores, so that its clock shows its own delays too.
  const slowest = `slowest accepted ${server.log.slowest.toFixed(0)} ms by the server's clock, ${seen.ms.at(-1)?.toFixed(0)} ms by the client's`;
  check(server.log.slowest < timeout * 1000 + 500, slowest);
}

async function sigterm(cases) {
  say("SIGTERM under load");
  let [right, refused, lost, wrong] = [0, 0, 0, 0];
  for (let round = 0; round < Number(options.rounds); round++) {
    const server = await start();
    const agent = new http.Agent({ keepAlive: true, maxSockets: clients });
    let n = 0;
    const client = async () => {
      for (;;) {
        const one = cases.cases[n++ % cases.cases.length];
        const answer = await post(agent, server.port, one.bytes);
        if (answer.status === 200 && (await isRight(answer, one, cases.binary))) right++;
        else if (answer.status === 200) wrong++;
        else if (answer.status === 503) return refused++;
        // Nothing was accepted where nothing listens any more.
        else return answer.error?.code === "ECONNREFUSED" ? refused++ : lost++;
      }
    };
    const driven = Promise.all(Array.from({ length: clients }, client));
    await new Promise((resolve) => setTimeout(resolve, 1500 + 137 * round));
    server.kill("SIGTERM");
    await driven;
    const code = await server.ended;
    check(code === 0, `round ${round + 1}: exit code ${code}`);
    agent.destroy();
  }
  check(lost === 0 && wrong === 0, `${right} right, ${refused} refused at the end, ${lost} lost, ${wrong} wrong`);
}

async function hostile(cases) {
  const count = Number(options.hostile);
  say(`hostile: ${count} requests`);
  const server = await start("--timeout", "2", "--max-body", "1");
  const statuses = {};
  const bad = [];
  let at = 0;
  const requests = hostileRequests(cases.cases[0].bytes, count);
  const before = residentMiB(server.pid);
  const worker = async () => {
    for (;;) {
      const n = at++;
      if (n >= count) return;
      const { name, ...request } = requests(n);
      const status = await sendRaw(server.port, request);
      statuses[status] = (statuses[status] ?? 0) + 1;
      if (!(status >= 400 && status < 500)) bad.push(`${name}: ${status}`);
    }
  };
  await Promise.all(Array.from({ length: 10 }, worker));
  say(
    `  statuses ${JSON.stringify(statuses)}; memory ${before.toFixed(0)} to ${residentMiB(server.pid).toFixed(0)} MiB`,
  );
  check(bad.length === 0, `only 4xx${bad.length ? `, but ${[...new Set(bad)].slice(0, 8).join("; ")}` : ""}`);
  const agent = new http.Agent();
  const answer = await post(agent, server.port, cases.cases[0].bytes);
  check(
    answer.status === 200 && (await isRight(answer, cases.cases[0], cases.binary)),
    "a good request is answered right",
  );
  check((await server.stop()) === 0, "exit code 0");
}

const cases = await makeCases();
const parts = options.parts.split(",");
const capacity = parts.includes("load") ? await load(cases) : undefined;
if (parts.includes("batching")) await batching(cases);
if (parts.includes("overload")) await overload(cases, capacity);
if (parts.includes("sigterm")) await sigterm(cases);
if (parts.includes("hostile")) await hostile(cases);
say(failures ? `${failures} failed` : "all good");
process.exit(failures ? 1 : 0);
