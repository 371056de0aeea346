// Each option of a command is declared once: its help and the documentation come from there.
import { readFileSync } from "node:fs";
import path from "node:path";
import type { Command } from "commander";
import { describe, expect, it } from "vitest";
import { PROMISE } from "../../lib/certificate/index.js";
import { DeclaredOption, listed, otherwise, parserOf, rangeOf } from "../../lib/cli/arguments.js";
import { certifyCommand } from "../../lib/cli/certify.js";
import { compareCommand } from "../../lib/cli/compare.js";
import { convertCommand } from "../../lib/cli/convert.js";
import { evaluateCommand } from "../../lib/cli/evaluate.js";
import { infoCommand } from "../../lib/cli/info.js";
import { predictCommand } from "../../lib/cli/predict.js";
import { scoreCommand } from "../../lib/cli/score.js";
import { serveCommand } from "../../lib/cli/serve.js";
import { trainCommand } from "../../lib/cli/train.js";
import { tuneCommand } from "../../lib/cli/tune.js";
import { AUGMENT_OPTIONS } from "../../lib/ensemble/augment.js";
import { FIT } from "../../lib/ensemble/fit-options.js";
import { COUNTS, ENSEMBLE } from "../../lib/ensemble/head-options.js";
import { PREDICT } from "../../lib/ensemble/model.js";
import { TILES } from "../../lib/ensemble/tile-options.js";
import { BACKBONE_OPTIONS } from "../../lib/ensemble/zoo.js";
import type { OptionSpec, OptionSpecs } from "../../lib/options.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { SCORE } from "../../lib/quality/score.js";
import { QUEUE } from "../../lib/server/queue.js";
import { SERVER, SERVICE } from "../../lib/server/service-options.js";
import { SUMMARISE } from "../../lib/study/summary-options.js";
import { CHOOSE } from "../../lib/tuning/skip.js";
import { TUNE } from "../../lib/tuning/tune.js";
import { SERIES_OPTIONS } from "../../lib/volumes/dicom/series-options.js";
import { documentedDefaults, documentedValue } from "../support/documented.js";

const COMMANDS = new Map(
  [
    ...[trainCommand(), tuneCommand(), predictCommand(), evaluateCommand(), scoreCommand(), compareCommand()],
    ...[serveCommand(), certifyCommand(), infoCommand(), convertCommand()],
  ].map((command) => [command.name(), command]),
);

/** Those of all commands, which docs/cli.md says once. */
const COMMON = ["--json", "--debug"];

/** The options of a command as the documentation has them. */
function tableOf(command: Command): string {
  let group: string | undefined;
  const rows = command.options.flatMap((option) => {
    if (!(option instanceof DeclaredOption)) return [];
    const { declaration, helpGroupHeading } = option;
    const range = rangeOf(declaration);
    const what = `${listed(declaration)}${range && ` (${range})`}`.replace(/[*<|]/g, "\\$&");
    const heading = helpGroupHeading === group ? [] : [`| **${helpGroupHeading?.replace(":", "")}** | | |`];
    group = helpGroupHeading;
    return [...heading, `| \`${option.flags}\` | ${what} | ${otherwise(declaration)} |`];
  });
  return ["| option | | without it |", "|---|---|---|", ...rows, ""].join("\n");
}

describe("doc comments", () => {
  it.each<[string, OptionSpecs]>([
    ["lib/ensemble/fit-options.ts", FIT],
    ["lib/certificate/certify.ts", PROMISE],
    ["lib/server/queue.ts", QUEUE],
    ["lib/server/service-options.ts", { ...SERVICE, ...SERVER, channelsLast: {} as OptionSpec }],
    ["lib/quality/score.ts", SCORE],
    ["lib/study/summary-options.ts", SUMMARISE],
    ["lib/volumes/dicom/series-options.ts", SERIES_OPTIONS],
    ["lib/ensemble/model.ts", { ...PREDICT, overlap: {} as OptionSpec, tileWeights: {} as OptionSpec }],
    ["lib/ensemble/tile-options.ts", TILES],
    ["lib/tuning/skip.ts", CHOOSE],
    ["lib/tuning/tune.ts", { ...TUNE, rule: {} as OptionSpec, margin: {} as OptionSpec }],
    ["lib/ensemble/zoo.ts", BACKBONE_OPTIONS],
    ["lib/ensemble/augment.ts", AUGMENT_OPTIONS],
    ["lib/ensemble/head-options.ts", { ...ENSEMBLE, ...COUNTS, channelsLast: {} as OptionSpec }],
  ])("of %s tell the defaults", (name, specs) => {
    const documented = documentedDefaults(path.join(PACKAGE_ROOT, name));
    for (const [option, spec] of Object.entries(specs)) {
      const [first] = documented[option]?.split(" (") ?? []; // what follows is of some kinds of networks
      if (spec.default !== undefined) expect([option, documentedValue(first)]).toEqual([option, spec.default]);
      else if (spec.otherwise && typeof documentedValue(first) === "number") expect(spec.otherwise).toBe(first);
    }
  });
});

describe.each([...COMMANDS])("%s", (_, command) => {
  it("has no option that is not declared", () => {
    const others = command.options.filter((option) => !(option instanceof DeclaredOption || option.hidden));
    expect(others.map(({ long }) => long)).toEqual(COMMON);
  });

  it("tells range and default in its help", () => {
    const help = command.helpInformation().replace(/\s+/g, " ");
    for (const option of command.options) {
      if (!(option instanceof DeclaredOption)) continue;
      const { declaration } = option;
      for (const said of [option.flags, listed(declaration), rangeOf(declaration), otherwise(declaration)])
        expect(help).toContain(said);
      const { kind, default: value } = declaration;
      if (kind !== "boolean" && value !== undefined) expect(declaration.accepts(value), option.flags).toBe(true);
    }
  });

  it("takes none for null wherever that may be", () => {
    for (const option of command.options) {
      if (!(option instanceof DeclaredOption) || !option.declaration.accepts(null)) continue;
      command.parseOptions([`${option.long}`, "none"]);
      expect([option.long, command.getOptionValue(option.attributeName())]).toEqual([option.long, null]);
    }
  });
});

it("reads a unit of its own as that of the API", () => {
  const { timeout, maxBody } = SERVICE;
  expect(parserOf(timeout)("0.5")).toBe(500);
  expect(parserOf(maxBody)("1.5")).toBe(1_572_864);
  expect(() => parserOf(timeout)("86401")).toThrow("a number from 0.001 to 86400.");
  for (const text of ["", "0", "1s"]) expect(() => parserOf(timeout)(text)).toThrow("Expected a number");
});

it("is documented as it is declared (npx vitest run test/unit/command-options.test.ts -u writes it)", async () => {
  const documented = new Set<string>();
  for (const name of ["docs/cli.md", "docs/serving.md"]) {
    const file = path.join(PACKAGE_ROOT, name);
    const text = readFileSync(file, "utf8").replace(
      /(<!-- options of (\w+) -->\n)[\s\S]*?(?=<!-- end -->)/g,
      (_, start: string, of: string) => {
        documented.add(of);
        return `${start}${tableOf(COMMANDS.get(of) as Command)}`;
      },
    );
    await expect(text).toMatchFileSnapshot(file);
  }
  expect(documented).toEqual(new Set(COMMANDS.keys()));
});
