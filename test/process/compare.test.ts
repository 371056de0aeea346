// `compare` as a user has it: real runs of tiny networks, real predictions, the files that it leaves behind.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseCsv } from "../../lib/data/csv.js";
import { readMask } from "../../lib/data/mask.js";
import { writePhantoms } from "../../lib/data/phantoms.js";
import type { Comparison } from "../../lib/results/comparison.js";
import { cli } from "../support/cli.js";
import { killedAt } from "../support/killed.js";

let folder: string;
let data: string;
const inside = (...parts: string[]) => path.join(folder, ...parts);
const small = ["--backbone", "plain-unet", "--width", "4", "--depth", "2", "--size", "32", "--device", "cpu"];

async function train(name: string, ...more: string[]): Promise<string> {
  const ended = await cli([
    "train",
    "--data",
    data,
    "--run",
    inside(name),
    ...small,
    "--epochs",
    "2",
    "--batch-size",
    "8",
    ...more,
  ]);
  expect(ended).toMatchObject({ code: 0 });
  return inside(name);
}

/** Changes what a run says of itself. */
function describeRun(run: string, change: (json: { notes: { classNames: string[] } }) => void): void {
  const file = path.join(run, "run.json");
  const json = JSON.parse(readFileSync(file, "utf8"));
  change(json);
  writeFileSync(file, JSON.stringify(json));
}

const compare = (to: string, resamples: string, ...more: string[]) =>
  cli(["compare", ...runs, "--data", data, "--group", "patient", "--out", to, "--resamples", resamples, ...more]);

let runs: string[];
let comparison: Comparison;
let out: string;
let printed: string;

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-compare-"));
  data = inside("data");
  await writePhantoms(data, { count: 40, size: 40, seed: 1 });
  await writePhantoms(inside("other"), { count: 20, size: 36, seed: 9 });
  // Patients of two images.
  const table = path.join(data, "split.csv");
  const [header, ...lines] = readFileSync(table, "utf8").trimEnd().split("\n");
  const seen: Record<string, number> = {};
  const patients = lines.map((line) => {
    const split = line.split(",")[1] as string;
    seen[split] = (seen[split] ?? 0) + 1;
    return `${line},${split}${(seen[split] as number) >> 1}`;
  });
  writeFileSync(table, `${[`${header},patient`, ...patients].join("\n")}\n`);
  runs = [await train("le0"), await train("le1", "--seed", "1"), await train("plain", "--method", "plain")];
  out = inside("comparison");
  const shift = [
    "--ood",
    inside("other"),
    "--ood-split",
    "test",
    "--reference-where",
    "difficulty!=hopeless",
    "--flag",
    "0.2",
  ];
  const ended = await compare(out, "100", ...shift);
  expect(ended).toMatchObject({ code: 0, stderr: "" });
  printed = ended.stdout;
  comparison = JSON.parse(readFileSync(path.join(out, "results.json"), "utf8"));
}, 180_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("compare", () => {
  it("puts methods in order, with all of their seeds", () => {
    expect(comparison.methods.map(({ method, runs }) => [method, runs])).toEqual([
      ["plain", [0]],
      ["le", [1, 2]],
    ]);
    expect(comparison.runs.map(({ method, seed, run }) => [method, seed, run])).toEqual([
      ["plain", 0, "../plain"],
      ["le", 0, "../le0"],
      ["le", 1, "../le1"],
    ]);
    expect(comparison.bootstrap).toEqual({ resamples: 100, seed: 0, unit: "group" });
    expect(comparison.data.groups).toBeLessThan(comparison.data.images);
  });

  it("measures the images as evaluate does", async () => {
    const args = ["evaluate", "--run", runs[1] as string, "--data", data, "--out", inside("evaluation"), "--json"];
    const { scores, means, calibration } = JSON.parse(
      (await cli([...args, "--group", "patient", "--resamples", "10"])).stdout,
    );
    const own = comparison.runs[2] as Comparison["runs"][number];
    expect(scores).toHaveLength(own.images.length);
    for (const score of scores) expect(score).toMatchObject(own.images.find(({ id }) => id === score.id) as object);
    expect(comparison.methods[1]?.quality.dice.perRun[1]).toBeCloseTo(means.dice.mean, 12);
    expect(own.calibration.ece).toBeCloseTo(calibration.ece, 12);
  });

  it("has the intervals of every draw of patients there is, worked out by hand, in its tables and on its page", async () => {
    const many = inside("many-draws");
    const ended = await compare(many, "10000");
    expect(ended.code, ended.stderr).toBe(0);
    const table = (name: string) => parseCsv(readFileSync(path.join(many, "tables", name), "utf8"), name).rows;
    const images = table("images.csv");
    const groups = [...new Set(images.map(({ group }) => group as string))];
    const seeds = (method: string) => [
      ...new Set(images.filter((row) => row.method === method).map(({ seed }) => seed)),
    ];
    expect(groups.length).toBeLessThan(7);
    const draws = Array.from({ length: groups.length ** groups.length }, (_, n) =>
      groups.map((_, i) => groups[Math.floor(n / groups.length ** i) % groups.length] as string),
    );
    /** What holds of all draws: mean over the runs of a statistic of the images that were drawn. */
    const exact = (method: string, statistic: (rows: Record<string, string>[]) => number) => {
      const byRun = seeds(method).map((seed) => {
        const own = images.filter((row) => row.method === method && row.seed === seed);
        return new Map(groups.map((group) => [group, own.filter((row) => row.group === group)]));
      });
      const values = draws.flatMap((drawn) => {
        const each = byRun.map((run) => statistic(drawn.flatMap((group) => run.get(group) ?? [])));
        const defined = each.filter((value) => !Number.isNaN(value));
        return defined.length > 0 ? [defined.reduce((a, b) => a + b) / defined.length] : [];
      });
      values.sort((a, b) => a - b);
      // What 10 000 draws take for the 2.5 % that lie below, and above.
      const at = (share: number) => values[Math.round(share * (values.length - 1))] as number;
      return { low: [at(0.02), at(0.03)], high: [at(0.97), at(0.98)] };
    };
    const between = (value: string | undefined, [from = 0, to = 0]: number[]) => {
      expect(Number(value)).toBeGreaterThanOrEqual(from - 1e-9);
      expect(Number(value)).toBeLessThanOrEqual(to + 1e-9);
    };
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    const numbers = (rows: Record<string, string>[], name: string) => rows.map((row) => Number(row[name]));
    for (const row of table("table1-quality.csv")) {
      if (!["dice", "nll", "ece"].includes(row.measure as string) || row.class !== "") continue;
      const { low, high } = exact(row.method as string, (rows) => mean(numbers(rows, row.measure as string)));
      between(row.low, low);
      between(row.high, high);
      if (row.measure !== "dice") continue;
      const shown = `<small>[${Number(row.low).toFixed(3)}, ${Number(row.high).toFixed(3)}]</small>`;
      expect(readFileSync(path.join(many, "report.html"), "utf8")).toContain(shown);
    }
    // SPEC §9: one point per distinct confidence, trapezoids over the coverage, constant from the first one to 0.
    const aurc = (confidence: number[], risk: number[]) => {
      const levels = [...new Set(confidence)].sort((a, b) => b - a);
      let [area, covered, before] = [0, 0, Number.NaN];
      for (const level of levels) {
        const kept = risk.filter((_, i) => (confidence[i] as number) >= level);
        const coverage = kept.length / risk.length;
        area += (coverage - covered) * (Number.isNaN(before) ? mean(kept) : (before + mean(kept)) / 2);
        [covered, before] = [coverage, mean(kept)];
      }
      return area;
    };
    const spearman = (a: number[], b: number[]) => {
      const ranks = (values: number[]) =>
        values.map(
          (value) =>
            values.filter((other) => other < value).length + (values.filter((other) => other === value).length + 1) / 2,
        );
      const [x, y] = [ranks(a), ranks(b)] as [number[], number[]];
      const [mx, my] = [mean(x), mean(y)];
      const sum = (of: (i: number) => number) => x.reduce((total, _, i) => total + of(i), 0);
      const spread = Math.sqrt(sum((i) => ((x[i] as number) - mx) ** 2) * sum((i) => ((y[i] as number) - my) ** 2));
      return spread === 0 ? Number.NaN : sum((i) => ((x[i] as number) - mx) * ((y[i] as number) - my)) / spread;
    };
    for (const method of ["plain", "le"])
      for (const confidence of method === "le" ? ["aula", "softDiceConfidence"] : ["softDiceConfidence"]) {
        const of = (name: string) => table(name).find((row) => row.method === method && row.confidence === confidence);
        const ranked = exact(method, (rows) =>
          aurc(
            numbers(rows, confidence),
            numbers(rows, "dice").map((dice) => 1 - dice),
          ),
        );
        between(of("table3-failure-detection.csv")?.aurc_low, ranked.low);
        between(of("table3-failure-detection.csv")?.aurc_high, ranked.high);
        const ordered = exact(method, (rows) => spearman(numbers(rows, confidence), numbers(rows, "dice")));
        between(of("table2-correlation.csv")?.spearman_dice_low, ordered.low);
        between(of("table2-correlation.csv")?.spearman_dice_high, ordered.high);
      }
  }, 180_000);

  it("times both methods, and counts their parameters", () => {
    const [plain, le] = comparison.methods.map(({ cost }) => cost);
    expect(plain?.ratioToPlain).toBe(1);
    expect(le?.ratioToPlain).toBeCloseTo((le?.msPerImage as number) / (plain?.msPerImage as number), 12);
    expect(plain?.msPerImage).toBeGreaterThan(0);
    expect(le?.parameters).toBeGreaterThan(plain?.parameters as number);
  });

  it("shows the images that were chosen, with what was predicted of them", async () => {
    expect(comparison.shown.flatMap(({ why }) => why).sort()).toEqual([
      "best",
      "least certain",
      "median",
      "most certain",
      "worst",
    ]);
    for (const shown of comparison.shown) {
      const { data: truth } = await readMask(path.join(data, "masks", `${shown.id}.png`));
      expect(Uint8Array.from(Buffer.from(shown.truth, "base64"))).toEqual(truth.map((value) => Number(value > 0)));
      const le = Uint8Array.from(Buffer.from(shown.masks.le as string, "base64"));
      let [both, sum] = [0, 0];
      le.forEach((value, i) => {
        both += Number(value > 0 && truth[i]! > 0);
        sum += Number(value > 0) + Number(truth[i]! > 0);
      });
      expect(sum === 0 ? 1 : (2 * both) / sum).toBeCloseTo(shown.dice.le as number, 10);
      expect(shown.heads.map(({ name }) => name)).toEqual(comparison.runs[1]?.heads);
      expect(Object.keys(shown.entropy)).toEqual(["plain", "le"]);
      expect(Buffer.from(shown.entropy.le as string, "base64")).toHaveLength(4 * 40 * 40);
    }
  });

  it("measures the shift against the images that it is asked to", () => {
    const { rows } = parseCsv(readFileSync(path.join(data, "split.csv"), "utf8"), "split.csv");
    const reference = rows.filter(({ split, difficulty }) => split === "test" && difficulty !== "hopeless");
    expect(comparison.shift).toMatchObject({ split: "test", imagesIn: reference.length, scored: [1] });
    expect(comparison.shift?.runs.map(({ images }) => images.length)).toEqual(Array(3).fill(comparison.shift?.images));
    const row = comparison.shift?.rows.find(({ method, confidence }) => method === "le" && confidence === "aula");
    const ids = new Set(reference.map(({ id }) => id));
    row?.thresholds.forEach((threshold, r) => {
      const known = comparison.runs[r + 1]?.images.filter(({ id }) => ids.has(id)) ?? [];
      expect(
        known.filter(({ aula }) => (aula as number) < (threshold as number)).length / known.length,
      ).toBeLessThanOrEqual(0.2);
    });
    expect(row?.auroc.perRun).toHaveLength(2);
  });

  it("leaves tables and prints them", () => {
    const names = [
      "acceptance",
      "alarm",
      "calibration",
      "cost",
      "images",
      "scores",
      "shift",
      "table1-quality",
      "table2-correlation",
      "table3-failure-detection",
      "tests",
    ];
    expect(readdirSync(path.join(out, "tables")).sort()).toEqual(names.map((name) => `${name}.csv`));
    for (const part of ["Table 1", "Table 2", "Table 3", "group by group", "Shift", "Written to"])
      expect(printed).toContain(part);
  });

  it("prints the comparison as JSON without its pictures, with the same numbers in whatever order the runs are given", async () => {
    const [a, b, c] = runs as [string, string, string];
    const ended = await cli([
      "compare",
      c,
      b,
      a,
      "--data",
      data,
      "--group",
      "patient",
      "--out",
      inside("again"),
      "--resamples",
      "100",
      "--json",
      "--no-report",
    ]);
    expect(ended).toMatchObject({ code: 0, stderr: "" });
    const again = JSON.parse(ended.stdout) as Comparison;
    expect(again.shown[0]).not.toHaveProperty("image");
    const withoutCost = ({ methods }: Comparison) => methods.map(({ cost, ...rest }) => rest);
    expect(withoutCost(again)).toEqual(withoutCost(comparison));
    expect(again.tests).toEqual(comparison.tests);
  });

  it("scores images that fulfil a condition, with a failure threshold from the data", async () => {
    const args = ["--where", "difficulty=easy", "--tau", "auto", "--summary", "foreground", "--resamples", "10"];
    const ended = await cli([
      "compare",
      runs[0] as string,
      "--data",
      data,
      "--split",
      "all",
      "--out",
      inside("easy"),
      "--json",
      ...args,
    ]);
    expect(ended).toMatchObject({ code: 0, stderr: "" });
    const easy = JSON.parse(ended.stdout) as Comparison;
    expect(easy.data.images).toBe(16);
    expect(easy.runs[0]?.images.filter(({ dice }) => (dice as number) < easy.tau)).toHaveLength(3);
    expect(easy.methods[0]?.cost.ratioToPlain).toBeNull();
    expect(easy.tests).toEqual([]);
  });
});

describe("report", () => {
  it("makes from results.json what compare wrote", async () => {
    const again = inside("again");
    await cp(path.join(out, "results.json"), path.join(again, "results.json"));
    const ended = await cli(["report", again]);
    expect(ended).toMatchObject({ code: 0, stdout: printed.replaceAll(out, again) });
    const files = (folder: string) => readdirSync(folder, { recursive: true, withFileTypes: true });
    const names = files(out).filter((entry) => entry.isFile());
    expect(names.length).toBeGreaterThan(10);
    for (const { parentPath, name } of names) {
      const file = path.relative(out, path.join(parentPath, name));
      expect({ file, same: readFileSync(path.join(again, file)).equals(readFileSync(path.join(out, file))) }).toEqual({
        file,
        same: true,
      });
    }
  });

  it("that is killed loses no results", async () => {
    const again = inside("killed-report");
    await cp(out, again, { recursive: true });
    for (const when of ["move 0", "move 2"]) {
      expect(await cli(["report", again], { env: killedAt(when, again) })).toMatchObject({ signal: "SIGKILL" });
      expect(readFileSync(path.join(again, "results.json"))).toEqual(readFileSync(path.join(out, "results.json")));
    }
    expect((await cli(["report", again])).code).toBe(0);
    expect(readdirSync(path.join(again, "tables"))).toEqual(readdirSync(path.join(out, "tables")));
  }, 180_000);

  it("refuses a folder that has none", async () => {
    expect(await cli(["report", data])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^error \[ERR_LE_DATA\]: .*results\.json/),
    });
  });
});

describe("compare refuses", () => {
  const refused = async (args: string[], message: RegExp, code = 1) => {
    const nowhere = inside("nowhere");
    const ended = await cli(["compare", ...args, "--out", nowhere]);
    expect(ended.stderr).toMatch(message);
    expect(ended.stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(ended).toMatchObject({ code, stdout: "" });
    expect(existsSync(nowhere)).toBe(false);
  };

  it("a folder that is no run", () => refused([data], /^error \[ERR_LE_CHECKPOINT\]: .*run\.json/));

  it("the same training twice", async () => {
    await cp(runs[0] as string, inside("copy"), { recursive: true });
    await refused([runs[0] as string, inside("copy")], /^error \[ERR_LE_VALUE\]: .*both of method le with seed 0/);
  });

  it("runs of other classes", async () => {
    await cp(runs[1] as string, inside("renamed"), { recursive: true });
    describeRun(inside("renamed"), (json) => {
      json.notes.classNames = ["background", "tumour"];
    });
    await refused(
      [runs[0] as string, inside("renamed")],
      /^error \[ERR_LE_VALUE\]: .*classes .* but received background, tumour/,
    );
  });

  it("conditions that no image fulfils, splits and classes that are not there", async () => {
    const run = runs[0] as string;
    await refused([run, "--where", "difficulty=trivial"], /^error \[ERR_LE_DATA\]: .*difficulty=trivial/);
    await refused([run, "--split", "tset"], /^error \[ERR_LE_DATA\]: .*"tset"/);
    await refused([run, "--score-classes", "2"], /^error \[ERR_LE_VALUE\]: .*received 2/);
  });

  it("options that cannot be meant", async () => {
    const run = runs[0] as string;
    await refused([run, "--flag", "0.1"], /^error: --flag needs --ood/, 2);
    await refused([run, "--tau", "1.5"], /Expected a number from 0 to 1/, 2);
    await refused([run, "--where", "difficulty"], /Expected column=value/, 2);
    await refused([run, "--summary", "max"], /Expected one of sum, mean, foreground/, 2);
  });
});
