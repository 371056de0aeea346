// What the command line prints and how it writes, without a process.
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { InvalidArgumentError } from "commander";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { inputShape, integer, list, number, oneOf, size } from "../../lib/cli/arguments.js";
import { toJson } from "../../lib/cli/command.js";
import { checkOutput, writeTogether } from "../../lib/cli/output.js";
import { bar, StatusLine, trainingProgress } from "../../lib/cli/progress.js";
import { checkWhole } from "../../lib/data/output-list.js";
import type { TrainingEvent } from "../../lib/ensemble/training.js";
import { duration, fixed } from "../../lib/results/format.js";
import { formatTable } from "../../lib/results/text.js";

describe("formatTable", () => {
  it("lines up columns by what is seen, and shows where rows were left out", () => {
    const table = formatTable(
      [{ heading: "name", align: "left" }, { heading: "x" }],
      [["é", "1.5"], null, ["longer name", "12.25"]],
    );
    expect(table).toBe(
      [
        "name             x",
        "───────────  ─────",
        "é              1.5",
        "…                …",
        "longer name  12.25",
        "",
      ].join("\n"),
    );
  });

  it("has only its head where there are no rows", () => {
    expect(formatTable([{ heading: "a" }], [])).toBe("a\n─\n");
  });
});

describe("numbers", () => {
  it("are shown with fixed decimals, and a dash where there is none", () => {
    expect([fixed(0.12345), fixed(Number.NaN), fixed(null), fixed(2, 0)]).toEqual(["0.123", "–", "–", "2"]);
  });

  it("are durations", () => {
    expect([0.4, 59.4, 59.6, 125, 3725, Number.NaN].map(duration)).toEqual([
      "0 s",
      "59 s",
      "1:00",
      "2:05",
      "1:02:05",
      "–",
    ]);
  });

  it("become null in JSON where JSON has none", () => {
    expect(toJson({ a: Number.NaN, b: [Infinity, 1] })).toBe('{"a":null,"b":[null,1]}\n');
  });
});

describe("arguments", () => {
  it("are read, or refused", () => {
    expect(integer({ min: 1 })("12")).toBe(12);
    for (const wrong of ["0", "1.5", "1e3", "", "x", "0x10"])
      expect(() => integer({ min: 1 })(wrong)).toThrow(InvalidArgumentError);
    expect(number({ min: 0 })("1e-3")).toBe(0.001);
    for (const wrong of ["-1", "NaN", "Infinity", " "])
      expect(() => number({ min: 0 })(wrong)).toThrow(InvalidArgumentError);
    expect(size("96x128")).toEqual([96, 128]);
    expect(size("64")).toEqual([64, 64]);
    for (const wrong of ["0x3", "3x", "axb", "1x2x3x4", "-1"]) expect(() => size(wrong)).toThrow(InvalidArgumentError);
    expect(size("1x2x3")).toEqual([1, 2, 3]);
    expect(inputShape("2x3x64x96")).toEqual({ channels: 3, size: [64, 96] });
    expect(inputShape("64x96")).toEqual({ size: [64, 96] });
    expect(list(integer())("1, 2,3")).toEqual([1, 2, 3]);
    expect(() => list(integer())("1,,3")).toThrow(InvalidArgumentError);
    expect(() => oneOf(["cosine", "plateau"])("cosin")).toThrow("Did you mean cosine?");
  });
});

const batch: TrainingEvent = {
  type: "batch",
  epoch: 1,
  epochs: 4,
  batch: 5,
  batches: 10,
  loss: 0.4321,
  losses: { final: 0.4321 },
  learningRate: 1e-3,
  imagesPerSecond: 210.04,
  secondsLeft: 125,
};
const epoch: TrainingEvent = {
  type: "epoch",
  epoch: 1,
  epochs: 10,
  loss: 0.5,
  losses: { final: 0.5 },
  validation: { loss: 0.25, heads: { final: { dice: 0.75, nll: 0.1, loss: 0.25 } }, fused: { dice: 0.75, nll: 0.1 } },
  learningRate: 1e-3,
  seconds: 3,
  imagesPerSecond: 200,
  secondsLeft: 60,
  best: { epoch: 1, loss: 0.25 },
  improved: true,
};
const epochLine =
  "epoch  2/10  train loss 0.5000  val loss 0.2500  val Dice 0.750  val nll 0.100  200.0 images/s  1:00 left  *\n";

describe("training progress", () => {
  const show = (isTTY: boolean, events: TrainingEvent[], columns = 120) => {
    const written: string[] = [];
    const line = new StatusLine({ isTTY, columns, write: (text) => written.push(text) });
    for (const event of events) trainingProgress(line)(event);
    return written;
  };

  it("is one line per epoch where nobody watches", () => {
    expect(show(false, [batch, batch, epoch])).toEqual([epochLine]);
  });

  it("is a bar on a terminal, cleared for each lasting line", () => {
    const [drawn, cleared, lasting] = show(true, [batch, epoch]);
    expect(drawn).toBe(`\repoch 2/4 ${bar(0.375, 20)} 5/10  loss 0.4321  210.0 images/s  2:05 left\x1b[K`);
    expect([cleared, lasting]).toEqual(["\r\x1b[K", epochLine]);
  });

  it("never wraps on a narrow terminal", () => {
    const [drawn = ""] = show(true, [batch], 30);
    expect(drawn.replace("\r", "").replace("\x1b[K", "")).toHaveLength(29);
  });

  it("says what was found out before: numbers that are faster, kernels that are wrong", () => {
    const prepared = { type: "prepared", precision: "fp32" } as const;
    const detour = (i: number) => ({ kernel: `kernel ${i}`, way: "plain" });
    const kernels = { kernels: 40, tried: 12, detours: [1, 2, 3, 4, 5].map(detour) };
    expect(show(false, [{ ...prepared, stepSeconds: { fp32: 0.0123, bf16: 0.25 }, kernels }])).toEqual([
      "a batch takes 12.3 ms in float32 and 250 ms in bfloat16: fp32 is used\n",
      "12 kernels of libtorch were compared with their definition\n",
      "5 of 40 kernels of libtorch are passed by, because they are wrong on this machine or on others:\n",
      "  kernel 1: plain instead\n",
      "  kernel 2: plain instead\n",
      "  kernel 3: plain instead\n",
      '  and 2 others: see "detours" in run.json\n',
    ]);
    expect(show(false, [{ ...prepared, stepSeconds: null, kernels: { ...kernels, tried: 0, detours: [] } }])).toEqual(
      [],
    );
    const untried = { kernels: 40, tried: 0, detours: [], untried: "their process was killed" };
    expect(show(false, [{ ...prepared, stepSeconds: null, kernels: untried }])).toEqual([
      "kernels of libtorch could not be compared with their definition: their process was killed\n",
    ]);
    const [drawn] = show(true, [{ type: "preparing", done: 10, kernels: 40 }]);
    expect(drawn).toContain(`trying kernels of libtorch ${bar(0.25, 20)} 10/40`);
  });

  it("fills the bar from empty to full", () => {
    expect([bar(0, 4), bar(0.5, 4), bar(1, 4), bar(7, 4)]).toEqual(["╌╌╌╌", "━━╌╌", "━━━━", "━━━━"]);
  });
});

describe("writeTogether", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-output-"));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  const fill = async (temporary: string) => {
    mkdirSync(path.join(temporary, "sub"));
    writeFileSync(path.join(temporary, "sub", "a"), "new");
    writeFileSync(path.join(temporary, "b"), "new");
  };

  it("makes a folder with its parents", async () => {
    await writeTogether(path.join(folder, "x", "y"), "b", fill);
    expect(readdirSync(path.join(folder, "x"))).toEqual(["y"]);
    expect(readFileSync(path.join(folder, "x", "y", "sub", "a"), "utf8")).toBe("new");
  });

  const files = (target: string) =>
    (readdirSync(target, { recursive: true }) as string[])
      .filter((name) => !name.startsWith(".") && statSync(path.join(target, name)).isFile())
      .sort();

  it("leaves nothing of an earlier, larger output, and what others have put at its side", async () => {
    const target = path.join(folder, "out");
    await writeTogether(target, "b", async (temporary) => {
      await fill(temporary);
      for (const name of ["c", "sub/d", "sub/e"]) writeFileSync(path.join(temporary, name), "old");
      mkdirSync(path.join(temporary, "gone"));
      writeFileSync(path.join(temporary, "gone", "f"), "old");
    });
    writeFileSync(path.join(target, "mine"), "mine");
    await writeTogether(target, "b", fill);
    expect(files(target)).toEqual(["b", "mine", "sub/a"]);
    expect(existsSync(path.join(target, "gone"))).toBe(false);
    expect(readdirSync(target).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  it("puts nothing beside the files of others", async () => {
    for (const [name, index] of [
      ["masks/case1.png", false],
      ["sub/d", true],
    ] as const) {
      const target = path.join(folder, name.replace("/", "-"));
      mkdirSync(path.dirname(path.join(target, name)), { recursive: true });
      writeFileSync(path.join(target, name), "a truth");
      if (index) writeFileSync(path.join(target, "b"), "old");
      await expect(writeTogether(target, "b", fill)).rejects.toMatchObject({
        code: "ERR_LE_IO",
        message: expect.stringContaining(`holds ${name}`),
      });
      expect(files(target)).toEqual(index ? ["b", name] : [name]);
    }
  });

  it("is never mixed with what a killed process left half-done", async () => {
    const target = path.join(folder, "out");
    mkdirSync(path.join(target, ".0123456789abcdef.tmp", "sub"), { recursive: true });
    mkdirSync(path.join(target, "sub"));
    // Killed while the files of its second output were being moved, before the index was.
    for (const name of ["sub/a", "sub/z"]) writeFileSync(path.join(target, name), "killed");
    writeFileSync(
      path.join(target, ".layer-ensembles-files.json"),
      JSON.stringify({ files: ["b", "sub/a", "sub/y", "sub/z"] }),
    );
    await writeTogether(target, "b", fill);
    expect(files(target)).toEqual(["b", "sub/a"]);
    expect(readFileSync(path.join(target, "sub", "a"), "utf8")).toBe("new");
  });

  it("is known for what it is where its writer was killed, by who reads it", async () => {
    const target = path.join(folder, "out");
    const inside = (name: string) => checkWhole(path.join(target, name));
    await writeTogether(target, "b", fill);
    await expect(inside("sub/a")).resolves.toBeUndefined();
    rmSync(path.join(target, "b"));
    symlinkSync(path.join(target, "sub"), path.join(folder, "link"));
    const partial = { code: "ERR_LE_DATA", message: expect.stringContaining("which has no b") };
    for (const name of ["sub/a", "sub", "none", "../link/a"]) await expect(inside(name)).rejects.toMatchObject(partial);
    const unfinished = { code: "ERR_LE_DATA", message: expect.stringContaining("had not finished") };
    await expect(checkWhole(path.join(folder, ".0123456789abcdef.tmp", "a"))).rejects.toMatchObject(unfinished);
    await expect(checkWhole(path.join(folder, "x.1.tmp"))).resolves.toBeUndefined();
    // The next run mends it.
    await writeTogether(target, "b", fill);
    await expect(inside("sub/a")).resolves.toBeUndefined();
  });

  it("takes no name from its list that leads out of the folder", async () => {
    const target = path.join(folder, "out");
    mkdirSync(target);
    writeFileSync(path.join(folder, "precious"), "");
    for (const names of [["../precious"], ["/etc/passwd"], [3], "b"]) {
      writeFileSync(path.join(target, ".layer-ensembles-files.json"), JSON.stringify({ files: names }));
      await expect(writeTogether(target, "b", fill)).rejects.toMatchObject({ code: "ERR_LE_IO" });
      expect(existsSync(path.join(folder, "precious"))).toBe(true);
    }
  });

  it("neither removes nor writes files where a link to a folder leads", async () => {
    const [target, elsewhere] = [path.join(folder, "out"), path.join(folder, "elsewhere")];
    for (const made of [target, elsewhere]) mkdirSync(made);
    for (const name of ["a", "z"]) writeFileSync(path.join(elsewhere, name), "precious");
    symlinkSync(elsewhere, path.join(target, "sub"));
    for (const listed of [["b", "sub/a", "sub/z"], ["b"]]) {
      writeFileSync(path.join(target, "b"), "old");
      writeFileSync(path.join(target, ".layer-ensembles-files.json"), JSON.stringify({ files: listed }));
      await expect(writeTogether(target, "b", fill)).rejects.toMatchObject({ code: "ERR_LE_IO" });
      for (const name of ["a", "z"]) expect(readFileSync(path.join(elsewhere, name), "utf8")).toBe("precious");
      expect(readdirSync(elsewhere)).toHaveLength(2);
    }
  });

  it("leaves nothing where the work fails, in a new folder and in an old one", async () => {
    const failing = async (temporary: string) => {
      await fill(temporary);
      throw new Error("unlucky");
    };
    await expect(writeTogether(path.join(folder, "x", "y"), "b", failing)).rejects.toThrow("unlucky");
    expect(existsSync(path.join(folder, "x"))).toBe(false);
    writeFileSync(path.join(folder, "mine"), "old");
    await expect(writeTogether(folder, "b", failing)).rejects.toThrow("unlucky");
    expect(readdirSync(folder)).toEqual(["mine"]);
  });

  it("is refused beforehand where the folder cannot be", () => {
    writeFileSync(path.join(folder, "file"), "");
    expect(() => checkOutput(path.join(folder, "file", "out"), "--out")).toThrow(
      expect.objectContaining({ code: "ERR_LE_IO", message: expect.stringContaining("--out") }),
    );
    expect(() => checkOutput(path.join(folder, "new", "out"), "--out")).not.toThrow();
  });
});
