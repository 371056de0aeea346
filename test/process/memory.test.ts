// Memory of a process that predicts for a long time, as a user's program does: without --expose-gc.
import { spawnSync } from "node:child_process";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { PACKAGE_ROOT } from "../../lib/package.js";

const api = pathToFileURL(path.join(PACKAGE_ROOT, "dist/index.js")).href;

/** Resident size in MB after each hundredth of 1 000 predictions; `body` sets `image` and may use `i`. */
function residentSizes(kind: string, options: object, size: string): number[] {
  const program = `
    const { Backbone, LayerEnsemble } = await import(${JSON.stringify(api)});
    const backbone = await Backbone.create(${JSON.stringify(kind)}, ${JSON.stringify(options)});
    const model = await LayerEnsemble.create(backbone, { device: "cpu", inputSize: [64, 64] });
    const sizes = [];
    for (let i = 0; i < 1000; i++) {
      const [h, w] = ${size};
      const image = { data: Float32Array.from({ length: h * w }, (_, p) => Math.sin(p + i)), shape: [1, h, w] };
      const { mask, maps } = await model.predict(image, { labels: true });
      if (mask.data.length !== h * w || maps.entropy.data.length !== h * w) throw new Error("wrong size");
      if (i % 100 === 99) sizes.push(process.memoryUsage.rss() / 2 ** 20);
    }
    console.log(JSON.stringify(sizes));
  `;
  const child = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    encoding: "utf8",
    timeout: 100_000,
  });
  if (child.status !== 0) throw new Error(`the program ended with ${child.status ?? child.signal}: ${child.stderr}`);
  return JSON.parse(child.stdout);
}

describe("1 000 predictions", () => {
  const cases: [string, string, object, string][] = [
    ["images of one size", "plain-unet", { width: 8, depth: 3 }, "[64, 64]"],
    ["images of one size, by a large network", "unet", {}, "[64, 64]"],
    ["images of many sizes", "plain-unet", { width: 4, depth: 2 }, "[40 + (i * 7) % 50, 40 + (i * 13) % 50]"],
  ];
  it.each(cases)(
    "end within a tenth of the resident size after the first 100: %s",
    (_, kind, options, size) => {
      const sizes = residentSizes(kind, options, size);
      expect(sizes).toHaveLength(10);
      const [first = 0, last = 0] = [sizes[0], sizes[9]];
      expect(last, `resident MB after each hundred: ${sizes.map(Math.round).join(" ")}`).toBeLessThan(1.1 * first);
    },
    110_000,
  );
});

/** Largest resident size in MB of a process that predicts an image of so many rows by tiles; and its mask's bytes. */
function peakByTiles(rows: number): { peak: number; mask: number } {
  const program = `
    const { Backbone, LayerEnsemble } = await import(${JSON.stringify(api)});
    const { readFileSync } = await import("node:fs");
    const backbone = await Backbone.create("plain-unet", { width: 4, depth: 2, seed: 1 });
    const model = await LayerEnsemble.create(backbone, { device: "cpu", precision: "fp32", inputSize: [64, 64] });
    const image = {
      shape: [1, ${rows}, 512],
      rows: (begin, end) => ({
        data: Float32Array.from({ length: (end - begin) * 512 }, (_, i) => Math.sin(i + begin)),
        shape: [1, end - begin, 512],
      }),
    };
    const { mask } = await model.predict(image, { tile: [256, 512], overlap: 0.1, probabilities: false, maps: [] });
    const [, peak] = /VmHWM:\\s*(\\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"));
    console.log(JSON.stringify({ peak: Number(peak) / 1024, mask: mask.data.length }));
  `;
  const child = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    encoding: "utf8",
    timeout: 200_000,
  });
  if (child.status !== 0) throw new Error(`the program ended with ${child.status ?? child.signal}: ${child.stderr}`);
  return JSON.parse(child.stdout);
}

it.runIf(process.platform === "linux")(
  "a prediction by tiles holds the rows of a tile, however many the image has",
  () => {
    const [short, long] = [peakByTiles(1024), peakByTiles(16_384)];
    expect(long.mask).toBe(16_384 * 512);
    // By docs/tiles.md nothing but the result grows, which is handed over once. Of all rows together the input alone would take
    // 32 MB, and the sums of two classes 95.
    const result = (2 * (long.mask - short.mask)) / 2 ** 20;
    expect(long.peak - short.peak, `${short.peak} and ${long.peak} MB`).toBeLessThan(result + 25);
  },
  410_000,
);
