// A run whose weights are no numbers, or too large for an answer: refused by the command line and the server, never answered.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cli } from "../support/cli.js";
import { startServer, tinyRun } from "../support/serve.js";

let folder: string;
let made = 0;
let run: string;
let image: string;
const inside = (...names: string[]) => path.join(folder, ...names);
const CPU = ["--device", "cpu"];

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "le-numbers-"));
  const tiny = await tinyRun(folder);
  run = tiny.run;
  image = path.join(tiny.data, "images", "phantom_0001.png");
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A copy of the run with other first numbers in the weights of a layer. */
async function changed(name: string, value: number): Promise<string> {
  const copy = inside(`${name}-${made++}`);
  await cp(run, copy, { recursive: true });
  if (value !== 0) spoil(copy, name, value);
  return copy;
}

function spoil(of: string, name: string, value: number): void {
  const file = path.join(of, "weights.safetensors");
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
  const key = Object.keys(header).find((one) => one.includes(name)) as string;
  const [begin, end] = header[key].data_offsets;
  for (let at = begin; at < (Number.isFinite(value) ? end : begin + 4); at += 4)
    bytes.writeFloatLE(value, 8 + length + at);
  writeFileSync(file, bytes);
}

const commands = (of: string, out: string) => [
  ["predict", "--run", of, "--out", out, image, ...CPU],
  ["evaluate", "--run", of, "--out", out, ...CPU],
  ["tune", of, ...CPU],
  ["compare", of, "--out", out, ...CPU],
];
const post = async (base: string) => {
  const body = readFileSync(image) as RequestInit["body"];
  const response = await fetch(`${base}/v1/predict`, {
    method: "POST",
    body,
    headers: { "content-type": "image/png" },
  });
  return { status: response.status, said: await response.text() };
};

describe.each([
  ["encoder", Number.NaN],
  ["head", Number.POSITIVE_INFINITY],
  ["running_var", Number.NaN],
])("a run with a number of %s that is %d", (name, value) => {
  it("is refused by every command, and by a server before it listens", async () => {
    const [broken, out] = [await changed(name, value), inside(`out-${name}`)];
    const before = readFileSync(path.join(broken, "run.json"));
    for (const args of [...commands(broken, out), ["serve", broken, "--port", "0", ...CPU]]) {
      const { code, stdout, stderr } = await cli(args);
      expect({ code, stdout }, args.join(" ")).toEqual({ code: 1, stdout: "" });
      expect(stderr).toMatch(
        /error \[ERR_LE_CHECKPOINT\]: .*Expected finite numbers for the weights .* in weight '.*\n$/,
      );
    }
    expect(existsSync(out)).toBe(false);
    expect(readFileSync(path.join(broken, "run.json"))).toEqual(before);
  });
});

it("is not taken by a server that reloads", async () => {
  const moving = await changed("none", 0);
  const server = await startServer([moving]);
  expect((await post(server.base)).status).toBe(200);
  spoil(moving, "head", Number.NaN);
  server.child.kill("SIGHUP");
  const { msg } = await server.line(({ msg }) => msg.startsWith("not reloaded"));
  expect(msg).toContain("not reloaded");
  expect((await post(server.base)).status).toBe(200);
});

it("gives no answer where numbers become too large on the way", async () => {
  const [large, out] = [await changed("encoder", 3e38), inside("out-large")];
  for (const args of commands(large, out)) {
    const { code, stdout, stderr } = await cli(args);
    expect({ code, stdout }, args.join(" ")).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/error \[ERR_LE_VALUE\]: Expected finite numbers .*\n$/);
  }
  expect(existsSync(out)).toBe(false);
  const server = await startServer([large]);
  const { status, said } = await post(server.base);
  expect(status).toBe(400);
  expect(JSON.parse(said)).toMatchObject({ error: { code: "ERR_LE_VALUE" } });
});
