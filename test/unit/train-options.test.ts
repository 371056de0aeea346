// Each option of a training is declared once: what the API checks and does, the command line and the documentation say the same.
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { flagOf, listed, otherwise, within } from "../../lib/cli/arguments.js";
import { effectiveOptions, fitOptions, GROUPS, type TrainFlags, trainOptions } from "../../lib/cli/train-options.js";
import { AUGMENT_OPTIONS } from "../../lib/ensemble/augment.js";
import { FIT, FIT_DEFAULTS, OPTIMIZERS, PAPER, SCHEDULES } from "../../lib/ensemble/fit-options.js";
import { COUNTS, ENSEMBLE } from "../../lib/ensemble/head-options.js";
import { LOSSES } from "../../lib/ensemble/losses.js";
import { BACKBONE_KINDS, BACKBONE_OPTIONS } from "../../lib/ensemble/zoo.js";
import { PACKAGE_ROOT } from "../../lib/native/package.js";
import type { OptionSpec, OptionSpecs } from "../../lib/options.js";
import { documentedDefaults, documentedValue } from "../support/documented.js";

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

describe("doc comments", () => {
  it.each<[string, OptionSpecs]>([
    ["lib/ensemble/fit-options.ts", FIT],
    ["lib/ensemble/zoo.ts", BACKBONE_OPTIONS],
    ["lib/ensemble/augment.ts", AUGMENT_OPTIONS],
    ["lib/ensemble/head-options.ts", { ...ENSEMBLE, ...COUNTS, channelsLast: {} as OptionSpec }],
  ])("of %s tell the defaults", (name, specs) => {
    const documented = documentedDefaults(file(name));
    for (const [option, spec] of Object.entries(specs)) {
      const [first] = documented[option]?.split(" (") ?? []; // what follows is of some kinds of networks
      if (spec.default !== undefined) expect([option, documentedValue(first)]).toEqual([option, spec.default]);
      else if (spec.otherwise && typeof documentedValue(first) === "number") expect(spec.otherwise).toBe(first);
    }
  });
});

describe("the documentation", () => {
  it("lists the options of train as they are declared (npx vitest run test/unit/train-options.test.ts -u writes them)", async () => {
    const rows = Object.entries(GROUPS).flatMap(([title, specs]) => [
      `| **${title}** | | |`,
      ...Object.entries(specs).map(([name, spec]) => {
        const range = ["integer", "number"].includes(spec.kind ?? "") ? within(spec).replace(/^ (of )?/, "") : "";
        const what = `${listed(spec)}${range && ` (${range})`}`.replace(/[*<|]/g, "\\$&");
        return `| \`${flagOf(name, spec)}\` | ${what} | ${otherwise(spec)} |`;
      }),
    ]);
    const text = readFileSync(file("docs/cli.md"), "utf8");
    const [start, end] = ["<!-- options of train -->\n", "<!-- end -->"];
    const [before = "", rest = ""] = text.split(start);
    const after = rest.slice(rest.indexOf(end));
    const table = ["| option | | without it |", "|---|---|---|", ...rows, ""].join("\n");
    await expect(`${before}${start}${table}${after}`).toMatchFileSnapshot(file("docs/cli.md"));
  });

  it("defines every loss, and names every optimiser, schedule and network", () => {
    const [metrics, cli] = ["metrics", "cli"].map((name) => readFileSync(file(`docs/${name}.md`), "utf8"));
    for (const loss of LOSSES) expect(metrics).toMatch(new RegExp(`^\\| [^|]*\`${loss}\``, "m"));
    for (const name of [...OPTIMIZERS, ...SCHEDULES, ...BACKBONE_KINDS]) expect(cli).toContain(name);
  });
});
