import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { fetchWeights, imagenetWeights, WEIGHTS_BASE } from "../../lib/ensemble/pretrained.js";
import { temporaryFolder } from "../support/libtorch.js";
import { cutOff, serve, unreachable } from "../support/server.js";

const error = (code: string, message: RegExp) =>
  expect.objectContaining({ name: "LayerEnsemblesError", code, message: expect.stringMatching(message) });
const data = Buffer.alloc(300_000, "weights");
const digits = createHash("sha256").update(data).digest("hex").slice(0, 8);
const name = `net-${digits}.pth`;

describe("weights that are published", () => {
  it("are fetched once, even by two at a time, and checked", async () => {
    const cache = temporaryFolder();
    const { base, requests } = await serve(data);
    const stages: string[] = [];
    const files = await Promise.all(
      [1, 2].map(() => fetchWeights(name, { cache, base, onProgress: ({ stage }) => stages.push(stage) })),
    );
    expect(files).toEqual([path.join(cache, name), path.join(cache, name)]);
    expect(readFileSync(files[0] as string).equals(data)).toBe(true);
    expect(requests).toEqual([{ url: `/${name}`, range: undefined }]);
    expect(new Set(stages)).toEqual(new Set(["download", "check", "wait"]));
    expect(readdirSync(cache)).toEqual([name]);
    await fetchWeights(name, { cache, base: unreachable });
  });

  it("are gone on with where a connection broke", async () => {
    const cache = temporaryFolder();
    const { base, requests } = await serve(data, (n, _, response) => n === 1 && cutOff(response, data, 0, 100_000));
    await fetchWeights(name, { cache, base });
    expect(requests.map(({ range }) => range)).toEqual([undefined, "bytes=100000-"]);
    expect(readdirSync(cache)).toEqual([name]);
  });

  it("are not used where the server sends others, or the cache holds others", async () => {
    const cache = temporaryFolder();
    const { base } = await serve(data);
    const other = "net-00000000.pth";
    const wrong = error("ERR_LE_CHECKPOINT", /SHA-256 that begins with 00000000 for .*net-00000000\.pth but received /);
    await expect(fetchWeights(other, { cache, base })).rejects.toThrow(wrong);
    expect(readdirSync(cache)).toEqual([]);
    writeFileSync(path.join(cache, other), data);
    await expect(fetchWeights(other, { cache, base: unreachable })).rejects.toThrow(wrong);
    expect(existsSync(path.join(cache, other))).toBe(true);
  });

  it("without a network say the address, the place for the file, and the way round", async () => {
    const cache = path.join(temporaryFolder(), "a/b");
    const fetched = imagenetWeights("resnet34", { cache, base: unreachable });
    await expect(fetched).rejects.toThrow(
      error(
        "ERR_LE_IO",
        /127\.0\.0\.1:9\/resnet34-b627a593\.pth but received: .*put it at .*a\/b\/resnet34-b627a593\.pth.*encoderWeights: FILE/,
      ),
    );
    expect(readdirSync(cache)).toEqual([]);
    const { base } = await serve(data, (_, __, response) => {
      response.writeHead(404).end();
      return true;
    });
    await expect(fetchWeights(name, { cache, base })).rejects.toThrow(error("ERR_LE_IO", /HTTP 404/));
    expect(WEIGHTS_BASE).toBe("https://download.pytorch.org/models");
  });

  it("stop at a signal, and need a folder that can be written", async () => {
    const cache = temporaryFolder();
    const { base } = await serve(data);
    const reason = new Error("enough");
    await expect(fetchWeights(name, { cache, base, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    writeFileSync(path.join(cache, "file"), "");
    await expect(fetchWeights(name, { cache: path.join(cache, "file"), base })).rejects.toThrow(
      error("ERR_LE_IO", /put it/),
    );
    mkdirSync(path.join(cache, "x"));
    await expect(imagenetWeights("resnet19" as string)).rejects.toThrow(error("ERR_LE_OPTION", /resnet18/));
  });
});
