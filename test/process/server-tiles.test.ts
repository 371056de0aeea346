// Predictions by tiles over HTTP: as the command line makes them, within what the operator lets a request take.
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { encodePng } from "../../lib/data/encode-png.js";
import { decodeImage } from "../../lib/data/image.js";
import { fileItems, infer, notesAtOwnSize, openRun, type Result } from "../../lib/inference/inference.js";
import { type RunningServer, startServer, tinyRun } from "../support/serve.js";

let folder: string;
let server: RunningServer;
let file: string;
let offline: Result;
const inside = (...parts: string[]) => path.join(folder, ...parts);
const choice = { tile: [16, 16], overlap: 0.25, mirror: ["width"] } as const;

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-serve-tiles-"));
  const { run } = await tinyRun(folder);
  // The same weights in a run whose images kept their scale.
  cpSync(run, inside("own"), { recursive: true });
  const described = JSON.parse(readFileSync(inside("own", "run.json"), "utf8"));
  described.notes.preprocessing.resize = "none-with-pad";
  writeFileSync(inside("own", "run.json"), JSON.stringify(described));
  file = inside("image.png");
  const data = Uint8Array.from({ length: 57 * 31 }, (_, k) => (k * 8 + (k >> 4) * 13) % 256);
  writeFileSync(file, await encodePng({ data, shape: [57, 31] }));
  const { model, notes } = await openRun(inside("own"), { device: "cpu", precision: "fp32" });
  const { signal } = new AbortController();
  for await (const result of infer(model, await fileItems([file], notesAtOwnSize(notes)), { signal, ...choice }))
    offline = result;
  await model.dispose();
  server = await startServer([run, inside("own"), "--precision", "fp32", "--max-passes", "50"], true);
}, 240_000);
afterAll(() => {
  server?.child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

const predict = (query: string) =>
  fetch(`${server.base}/v1/predict?${query}`, { method: "POST", body: new Uint8Array(readFileSync(file)) });
const ERROR = (code: string, message: RegExp) => ({ error: { code, message: expect.stringMatching(message) } });

it("answers as the command line does", async () => {
  const response = await predict("model=own&tile=16x16&overlap=0.25&mirror=width&outputs=mask,entropy");
  const { images } = (await response.json()) as { images: { tiles: object; files: { mask: { data: string } } }[] };
  expect(response.status).toBe(200);
  expect(images[0]?.tiles).toEqual({ size: [16, 16], overlap: 0.25, weights: "gaussian", mirror: ["width"] });
  const { data } = await decodeImage(Buffer.from(images[0]?.files.mask.data as string, "base64"), "mask");
  expect(Array.from(data, (grey) => (grey > 0 ? 1 : 0))).toEqual([...offline.mask.data]);
});

it("answers infer requests by their parameters", async () => {
  const { data, shape } = await decodeImage(readFileSync(file), "image");
  const request = (parameters: object) =>
    fetch(`${server.base}/v2/models/own/infer`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        parameters,
        inputs: [{ name: "image", shape: [1, ...shape], datatype: "UINT8", data: [...data] }],
        outputs: [{ name: "mask" }],
      }),
    });
  const response = await request({ tile: "16x16", overlap: 0.25, mirror: "width" });
  expect(response.status).toBe(200);
  expect(((await response.json()) as { outputs: { data: number[] }[] }).outputs[0]?.data).toEqual([
    ...offline.mask.data,
  ]);
  // As without tiles: an image larger than the input of a run that only pads.
  expect((await request({})).status).toBe(400);
  const wrong = await request({ tile: [16, 16] });
  expect(wrong.status).toBe(400);
  expect(await wrong.json()).toMatchObject({ error: expect.stringMatching(/option 'tile'/) });
});

it("refuses what the operator does not let it take, and what does not fit", async () => {
  const refusals: [string, number, string, RegExp][] = [
    ["model=own&tile=2x2", 413, "ERR_LE_TOO_LARGE", /at most 50 passes .* choose larger tiles/],
    ["model=own&tile=16x16&overlap=0.99", 413, "ERR_LE_TOO_LARGE", /at most 50 passes/],
    ["model=own&tile=16", 400, "ERR_LE_OPTION", /a size such as 256x256/],
    ["model=own&tile=16x16x16", 400, "ERR_LE_OPTION", /2 values/],
    ["model=tiny&overlap=0.5", 400, "ERR_LE_OPTION", /Expected option 'tile' with 'overlap'/],
    ["model=own&tile=auto&overlap=1", 400, "ERR_LE_OPTION", /'overlap'/],
    ["model=own&tile=auto&mirror=depth", 400, "ERR_LE_OPTION", /'mirror'/],
    ["model=tiny&tile=auto", 400, "ERR_LE_OPTION", /images were scaled to 32×32 \(stretch\)/],
  ];
  for (const [query, status, code, message] of refusals) {
    const response = await predict(query);
    expect([query, await response.json()]).toMatchObject([query, ERROR(code, message)]);
    expect([query, response.status]).toEqual([query, status]);
  }
  // Mirroring alone is of the network's input.
  expect((await predict("model=tiny&mirror=height,width")).status).toBe(200);
});
