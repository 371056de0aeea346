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
