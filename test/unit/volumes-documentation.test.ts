// docs/volumes.md lists the formats and options that there are.
import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, it } from "vitest";
import { flagOf } from "../../lib/cli/arguments.js";
import { SERIES_OPTIONS } from "../../lib/cli/volume-options.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { VOLUME_FORMATS } from "../../lib/volumes/formats.js";

const row = (...cells: string[]) => `| ${cells.join(" | ")} |`.replaceAll("|  |", "| |");

const formats = [
  row("", "read", "written", "`format`"),
  "|---|---|---|---|",
  ...VOLUME_FORMATS.map(({ name, title, extensions, folders, write = {} }) =>
    row(title, `${extensions.join(", ")}${folders ? ", folders" : ""}`, Object.keys(write).join(", "), `\`${name}\``),
  ),
];

const series = [
  row("option", "on the command line", "what it does"),
  "|---|---|---|",
  ...Object.entries(SERIES_OPTIONS).map(([name, spec]) =>
    row(`\`${name}\``, `\`${flagOf(name, spec)}\``, spec.text.replace("DICOM: ", "")),
  ),
];

it("docs/volumes.md is as the registers are (npx vitest run test/unit/volumes-documentation.test.ts -u writes it)", async () => {
  const file = path.join(PACKAGE_ROOT, "docs/volumes.md");
  const tables = { formats, series };
  const text = readFileSync(file, "utf8").replace(
    /(<!-- (formats|series) -->\n)[\s\S]*?(?=<!-- end -->)/g,
    (_, start: string, of: keyof typeof tables) => `${start}${tables[of].join("\n")}\n`,
  );
  for (const name of Object.keys(tables)) expect(text).toContain(`<!-- ${name} -->\n| `);
  await expect(text).toMatchFileSnapshot(file);
});
