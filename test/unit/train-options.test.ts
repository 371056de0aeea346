// A training is the same on the command line and by the API.
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { effectiveOptions, fitOptions, type TrainFlags, trainOptions } from "../../lib/cli/train-options.js";
import { FIT_DEFAULTS, OPTIMIZERS, PAPER, SCHEDULES } from "../../lib/ensemble/fit-options.js";
import { LOSSES } from "../../lib/ensemble/losses.js";
import { BACKBONE_KINDS } from "../../lib/ensemble/zoo.js";
import { PACKAGE_ROOT } from "../../lib/package.js";

const file = (name: string) => path.join(PACKAGE_ROOT, name);

async function effective(...flags: string[]) {
  const command = trainOptions();
  command.exitOverride().parse(["--run", "/nowhere/run", "--data", "data", ...flags], { from: "user" });
  return (await effectiveOptions(command.opts<TrainFlags>(), command)).options;
}

describe("fit and train", () => {
  it("train alike where nothing is said", async () => {
    expect({ ...FIT_DEFAULTS, ...fitOptions(await effective()) }).toEqual(FIT_DEFAULTS);
  });

  it("train alike by the paper's preset", async () => {
    const options = await effective("--preset", "paper");
    expect(fitOptions(options)).toMatchObject(PAPER);
    expect(options.skip).toBe("auto");
  });

  it("train alike by every option that both have", async () => {
    const told = ["--epochs", "3", "--clip-norm", "0", "--loss", "focal", "--augment", "none", "--no-check-kernels"];
    const given = { epochs: 3, clipNorm: 0, loss: "focal", augment: "none", checkKernels: false };
    expect(fitOptions(await effective(...told))).toEqual({ ...fitOptions(await effective()), ...given });
    const decayed = fitOptions(await effective("--optimizer", "sgd", "--weight-decay", "0.1"));
    expect(decayed.optimizer).toEqual({ name: "sgd", weightDecay: 0.1 });
  });

  it("networks get what concerns them", async () => {
    expect(await effective("--backbone", "unet3d")).toMatchObject({ size: [32, 64, 64], batchSize: 2 });
    expect((await effective("--method", "mcd")).backboneDropout).toBe(0.2);
    expect((await effective("--method", "mcd", "--backbone", "fpn")).backboneDropout).toBeUndefined();
    await expect(effective("--model", "x.pt2", "--pyramid-channels", "64")).rejects.toThrow("(pyramidChannels)");
  });
});

describe("patches", () => {
  it("take the place of the size, and have no other", async () => {
    const options = await effective("--backbone", "unet3d", "--patch", "16x32x24", "--patches-per-case", "2");
    expect(options).toMatchObject({ size: [16, 32, 24], patch: [16, 32, 24] });
    expect(fitOptions(options)).toMatchObject({ patch: [16, 32, 24], patchForeground: 0.33, patchesPerCase: 2 });
    expect(fitOptions(await effective())).not.toHaveProperty("patchForeground");
    await expect(effective("--patch", "64", "--size", "64")).rejects.toThrow("cannot go with --size");
    await expect(effective("--patch-foreground", "1")).rejects.toThrow(
      "--patch-foreground is for a training by --patch",
    );
    await expect(effective("--patch", "8x8x8")).rejects.toThrow("needs a --patch of 2 sides");
  });
});

describe("the documentation", () => {
  it("defines every loss, and names every optimiser, schedule and network", () => {
    const [metrics, cli] = ["metrics", "cli"].map((name) => readFileSync(file(`docs/${name}.md`), "utf8"));
    for (const loss of LOSSES) expect(metrics).toMatch(new RegExp(`^\\| [^|]*\`${loss}\``, "m"));
    for (const name of [...OPTIMIZERS, ...SCHEDULES, ...BACKBONE_KINDS]) expect(cli).toContain(name);
  });
});
