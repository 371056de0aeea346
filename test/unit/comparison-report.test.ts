import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { parseCsv } from "../../lib/data/csv.js";
import { decodePng } from "../../lib/data/png.js";
import { comparisonPage, writeReport } from "../../lib/report/comparison/index.js";
import { summarise } from "../../lib/report/comparison/summary.js";
import { comparisonFigures, type Figure, rasterise, skipCurveFigure } from "../../lib/report/figures/index.js";
import { suitedConfidence } from "../../lib/report/figures/select.js";
import { COLOURS, DARK_COLOURS, fitted, inline, textWidth } from "../../lib/report/figures/theme.js";
import type { Comparison, SkipCurvePoint } from "../../lib/results/comparison.js";
import { type Table, toCsv, toHtml, toText } from "../../lib/results/table.js";
import { correlationTable, failureTable, qualityTable, shiftTable, testsTable } from "../../lib/results/tables.js";
import { makeComparison } from "../support/comparison.js";

const whole = makeComparison();
let figures: Figure[];
const figure = (name: string) => figures.find((one) => one.name.startsWith(name))!;

beforeAll(async () => {
  figures = await comparisonFigures(whole);
});

/** The texts of an SVG, in its order. */
function texts(svg: string): string[] {
  return [...svg.matchAll(/<(?:text|tspan)[^>]*>([^<]+)</g)].map((match) => match[1]!);
}

/** Luminance contrast of two colours (WCAG 2). */
function contrast(a: string, b: string): number {
  const luminance = (colour: string) => {
    const [r, g, b] = [1, 3, 5].map((at) => {
      const value = Number.parseInt(colour.slice(at, at + 2), 16) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
  };
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high! + 0.05) / (low! + 0.05);
}

describe("figures", () => {
  test("are all there when all numbers are", () => {
    expect(figures.map((one) => one.name)).toEqual([
      "figure-1-maps",
      "figure-2-quality-control",
      "figure-3-skipped-heads",
      "figure-4-agreement",
      "figure-5a-aula-dice",
      "figure-5b-prediction-depth",
      "figure-6-reliability",
      "figure-7a-shift",
      "figure-7b-distance",
      "figure-7c-stream",
      "figure-8-acceptance",
      "figure-9-bounds",
    ]);
  });

  test("are the same for the same numbers", async () => {
    expect(await comparisonFigures(makeComparison())).toEqual(figures);
  });

  test.each([
    ["one method without heads", { methods: ["plain"], seeds: 1, images: 3 }, ["1", "2", "6", "7a", "7b", "7c", "8"]],
    [
      "LE alone, four classes",
      { methods: ["le"], classes: 4, heads: 14 },
      ["1", "2", "3", "4", "5a", "5b", "6", "7a", "7b", "7c", "8", "9"],
    ],
    ["nothing but what must be there", { nulls: true, classes: 3, shift: false }, ["1", "2"]],
    ["no pictures and no shift", { shown: false, shift: false }, ["2", "3", "5a", "5b", "6", "8", "9"]],
    [
      "three heads",
      { methods: ["de", "le"], heads: 3, size: [20, 30] },
      ["1", "2", "3", "4", "5a", "5b", "6", "7a", "7b", "7c", "8", "9"],
    ],
  ] as const)("of %s are those that there are numbers for, and can be drawn", async (_, options, expected) => {
    const drawn = await comparisonFigures(makeComparison(options));
    expect(drawn.map((one) => one.name.split("-")[1])).toEqual([...expected]);
    for (const { svg, name } of drawn) {
      const markup = svg.replace(/base64,[^"]*/g, "");
      expect(markup, name).not.toMatch(/NaN|undefined|null|Infinity/);
      const [width, height] = /viewBox="0 0 ([\d.]+) ([\d.]+)"/.exec(svg)!.slice(1).map(Number);
      const png = await decodePng(Buffer.from(await rasterise(svg, 300)));
      expect(png.width).toBe(300);
      expect(Math.abs(png.height - (300 * height!) / width!), name).toBeLessThanOrEqual(1);
      // Text has its own size at about 600 pixels.
      expect(width).toBeGreaterThan(500);
      expect(width).toBeLessThan(700);
    }
  });

  test("name their axes", () => {
    const named: [string, string[]][] = [
      ["figure-2", ["share reviewed", "unseen failures"]],
      ["figure-3", ["skipped heads T", "nll on validation (nats per pixel)"]],
      ["figure-4", ["heads compared, shallow to deep", "agreement (Dice)"]],
      ["figure-5a", ["AULA (at most 6)", "Dice with the truth"]],
      ["figure-5b", ["images"]],
      ["figure-6", ["mean confidence", "accuracy"]],
      ["figure-7a", ["soft Dice confidence", "pairwise agreement (Dice)", "AULA"]],
      ["figure-7b", ["−distance from the training"]],
      ["figure-7c", ["images of the stream", "martingale", "in distribution", "shifted"]],
      ["figure-9", ["inside the interval", "mean width (Dice)", "of the image", "one for all images", "lesion"]],
      ["figure-8", ["promised: failures of the accepted, at most", "accepted", "failed of the accepted", "AULA"]],
    ];
    for (const [name, axes] of named) expect(texts(figure(name).svg), name).toEqual(expect.arrayContaining(axes));
  });

  test("give the area under each quality-control curve", () => {
    const shown = texts(figure("figure-2").svg);
    for (const method of whole.methods) {
      const curve = method.qcCurves[suitedConfidence(method)]!;
      expect(shown).toContain(`area ${curve.area.toFixed(4)}`);
    }
  });

  test("show all entropy maps on one scale that reaches to the largest value", async () => {
    const comparison = makeComparison({ shift: false });
    const { height, width } = comparison.shown[0]!;
    const map = new Float32Array(height * width).fill(0.3);
    map[5] = 1.25;
    comparison.shown[2]!.entropy.de = Buffer.from(map.buffer).toString("base64");
    const [maps] = await comparisonFigures(comparison);
    expect(texts(maps!.svg)).toContain("1.25");
    expect(texts(figure("figure-1").svg)).toContain(Math.LN2.toFixed(2));
  });

  test("colour an entropy of nothing darker than the largest", async () => {
    const comparison = makeComparison({ methods: ["de", "le"], shift: false });
    comparison.shown = comparison.shown.slice(0, 1);
    const [shown] = comparison.shown;
    const level = (value: number) =>
      Buffer.from(new Float32Array(shown!.height * shown!.width).fill(value).buffer).toString("base64");
    shown!.entropy = { le: level(0), de: level(0.6) };
    const [maps] = await comparisonFigures(comparison);
    const { data, width, channels } = await decodePng(Buffer.from(await rasterise(maps!.svg, 600)));
    const brightness = (x: number, y: number) =>
      data[(y * width + x) * channels]! + data[(y * width + x) * channels + 1]!;
    expect(brightness(370, 100)).toBeLessThan(30);
    expect(brightness(520, 100)).toBeGreaterThan(400);
  });

  test("say where an image has failed, and where none of the heads found anything", () => {
    expect(texts(figure("figure-5a").svg)).toEqual(
      expect.arrayContaining(["good enough", "failed", "nothing found by any head", `failed below Dice ${whole.tau}`]),
    );
  });

  test("of skipped heads print every mean Dice and mark what was chosen", async () => {
    const points = Array.from({ length: 9 }, (_, skip): SkipCurvePoint => {
      return { skip, nll: 0.2 - 0.01 * skip, nllSd: 0.05, dice: 0.8 + 0.011 * skip, diceSd: 0.1, aurc: null };
    });
    for (const chosen of [0, 4, 8]) {
      const shown = texts((await skipCurveFigure(points, chosen)).svg);
      expect(shown).toContain(`chosen: T = ${chosen}`);
      for (const point of points) expect(shown).toContain(point.dice.toFixed(3));
    }
  });

  test("of a single point of skipped heads can be drawn", async () => {
    const { svg } = await skipCurveFigure([{ skip: 0, nll: 0.2, nllSd: 0, dice: 1, diceSd: 0, aurc: null }], 0);
    expect(svg).not.toContain("NaN");
    expect(texts(svg)).toContain("1.000");
  });
});

describe("inside a page", () => {
  test("all colours of a figure are custom properties", () => {
    for (const { svg, name } of figures) {
      const markup = inline(svg, name);
      for (const colour of Object.values(COLOURS)) expect(markup, name).not.toContain(`"${colour}"`);
      expect(markup).toContain('"var(--ink)"');
    }
  });

  test("no identifier occurs twice, and each that is used is there", () => {
    const page = comparisonPage(whole, figures);
    const ids = [...page.matchAll(/\bid="([^"]+)"/g)].map((match) => match[1]!);
    expect(new Set(ids).size).toBe(ids.length);
    const used = [...page.matchAll(/url\(#([^)]+)\)/g)].map((match) => match[1]!);
    expect(used.length).toBeGreaterThan(0);
    for (const id of used) expect(ids).toContain(id);
  });

  test("colours stand out from a white and from a dark page", () => {
    for (const colours of [COLOURS, DARK_COLOURS] as Readonly<Record<string, string>>[]) {
      expect(contrast(colours.ink!, colours.page!)).toBeGreaterThan(7);
      expect(contrast(colours.soft!, colours.page!)).toBeGreaterThan(4.5);
      for (const role of ["main", "against", "ideal"])
        expect(contrast(colours[role]!, colours.page!), role).toBeGreaterThan(3);
    }
  });
});

describe("text", () => {
  test("in a PNG comes from the package's own font, in every script that it has", async () => {
    const svg = (content: string) =>
      `<svg xmlns="http://www.w3.org/2000/svg" width="120" height="30" viewBox="0 0 120 30"><rect width="120" height="30" fill="#ffffff"/><text x="4" y="20" font-family="No such font, sans-serif" font-size="16">${content}</text></svg>`;
    const ink = async (content: string) => {
      const { data } = await decodePng(Buffer.from(await rasterise(svg(content))));
      return Array.from(data).filter((value) => value < 128).length;
    };
    expect(await ink("")).toBe(0);
    for (const content of ["Dice", "0.95", "τ – −", "Очаг"]) expect(await ink(content), content).toBeGreaterThan(60);
    expect(await ink("iiiiii")).toBeLessThan(await ink("MMMMMM"));
  });

  test("gets at least the room that it takes", async () => {
    for (const content of ["agreement (Dice)", "−mutual information", "0123456789", "MH: pairwise AGREEMENT"]) {
      const room = textWidth(content, 50);
      const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="2000" height="80" viewBox="0 0 2000 80"><rect width="2000" height="80" fill="#ffffff"/><text x="0" y="60" font-size="50">${content.replace("&", "&amp;")}</text></svg>`;
      const { data, width, channels } = await decodePng(Buffer.from(await rasterise(svg, 2000)));
      let right = 0;
      for (let i = 0; i < data.length; i += channels)
        if (data[i]! < 128) right = Math.max(right, (i / channels) % width);
      expect(right, content).toBeLessThan(room);
      expect(right, content).toBeGreaterThan(0.75 * room);
    }
  });

  test("that is too long is cut at the end that is asked for", () => {
    expect(fitted("short", 12, 200)).toBe("short");
    const name = "decoder.blocks.3.conv2.relu";
    const [end, start] = [fitted(name, 12, 90), fitted(name, 12, 90, "start")];
    expect(end).toMatch(/^decoder.*…$/);
    expect(start).toMatch(/^….*relu$/);
    for (const cut of [end, start]) expect(textWidth(cut, 12)).toBeLessThanOrEqual(90);
  });
});

describe("what is taken from a comparison", () => {
  test("the confidence that suits a method is the first that it has", () => {
    expect(whole.methods.map(suitedConfidence)).toEqual([
      "softDiceConfidence",
      "pairwiseAgreement",
      "pairwiseAgreement",
      "pairwiseAgreement",
      "aula",
    ]);
  });
});

/** The rows of a table: the name and the text of each cell. */
function rowsOf(html: string): string[][] {
  return [...html.matchAll(/<tr>(.*?)<\/tr>/gs)].map((row) =>
    [...row[1]!.matchAll(/<t[hd][^>]*>(.*?)<\/t[hd]>/gs)].map((cell) => cell[1]!.replace(/<[^>]+>/g, "|")),
  );
}

describe("tables", () => {
  test("mark the highest Dice and the lowest distance, once each", () => {
    const comparison = makeComparison();
    const [plain, mh] = comparison.methods;
    Object.assign(plain!.quality.dice, { value: 0.999 });
    Object.assign(mh!.quality.mhd, { value: 0.001 });
    const [head, ...rows] = rowsOf(toHtml(qualityTable(comparison)));
    const marked = (column: number) => rows.filter((row) => row[column]!.includes("★")).map((row) => row[0]);
    expect(head!.slice(0, 3)).toEqual(["method", "Dice", "MHD (px)"]);
    expect(marked(1)).toEqual(["Plain (2 seeds)"]);
    expect(marked(2)).toEqual(["MH (2 seeds)"]);
  });

  test("mark nothing where all are alike or there is one alone", () => {
    expect(toHtml(qualityTable(makeComparison({ methods: ["le"] })))).not.toContain("★");
  });

  test("show a value, its spread and its interval", () => {
    const comparison = makeComparison({ methods: ["plain"] });
    Object.assign(comparison.methods[0]!.quality.dice, { value: 0.8125, sd: 0.25, low: 0.75, high: 0.875, leftOut: 0 });
    expect(toHtml(qualityTable(comparison))).toContain("<td>0.813 ± 0.250<small>[0.750, 0.875]</small></td>");
  });

  test("say how many images a mean is of where some have no value", () => {
    const row = rowsOf(toHtml(qualityTable(makeComparison({ methods: ["le"] }))))[1]!;
    expect(row[2]).toContain("59 images");
    expect(row[1]).not.toContain("images");
  });

  test("of classes are there where there are several", () => {
    expect(toHtml(qualityTable(makeComparison({ classes: 3 })))).toContain("Dice, cyst");
    expect(toHtml(qualityTable(whole))).not.toContain("Dice, lesion");
  });

  test("show a dash for what is not defined", () => {
    const [, ...rows] = rowsOf(toHtml(correlationTable(makeComparison({ nulls: true, methods: ["le"] }))));
    expect(rows[0]).toEqual(["soft Dice confidence", "–", "–"]);
  });

  const groupsOf = (html: string) => [...html.matchAll(/rowgroup"[^>]*>([^<]+)</g)].map((match) => match[1]);
  const methods = ["Plain", "MH", "DE", "MCD", "LE"];

  test("group what is said of a method", () => {
    const comparison = makeComparison({ seeds: 1 });
    comparison.tests.sort((a, b) => methods.indexOf(a.other.toUpperCase()) - methods.indexOf(b.other.toUpperCase()));
    expect(groupsOf(toHtml(testsTable(comparison)))).toEqual(methods.slice(0, -1));
    for (const table of [correlationTable, failureTable]) expect(groupsOf(toHtml(table(comparison)))).toEqual(methods);
    expect(groupsOf(toHtml(shiftTable(comparison)))).toEqual(methods);
    expect(toHtml(shiftTable(makeComparison({ shift: false })))).toBe("");
  });

  test("say the same as text, as a file and on a page", () => {
    const table = failureTable(makeComparison({ seeds: 1 }));
    const file = parseCsv(toCsv(table, { method: ({ method }) => method.method }), "table").rows;
    const text = toText(table).trimEnd().split("\n").slice(2);
    const [, ...page] = rowsOf(toHtml(table));
    expect(text).toHaveLength(table.rows.length);
    table.rows.forEach((row, i) => {
      const value = row.result.auroc.value as number;
      expect(Number(file[i]?.auroc)).toBe(value);
      expect(text[i]).toContain(`${value.toFixed(3)} [`);
      expect(page[i]?.[4]).toContain(value.toFixed(3));
    });
  });

  test("keep their columns where a row has no statistic, or names of data are taken", () => {
    const column = { head: "a", csv: "a", bounds: true };
    const table: Table<number | null> = {
      caption: "made",
      name: { head: "row", of: String },
      columns: [
        {
          ...column,
          of: (value) => value && { value, low: value - 1, high: value + 1 },
          note: (row) => (row ? "" : "(none)"),
        },
        { head: "b", csv: "a_low", of: () => "b" },
        { head: "c", csv: "a", bounds: true, page: "column", of: (value) => value },
      ],
      rows: [1.5, null],
    };
    expect(toCsv(table, { a: String })).toBe(
      "a,a (2),a_low,a_high,a_low (2),a (3),a_low (3),a_high (2)\n1.5,1.5,0.5,2.5,b,1.5,,\nnull,,,,b,,,\n",
    );
    expect(toText(table).split("\n").slice(2)).toEqual([
      "1.5   1.500 [0.500, 2.500]  b",
      "null              – (none)  b",
      "",
    ]);
  });

  test("show of many rows both ends", () => {
    const table: Table<number> = {
      caption: "made",
      name: { head: "i", of: String },
      columns: [{ head: "square", format: String, of: (i) => i * i }],
      rows: Array.from({ length: 7 }, (_, i) => i),
    };
    const told = (rows: readonly number[]) =>
      toText({ ...table, rows }, 2)
        .trimEnd()
        .split("\n")
        .slice(2);
    expect(told(table.rows)).toEqual(["0       0", "1       1", "…       …", "5      25", "6      36"]);
    expect(told(table.rows.slice(1))).toHaveLength(6);
  });

  test("have a minus sign on a page, and what can be typed elsewhere", () => {
    const comparison = makeComparison({ seeds: 1, methods: ["plain", "le"] });
    comparison.tests[0]!.difference = -0.0125;
    comparison.tests[0]!.wilcoxonP = 2e-5;
    const table = testsTable(comparison);
    expect(toText(table)).toMatch(/ -0\.0125 +< 0\.001 /);
    expect(rowsOf(toHtml(table))[1]).toEqual(expect.arrayContaining(["−0.0125", "&lt; 0.001"]));
    expect(toCsv(table, {})).toContain("-0.0125,0.00002,");
  });
});

describe("the summary", () => {
  const with_ = (change: (comparison: Comparison) => void, options = {}) => {
    const comparison = makeComparison(options);
    change(comparison);
    return summarise(comparison);
  };
  const setDice = (comparison: Comparison, values: Record<string, number>) => {
    for (const result of comparison.methods) result.quality.dice.value = values[result.method]!;
    for (const one of comparison.tests) if (one.measure === "dice") one.difference = values.le! - values[one.other]!;
  };
  const dice = { plain: 0.7, mh: 0.71, de: 0.8, mcd: 0.72, le: 0.85 };

  test("claims what the paired tests support and no more", () => {
    const [first] = with_((comparison) => {
      setDice(comparison, dice);
      for (const one of comparison.tests) one.wilcoxonP = one.other === "de" ? 0.3 : 0.0002;
    });
    expect(first).toBe(
      "LE has the highest mean Dice (0.850), DE the next (0.800). Paired tests support that against Plain (p < 0.001), MH (p < 0.001) and MCD (p < 0.001), but not against DE (p = 0.300).",
    );
  });

  const estimate = (value: number, half: number) => ({ value, low: value - half, high: value + half, perRun: [value] });
  test.each([
    [
      "where another score is best",
      ["entropy.foreground", "aula"],
      0.001,
      "Of the scores of LE, entropy, mean over foreground ranks images best (AURC 0.1000); AULA is 0.0200 [0.0190, 0.0210] above it, more than chance.",
    ],
    [
      "where that may be chance",
      ["softDiceConfidence", "entropy.sum", "aula"],
      0.05,
      "Of the scores of LE, soft Dice confidence ranks images best (AURC 0.1000); AULA is 0.0200 [−0.0300, 0.0700] above it, which may be chance.",
    ],
    [
      "where it is best",
      ["aula", "softDiceConfidence"],
      0.001,
      "Of the scores of LE, AULA ranks images best (AURC 0.1000); soft Dice confidence, the next, is 0.0200 [0.0190, 0.0210] above it, more than chance.",
    ],
  ] as const)("says where AULA stands, %s", (_, names, half, sentence) => {
    const said = with_((comparison) => {
      for (const method of comparison.methods)
        method.scoreRanks = names
          .filter((score) => score !== "aula" || method.method === "le")
          .map((score, i) => ({
            score,
            aurc: estimate(0.1, 0.01),
            aboveBest: i === 0 ? null : estimate(0.02, half),
          }));
    });
    expect(said).toContain(sentence);
    expect(summarise(makeComparison({ nulls: true })).join(" ")).not.toContain("Of the scores of");
  });

  test("says that a difference may be chance", () => {
    const [first] = with_((comparison) => {
      setDice(comparison, dice);
      for (const one of comparison.tests) one.wilcoxonP = 0.4;
    });
    expect(first).toContain("do not support that");
  });

  test("names another method where that is better than LE", () => {
    for (const [p, said] of [
      [0.01, "finds a difference"],
      [0.2, "finds no difference"],
    ] as const) {
      const [first] = with_((comparison) => {
        setDice(comparison, { ...dice, de: 0.9 });
        for (const one of comparison.tests) one.wilcoxonP = p;
      });
      expect(first).toMatch(/^DE has the highest mean Dice \(0\.900\), LE the next/);
      expect(first).toContain(said);
    }
  });

  test("is about one method alone too, and leaves out what is not known", () => {
    expect(with_(() => {}, { methods: ["plain"], seeds: 1, shift: false })[0]).toMatch(
      /^Plain reaches a mean Dice of 0\.\d{3}\.$/,
    );
    for (const options of [{ nulls: true }, { nulls: true, methods: ["de"] }, { images: 3 }])
      for (const sentence of with_(() => {}, options)) expect(sentence).not.toMatch(/NaN|null|undefined|–/);
  });

  test("finds the best of all confidences, and says what AULA reaches", () => {
    const said = with_((comparison) => {
      for (const [i, { confidence }] of comparison.methods.entries())
        for (const result of Object.values(confidence))
          if (result) result.auroc = { value: 0.5 + 0.01 * i, low: 0.4, high: 0.6, perRun: [] };
      comparison.methods[1]!.confidence.variance!.auroc.value = 0.95;
    }).find((sentence) => sentence.startsWith("Of all confidences"));
    expect(said).toContain("told best by −variance of MH (AUROC 0.950), of another method by AULA of LE (AUROC 0.540)");
  });

  test("says where intervals overlap", () => {
    const said = (low: number) =>
      with_((comparison) => {
        comparison.methods.forEach((result, i) => {
          const value = i === 0 ? 0.01 : 0.05;
          result.pooled.ece = { value, low: i === 0 ? 0.008 : low, high: i === 0 ? 0.02 : 0.06, perRun: [] };
        });
      }).find((sentence) => sentence.startsWith("Best calibrated"));
    expect(said(0.015)).toContain("overlap, so the order may be chance");
    expect(said(0.03)).toContain("do not overlap");
  });
});

describe("the page", () => {
  test("needs nothing from elsewhere", () => {
    const page = comparisonPage(whole, figures);
    const addresses = [...page.matchAll(/\b(?:src|href|action|data)="([^"]*)"/g)].map((match) => match[1]!);
    expect(addresses.length).toBeGreaterThan(10);
    for (const address of addresses) expect(address.slice(0, 5)).toBe("data:");
    expect(page).not.toMatch(/<script|@import|url\((?!#)/);
  });

  test("shows names as text", () => {
    const comparison = makeComparison({ title: '<img src=x onerror="alert(1)">', shown: false });
    comparison.made["<b>"] = "a & b";
    comparison.classNames[1] = "</style>";
    const page = comparisonPage(comparison, []);
    expect(page).toContain("<h1>&lt;img src=x onerror=&quot;alert(1)&quot;&gt;</h1>");
    expect(page).not.toContain("<img");
    expect(page).toContain("<dt>&lt;b&gt;</dt><dd>a &amp; b</dd>");
    expect(page.match(/<\/style>/g)).toHaveLength(1);
  });

  test("leaves no number undefined", () => {
    for (const options of [{ nulls: true }, { methods: ["plain"] as const, seeds: 1, shift: false }, { classes: 4 }])
      expect(comparisonPage(makeComparison(options), [])).not.toMatch(/NaN|undefined|null/);
  });
});

describe("writeReport", () => {
  test("writes the page, and each figure twice", async () => {
    const folder = await mkdtemp(join(tmpdir(), "le-report-"));
    try {
      const out = join(folder, "new", "place");
      const written = await writeReport(makeComparison({ methods: ["plain"], images: 5, shown: false }), out);
      const names = [
        "figure-2-quality-control",
        "figure-6-reliability",
        "figure-7a-shift",
        "figure-7b-distance",
        "figure-7c-stream",
        "figure-8-acceptance",
      ];
      expect(written.toSorted()).toEqual(
        ["report.html", ...names.flatMap((name) => [`figures/${name}.png`, `figures/${name}.svg`])].sort((a, b) =>
          a < b ? -1 : 1,
        ),
      );
      expect((await readdir(join(out, "figures"))).length).toBe(12);
      for (const path of written) expect((await readFile(join(out, path))).length).toBeGreaterThan(1000);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("says where it cannot write", async () => {
    const folder = await mkdtemp(join(tmpdir(), "le-report-"));
    try {
      await writeFile(join(folder, "file"), "");
      const comparison = makeComparison({ methods: ["plain"], images: 3, shown: false, shift: false });
      await expect(writeReport(comparison, join(folder, "file"))).rejects.toMatchObject({ code: "ERR_LE_IO" });
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
