// The server as a client has it: a real process, a real (tiny) run, HTTP.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { unzipSync } from "fflate";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hostileRequests, sendRaw } from "../../bench/hostile.mjs";
import type { NdArray } from "../../lib/arrays.js";
import { encodePng } from "../../lib/data/encode-png.js";
import { decodeImage } from "../../lib/data/image.js";
import { parseNpy } from "../../lib/data/npy.js";
import { encodeNpy } from "../../lib/data/npy-file.js";
import { withOrientation } from "../../lib/data/png.js";
import { fileItems, infer, openRun, type Result } from "../../lib/inference/inference.js";
import { type PixelSets, pixelSets } from "../../lib/metrics/index.js";
import { cli } from "../support/cli.js";
import { balls } from "../support/model.js";
import { type RunningServer, startServer, tinyRun } from "../support/serve.js";

let folder: string;
let run: string;
let images: { file: string; bytes: Buffer; offline: Result }[];
const inside = (...parts: string[]) => path.join(folder, ...parts);

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-serve-"));
  ({ run } = await tinyRun(folder));
  // Images of several sizes, and what the command line would say of them.
  const files: string[] = [];
  for (const [i, [height, width]] of [
    [40, 40],
    [57, 31],
    [20, 90],
    [64, 64],
  ].entries() as Iterable<[number, [number, number]]>) {
    const picture = {
      data: Uint8Array.from({ length: height * width }, (_, k) => (k * (7 + i) + (k >> 4) * 13) % 256),
      shape: [height, width],
    };
    files.push(inside(`${i}.png`));
    writeFileSync(files[i] as string, await encodePng(picture));
  }
  const { model, notes } = await openRun(run, { device: "cpu", precision: "fp32" });
  images = [];
  const { signal } = new AbortController();
  for await (const offline of infer(model, await fileItems(files, notes), { signal, batchSize: 1 })) {
    const file = files[images.length] as string;
    images.push({ file, bytes: readFileSync(file), offline });
  }
  await model.dispose();
}, 120_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** `fetch`, whose JSON may be anything. */
const ask = fetch as unknown as (
  url: string,
  init?: RequestInit,
) => Promise<Omit<Response, "json"> & { json(): Promise<ReturnType<typeof JSON.parse>> }>;

const predict = (base: string, body: Buffer | FormData, { query = "", ...headers }: Record<string, string> = {}) =>
  ask(`${base}/v1/predict${query}`, {
    method: "POST",
    body: body as RequestInit["body"],
    headers: { ...(body instanceof Buffer && { "content-type": "image/png" }), ...headers },
  });

/** Labels of a mask picture of two classes. */
async function labels(base64: string): Promise<NdArray<Uint8Array>> {
  const { data, shape } = await decodeImage(Buffer.from(base64, "base64"), "mask");
  return { data: Uint8Array.from(data, (value) => value / 255), shape: shape.slice(1) };
}

const metric = async ({ base }: RunningServer, name: string) =>
  Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "m").exec(await (await ask(`${base}/metrics`)).text())?.[1]);

describe("a server", () => {
  let server: RunningServer;
  beforeAll(async () => {
    server = await startServer(
      [run, "--precision", "fp32", "--gate", "aulaNormalised:0.4", "--max-body", "1", "--timeout", "5"],
      true,
    );
  });
  afterAll(() => void server.child.kill("SIGKILL"));

  it("answers with the offline prediction, at the stored size, with a decision and its reasons", async () => {
    for (const { bytes, offline } of images) {
      const response = await predict(server.base, bytes, { query: "?outputs=mask,probabilities,entropy,overlay" });
      expect(response.status).toBe(200);
      const { model, version, images: answers } = await response.json();
      expect({ model, version }).toEqual({ model: "tiny", version: 1 });
      const [answer] = answers;
      expect(answer.aula.value).toBeCloseTo(offline.prediction.aula?.value as number, 6);
      expect(await labels(answer.files.mask.data)).toEqual(offline.mask);
      expect(Object.keys(answer.files).sort()).toEqual([
        "entropy",
        "mask",
        "overlay",
        expect.stringMatching(/^probabilities\./),
      ]);
      const area = offline.mask.data.reduce((sum, label) => sum + label, 0);
      expect(Object.values(answer.area)).toEqual([offline.mask.data.length - area, area]);
      const { normalised, empty } = offline.prediction.aula as NonNullable<Result["prediction"]["aula"]>;
      expect(answer.decision).toBe(empty || normalised < 0.4 ? "review" : "accept");
      expect(answer.reasons.map(({ code }: { code: string }) => code)).toEqual([
        ...(empty ? ["empty"] : []),
        ...(normalised < 0.4 ? ["low-score"] : []),
      ]);
      expect(answer.score).toEqual({ name: "aulaNormalised", value: expect.closeTo(normalised, 6), threshold: 0.4 });
    }
  });

  it("answers with inner and outer masks by their thresholds, counted, and draws them", async () => {
    const { bytes, offline } = images[0] as (typeof images)[0];
    const expected = pixelSets(offline.probabilities, { inner: 0.2, outer: 0.9 })[1] as Required<PixelSets>;
    const of = (query: string) => predict(server.base, bytes, { query });
    const [answer] = (await (await of("?outputs=inner,outer,overlay&sets=0.2,0.9")).json()).images;
    for (const name of ["inner", "outer"] as const) {
      expect(await labels(answer.files[name].data)).toEqual(expected[name]);
      expect(Object.values<Record<string, number>>(answer.sets)[0]?.[name]).toBe(
        expected[name].data.reduce((sum, one) => sum + one, 0),
      );
    }
    const [plain] = (await (await of("?outputs=overlay&sets=0.2,0.9")).json()).images;
    expect(plain.files.overlay.data).not.toBe(answer.files.overlay.data);
    expect(plain).not.toHaveProperty("sets");
    const [alone] = (await (await of("?outputs=outer,inner&sets=none,1")).json()).images;
    expect(Object.keys(alone.files)).toEqual(["outer"]);
    expect(Object.values(alone.sets)).toEqual([{ outer: offline.mask.data.length }]);
    // All that is predicted is the mask, in the file's own order too.
    const turned = withOrientation((images[1] as (typeof images)[0]).bytes, 6);
    const all = await predict(server.base, turned, { query: "?outputs=mask,inner&sets=1,1" });
    const { mask, inner } = (await all.json()).images[0].files;
    expect(inner).toEqual(mask);
    const npz = await predict(server.base, bytes, {
      query: "?outputs=outer&sets=0.2,0.9",
      accept: "application/x-npz",
    });
    expect(npz.status).toBe(200);
    for (const query of [
      "?outputs=inner",
      "?outputs=outer&sets=0.9,0.2",
      "?sets=1",
      "?sets=10,95",
      "?sets=a,b",
      "?sets=0.1,0.2&sets=0.1,0.2",
    ]) {
      const refused = await of(query);
      expect([query, refused.status, (await refused.json()).error.code]).toEqual([query, 400, "ERR_LE_OPTION"]);
    }
  });

  it("takes several files in a form, and many at a time, and mixes none up", async () => {
    const form = new FormData();
    for (const [i, { bytes }] of images.entries()) form.append("file", new Blob([new Uint8Array(bytes)]), `${i}.png`);
    const requests = Array.from({ length: 6 }, () => predict(server.base, form, { query: "?outputs=mask" }));
    for (const response of await Promise.all(requests)) {
      const { images: answers } = await response.json();
      expect(answers.map(({ name }: { name: string }) => name)).toEqual(["0.png", "1.png", "2.png", "3.png"]);
      for (const [i, { offline }] of images.entries())
        expect(await labels(answers[i].files.mask.data)).toEqual(offline.mask);
    }
  });

  it("reads .npy arrays, and answers as .npz and as a form", async () => {
    const { bytes, offline } = images[1] as (typeof images)[0];
    const { data, shape } = await decodeImage(bytes, "image");
    const array = encodeNpy({ data: data as Uint8Array, shape });
    const query = "?outputs=mask,probabilities,entropy";
    const archive = await predict(server.base, array, {
      query,
      "content-type": "application/x-npy",
      accept: "application/x-npz",
    });
    expect(archive.headers.get("content-type")).toBe("application/x-npz");
    const entries = unzipSync(new Uint8Array(await archive.arrayBuffer()));
    expect(parseNpy(entries["mask.npy"] as Uint8Array, "mask")).toEqual(offline.mask);
    const probabilities = parseNpy(entries["probabilities.npy"] as Uint8Array, "probabilities");
    expect(probabilities.shape).toEqual(offline.probabilities.shape);
    probabilities.data.forEach((value, i) => {
      expect(value).toBeCloseTo(offline.probabilities.data[i] as number, 5);
    });
    expect(JSON.parse(Buffer.from(entries["answer.json"] as Uint8Array).toString()).images[0].files.mask.part).toBe(
      "mask",
    );

    const form = await (await predict(server.base, bytes, { query, accept: "multipart/form-data" })).formData();
    const answer = JSON.parse(String(await (form.get("answer") as Blob | string)));
    expect(answer.images[0].aula.value).toBeCloseTo(offline.prediction.aula?.value as number, 6);
    const mask = Buffer.from(await (form.get("0.mask") as File).arrayBuffer()).toString("base64");
    expect(await labels(mask)).toEqual(offline.mask);
  });

  it("answers in the form that is wanted most, and by 406 where it has none that is wanted", async () => {
    const { bytes } = images[0] as (typeof images)[0];
    const accept = "text/html, application/json;q=0.2, application/x-npz;q=0.4";
    expect((await predict(server.base, bytes, { accept })).headers.get("content-type")).toBe("application/x-npz");
    const refused = await predict(server.base, bytes, { accept: "text/html, application/json;q=0" });
    expect(refused.status).toBe(406);
    expect((await refused.json()).error.message).toMatch(/application\/json.*multipart\/form-data.*application\/x-npz/);
  });

  it("takes the options of a prediction, and names the one that is meant", async () => {
    const { bytes } = images[0] as (typeof images)[0];
    const { images: answers } = await (
      await predict(server.base, bytes, { query: "?skip=1&fusion=vote&model=tiny" })
    ).json();
    const all = (await (await predict(server.base, bytes)).json()).images[0].heads;
    expect(answers[0].heads).toEqual(all.slice(1));
    const wrong = await predict(server.base, bytes, { query: "?fusoin=vote" });
    expect(wrong.status).toBe(400);
    expect((await wrong.json()).error).toMatchObject({
      code: "ERR_LE_OPTION",
      message: expect.stringContaining("'fusion'"),
    });
    const unknown = await predict(server.base, bytes, { query: "?model=tinyy" });
    expect(unknown.status).toBe(404);
    expect((await unknown.json()).error.message).toContain("Did you mean tiny?");
  });

  it("keeps the request's id in the answer, the error and the log", async () => {
    const { bytes } = images[0] as (typeof images)[0];
    expect((await predict(server.base, bytes, { "x-request-id": "abc-1" })).headers.get("x-request-id")).toBe("abc-1");
    expect(await server.line(({ reqId }) => reqId === "abc-1")).toMatchObject({
      status: 200,
      model: "tiny",
      images: 1,
      url: "/v1/predict",
    });
    const refused = await predict(server.base, Buffer.from("no"), { "x-request-id": "abc-2" });
    expect((await refused.json()).requestId).toBe("abc-2");
    const forged = await predict(server.base, bytes, { "x-request-id": 'a" b' });
    expect(forged.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
  });

  it("tells of health, models and metrics", async () => {
    const get = async (url: string) => (await ask(`${server.base}${url}`)).json();
    expect(await get("/livez")).toEqual({ status: "alive" });
    expect(await get("/readyz")).toEqual({ status: "ready" });
    expect((await get("/v1/models")).models).toMatchObject([
      { name: "tiny", version: 1, classes: expect.any(Array), gate: { score: "aulaNormalised", threshold: 0.4 } },
    ]);
    const before = await metric(server, "layer_ensembles_aula_normalised_count");
    await predict(server.base, (images[0] as (typeof images)[0]).bytes);
    expect(await metric(server, "layer_ensembles_aula_normalised_count")).toBe(before + 1);
    for (const name of [
      "mean_entropy",
      "foreground_share",
      "pairwise_agreement",
      "batch_size",
      "request_seconds",
      "stage_seconds",
    ])
      expect(await metric(server, `layer_ensembles_${name}_count`), name).toBeGreaterThan(0);
    expect(await metric(server, "layer_ensembles_queue_accepted")).toBe(0);
    expect(await metric(server, "layer_ensembles_images_total")).toBeGreaterThan(0);
  });

  describe("Open Inference Protocol", () => {
    const post = (body: string | Buffer, headers: Record<string, string> = {}, url = "/v2/models/tiny/infer") =>
      ask(`${server.base}${url}`, {
        method: "POST",
        body: body as RequestInit["body"],
        headers: { "content-type": "application/json", ...headers },
      });

    it("answers a request in JSON", async () => {
      const { bytes, offline } = images[2] as (typeof images)[0];
      const { data, shape } = await decodeImage(bytes, "image");
      const response = await post(
        JSON.stringify({
          id: "42",
          inputs: [{ name: "image", shape: [1, ...shape], datatype: "UINT8", data: [...data] }],
          outputs: [{ name: "mask" }, { name: "aula" }, { name: "decision" }, { name: "empty" }],
        }),
      );
      expect(response.status).toBe(200);
      const { aula } = offline.prediction;
      expect(await response.json()).toEqual({
        model_name: "tiny",
        model_version: "1",
        id: "42",
        outputs: [
          { name: "mask", datatype: "UINT8", shape: [1, 20, 90], data: [...offline.mask.data] },
          { name: "aula", datatype: "FP64", shape: [1], data: [expect.closeTo(aula?.value as number, 6)] },
          { name: "decision", datatype: "BYTES", shape: [1], data: [expect.stringMatching(/^(accept|review)$/)] },
          { name: "empty", datatype: "BOOL", shape: [1], data: [aula?.empty] },
        ],
      });
    });

    it("answers a batch with binary tensors, byte for byte as the extension says", async () => {
      const { bytes, offline } = images[0] as (typeof images)[0];
      const { data } = await decodeImage(bytes, "image");
      const pixels = Buffer.from(new Float32Array([...data, ...data]).buffer);
      const header = Buffer.from(
        JSON.stringify({
          inputs: [
            { name: "image", shape: [2, 1, 40, 40], datatype: "FP32", parameters: { binary_data_size: pixels.length } },
          ],
          parameters: { binary_data_output: true },
          outputs: [
            { name: "probabilities" },
            { name: "decision" },
            { name: "soft_dice_confidence", parameters: { binary_data: false } },
            { name: "mask" },
          ],
        }),
      );
      const response = await post(Buffer.concat([header, pixels]), {
        "content-type": "application/octet-stream",
        "inference-header-content-length": String(header.length),
      });
      expect(response.status).toBe(200);
      expect(response.headers.get("content-type")).toBe("application/octet-stream");
      const body = Buffer.from(await response.arrayBuffer());
      const length = Number(response.headers.get("inference-header-content-length"));
      const { outputs } = JSON.parse(body.subarray(0, length).toString());
      const sizes = outputs.map(
        ({ parameters }: { parameters?: { binary_data_size: number } }) => parameters?.binary_data_size,
      );
      expect(sizes).toEqual([2 * 2 * 1600 * 4, 2 * 10, undefined, 2 * 1600]);
      expect(body.length).toBe(length + sizes[0] + sizes[1] + sizes[3]);
      const floats = new Float32Array(new Uint8Array(body.subarray(length, length + sizes[0])).buffer);
      const expected = [...offline.probabilities.data, ...offline.probabilities.data];
      floats.forEach((value, i) => {
        expect(value).toBeCloseTo(expected[i] as number, 5);
      });
      const text = body.subarray(length + sizes[0], length + sizes[0] + 20);
      expect(text.readUInt32LE(0)).toBe(6);
      expect(text.toString("latin1", 4, 10)).toMatch(/^(accept|review)$/);
      expect(outputs[2].data).toHaveLength(2);
      expect(new Uint8Array(body.subarray(-3200))).toEqual(
        new Uint8Array([...offline.mask.data, ...offline.mask.data]),
      );
    });

    it("describes the server and the model, and gives all outputs without a choice", async () => {
      const get = async (url: string) => (await ask(`${server.base}${url}`)).json();
      expect(await get("/v2")).toMatchObject({ name: "layer-ensembles", extensions: ["binary_tensor_data"] });
      expect(await get("/v2/health/live")).toMatchObject({ live: true });
      expect(await get("/v2/health/ready")).toMatchObject({ ready: true });
      expect(await get("/v2/models/tiny/ready")).toEqual({ name: "tiny", ready: true });
      const { inputs, outputs, versions } = await get("/v2/models/tiny/versions/1");
      expect(versions).toEqual(["1"]);
      expect(inputs).toEqual([{ name: "image", datatype: "FP32", shape: [-1, 1, -1, -1] }]);
      const data = Array.from({ length: 64 }, (_, i) => i);
      const answer = await (
        await post(
          JSON.stringify({
            inputs: [
              { name: "image", shape: [1, 1, 8, 8], datatype: "FP64", data: [[[data.slice(0, 8)]], data.slice(8)] },
            ],
          }),
        )
      ).json();
      for (const [i, { name, datatype, shape }] of outputs.entries()) {
        expect(answer.outputs[i]).toMatchObject({ name, datatype });
        const concrete: number[] = answer.outputs[i].shape;
        expect(concrete.map((side, axis) => (shape[axis] === -1 ? -1 : side))).toEqual(shape);
        expect(answer.outputs[i].data).toHaveLength(concrete.reduce((product, side) => product * side, 1));
      }
    });

    it("says what is wrong in the protocol's own form", async () => {
      const response = await post(JSON.stringify({ inputs: [] }));
      expect(response.status).toBe(400);
      expect(await response.json()).toEqual({ error: expect.stringContaining('"image"') });
      expect((await post("{}", {}, "/v2/models/none/infer")).status).toBe(404);
      expect((await post("{}", {}, "/v2/models/tiny/versions/9/infer")).status).toBe(404);
    });
  });

  it("answers hostile requests with 4xx, and goes on", async () => {
    const { bytes, offline } = images[0] as (typeof images)[0];
    const make = hostileRequests(bytes, 250, "tiny");
    let next = 0;
    const worker = async () => {
      while (next < 250) {
        const { name, ...request } = make(next++);
        const status = await sendRaw(server.port, request);
        expect(status >= 400 && status < 500, `${name}: ${status}`).toBe(true);
      }
    };
    await Promise.all(Array.from({ length: 8 }, worker));
    const { images: answers } = await (await predict(server.base, bytes)).json();
    expect(await labels(answers[0].files.mask.data)).toEqual(offline.mask);
    expect(await metric(server, "layer_ensembles_queue_accepted")).toBe(0);
  });
});

describe("limits", () => {
  it("refuses more than it has room for, at once, with 503 and Retry-After", async () => {
    // One image fills the queue, and waits a long time for company.
    const server = await startServer([run, "--max-queue", "1", "--max-batch", "2", "--max-delay", "3000"]);
    const { bytes } = images[0] as (typeof images)[0];
    const first = predict(server.base, bytes);
    while ((await metric(server, "layer_ensembles_queue_accepted")) !== 1);
    const second = await predict(server.base, bytes);
    expect(second.status).toBe(503);
    expect(Number(second.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
    expect((await second.json()).error.code).toBe("ERR_LE_BUSY");
    const large = await predict(server.base, Buffer.concat([bytes, Buffer.alloc(300_000)]));
    expect(large.status).toBe(503);
    expect((await first).status).toBe(200);
    expect(await metric(server, "layer_ensembles_rejections_total")).toBe(2);
  });

  it("gives up in time, and forgets who has gone", async () => {
    const server = await startServer([run, "--timeout", "0.5", "--max-batch", "8", "--max-delay", "20000"]);
    const { bytes } = images[0] as (typeof images)[0];
    const late = await predict(server.base, bytes);
    expect(late.status).toBe(503);
    expect((await late.json()).error.code).toBe("ERR_LE_TIMEOUT");
    const request = http.request(`${server.base}/v1/predict`, {
      method: "POST",
      headers: { "content-type": "image/png" },
    });
    request.on("error", () => {});
    request.end(bytes);
    while ((await metric(server, "layer_ensembles_queue_waiting")) !== 1);
    request.destroy();
    while ((await metric(server, "layer_ensembles_queue_accepted")) !== 0);
    expect((await server.line(({ msg }) => msg === "client gone")).status).toBe(499);
  });

  it("bounds images by pixels, before they are decoded", async () => {
    const server = await startServer([run, "--max-pixels", "2000", "--workers", "0"]);
    const [small, , , large] = images as [(typeof images)[0], unknown, unknown, (typeof images)[0]];
    expect((await predict(server.base, small.bytes)).status).toBe(200);
    const refused = await predict(server.base, large.bytes);
    expect(refused.status).toBe(413);
    expect((await refused.json()).error).toEqual({
      code: "ERR_LE_TOO_LARGE",
      message: expect.stringContaining("64×64"),
    });
    const array = encodeNpy({ data: new Uint8Array(2001), shape: [1, 2001] });
    expect((await predict(server.base, array, { "content-type": "application/x-npy" })).status).toBe(413);
  });
});

describe("runs", () => {
  it("serves several under names, takes a run's own gate, and needs to be told which", async () => {
    const gated = inside("gated");
    await cp(run, gated, { recursive: true });
    const json = JSON.parse(readFileSync(path.join(gated, "run.json"), "utf8"));
    writeFileSync(
      path.join(gated, "run.json"),
      JSON.stringify({ ...json, gate: { score: "softDiceConfidence", threshold: 1, rule: "test" } }),
    );
    const server = await startServer([`plain=${run}`, gated]);
    const { bytes } = images[0] as (typeof images)[0];
    expect((await predict(server.base, bytes)).status).toBe(400);
    const plain = (await (await predict(server.base, bytes, { query: "?model=plain" })).json()).images[0];
    expect(plain.reasons.map(({ code }: { code: string }) => code)).toContain("no-threshold");
    const other = (await (await predict(server.base, bytes, { query: "?model=gated" })).json()).images[0];
    expect(other).toMatchObject({ decision: "review", score: { name: "softDiceConfidence", threshold: 1 } });
  });

  it("serves volumes as arrays", async () => {
    const volumes = inside("volumes");
    for (const part of ["images", "masks"]) mkdirSync(path.join(volumes, part), { recursive: true });
    const size = [9, 16, 14] as const;
    const rows = balls(4, size).map(({ image, mask }, i) => {
      writeFileSync(path.join(volumes, "images", `v${i}.npy`), encodeNpy({ data: image.data, shape: size }));
      writeFileSync(path.join(volumes, "masks", `v${i}.npy`), encodeNpy(mask));
      return `v${i},${i < 3 ? "train" : "val"}`;
    });
    writeFileSync(path.join(volumes, "split.csv"), `id,split\n${rows.join("\n")}\n`);
    const network = ["--backbone", "unet3d", "--width", "4", "--depth", "2", "--norm", "instance", "--size", "8x16x16"];
    const run3d = inside("run3d");
    const more = ["--epochs", "1", "--device", "cpu", "--precision", "fp32"];
    expect(await cli(["train", "--data", volumes, "--run", run3d, ...network, ...more])).toMatchObject({ code: 0 });
    const file = path.join(volumes, "images", "v3.npy");
    const { model, notes } = await openRun(run3d, { device: "cpu", precision: "fp32" });
    const { signal } = new AbortController();
    const { value: offline } = await infer(model, await fileItems([file], notes), { signal }).next();
    await model.dispose();

    const server = await startServer([run3d, "--precision", "fp32"]);
    const headers = { "content-type": "application/x-npy" };
    const response = await predict(server.base, readFileSync(file), {
      query: "?outputs=mask,entropy,overlay,inner&sets=1,1",
      ...headers,
    });
    const { images: answers } = await response.json();
    expect(answers[0]).toMatchObject({ depth: 9, height: 16, width: 14, cropped: expect.closeTo(1 / 9, 6) });
    const { mask, overlay, inner } = answers[0].files;
    expect(inner).toEqual(mask);
    expect(mask.type).toBe("application/x-npy");
    expect(overlay.type).toBe("image/png");
    expect(parseNpy(Buffer.from(mask.data, "base64"), "mask")).toEqual((offline as Result).mask);
    const flat = await predict(server.base, (images[0] as (typeof images)[0]).bytes);
    expect((await flat.json()).error).toMatchObject({
      code: "ERR_LE_SHAPE",
      message: expect.stringContaining("volume"),
    });
    const { inputs } = await (await ask(`${server.base}/v2/models/run3d`)).json();
    expect(inputs[0].shape).toEqual([-1, 1, -1, -1, -1]);
  });

  it("reloads on SIGHUP without dropping a request; a run that cannot be loaded changes nothing", async () => {
    const moving = inside("moving");
    await cp(run, moving, { recursive: true });
    const server = await startServer([moving, "--precision", "fp32"]);
    let going = true;
    const versions = new Set<number>();
    const client = async (i: number) => {
      while (going) {
        const { bytes, offline } = images[i] as (typeof images)[0];
        const response = await predict(server.base, bytes, { query: "?outputs=mask" });
        expect(response.status).toBe(200);
        const { version, images: answers } = await response.json();
        versions.add(version);
        expect(await labels(answers[0].files.mask.data)).toEqual(offline.mask);
      }
    };
    const clients = [0, 1, 2, 3].map(client);
    server.child.kill("SIGHUP");
    await server.line(({ msg }) => msg === "reloaded");
    while (!versions.has(2)) await new Promise((resolve) => setTimeout(resolve, 5));
    writeFileSync(path.join(moving, "run.json"), "{");
    server.child.kill("SIGHUP");
    await server.line(({ msg }) => msg.startsWith("not reloaded"));
    going = false;
    await Promise.all(clients);
    expect([...versions].sort()).toEqual([1, 2]);
    expect((await (await ask(`${server.base}/v1/models`)).json()).models[0].version).toBe(2);
  });

  it("refuses what is no run, a gate that is none, and names that are the same", async () => {
    expect(await cli(["serve", inside("data")])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("ERR_LE_CHECKPOINT"),
    });
    expect(await cli(["serve", run, "--gate", "alua:3"])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("one of"),
    });
    expect(await cli(["serve", run, run])).toMatchObject({ code: 1, stderr: expect.stringContaining("twice") });
  });
});

describe("the end", () => {
  it("on SIGTERM under load answers all that was accepted, 503 meanwhile, and exits with 0", async () => {
    const server = await startServer([run, "--precision", "fp32"]);
    const agent = new http.Agent({ keepAlive: true });
    const ends: string[] = [];
    let answered = 0;
    const post = (bytes: Buffer) =>
      new Promise<{ status?: number | undefined; code?: string | undefined; body: string }>((resolve) => {
        const request = http.request(
          {
            agent,
            port: server.port,
            host: "127.0.0.1",
            path: "/v1/predict?outputs=mask",
            method: "POST",
            headers: { "content-type": "image/png", "content-length": bytes.length },
          },
          (response) => {
            let body = "";
            response.setEncoding("utf8").on("data", (text: string) => {
              body += text;
            });
            response.on("end", () => resolve({ status: response.statusCode, body }));
            response.on("error", ({ message }) => resolve({ code: message, body }));
          },
        );
        request.on("error", (error: NodeJS.ErrnoException) => resolve({ code: error.code, body: "" }));
        request.end(bytes);
      });
    const client = async (i: number) => {
      for (;;) {
        const { bytes, offline } = images[i % 4] as (typeof images)[0];
        const { status, code, body } = await post(bytes);
        if (status !== 200) return void ends.push(String(status ?? code));
        answered++;
        expect(await labels(JSON.parse(body).images[0].files.mask.data)).toEqual(offline.mask);
      }
    };
    const clients = Array.from({ length: 12 }, (_, i) => client(i));
    while (answered < 30) await new Promise((resolve) => setTimeout(resolve, 5));
    server.child.kill("SIGTERM");
    await Promise.all(clients);
    // A connection that nobody listens for any more was never accepted.
    expect(ends.filter((end) => end !== "503" && end !== "ECONNREFUSED")).toEqual([]);
    expect(await server.ended).toBe(0);
    const accepted = server.log.filter(({ url, status }) => status === 200 && String(url).startsWith("/v1/predict"));
    expect(accepted).toHaveLength(answered);
  });
});
