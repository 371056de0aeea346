// The command line as a user has it: real processes, their exit codes, what they say and what they leave behind.
import {
  type Dirent,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { cp } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { zipSync } from "fflate";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseCsv } from "../../lib/data/csv.js";
import { writePng } from "../../lib/data/encode-png.js";
import { readImage } from "../../lib/data/image.js";
import { readMask } from "../../lib/data/mask.js";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { scoreHeads } from "../../lib/metrics/index.js";
import { PACKAGE_ROOT, PACKAGE_VERSION } from "../../lib/package.js";
import { cli } from "../support/cli.js";
import { killedAt } from "../support/killed.js";

const COMMANDS = [
  "info",
  "convert",
  "layers",
  "train",
  "predict",
  "evaluate",
  "score",
  "serve",
  "tune",
  "compare",
  "report",
  "study",
  "demo",
  "doctor",
  "install-libtorch",
];

let folder: string;
let data: string;
let trainingId: string;
const small = ["--backbone", "plain-unet", "--width", "4", "--depth", "2", "--size", "32", "--device", "cpu"];
const train = (run: string, ...more: string[]) => ["train", "--data", data, "--run", run, ...small, ...more];
const inside = (...parts: string[]) => path.join(folder, ...parts);

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-cli-"));
  data = inside("data");
  const phantoms = await writePhantoms(data, { count: 40, size: 40, seed: 1 });
  trainingId = phantoms.find(({ split }) => split === "train")?.id ?? "";
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("usage", () => {
  const one = async (args: string[]) => {
    const { code, stdout, stderr } = await cli(args);
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
    return { code, stdout, stderr: stderr.trimEnd() };
  };

  it("shows help and version on standard output", async () => {
    const help = await cli(["--help"]);
    expect(help).toMatchObject({ code: 0, stderr: "" });
    for (const name of COMMANDS) {
      expect(help.stdout).toContain(`\n  ${name} `);
    }
    expect(await cli(["--version"])).toMatchObject({ code: 0, stdout: `${PACKAGE_VERSION}\n` });
  });

  it("gives every command an example in its help", async () => {
    for (const name of COMMANDS) {
      const { code, stdout } = await cli([name, "--help"]);
      expect(code).toBe(0);
      expect(stdout).toMatch(new RegExp(`Example:\n +layer-ensembles ${name}`));
      expect(stdout).toContain("--json");
    }
  });

  it.each([
    [["trian"], "error: unknown command 'trian' (Did you mean train?)"],
    [
      ["train", "--data", "x", "--run", "y", "--epoch", "3"],
      "error: unknown option '--epoch' (Did you mean --epochs?)",
    ],
    [["train", "--data", "x"], "error: required option '--run <dir>' not specified"],
    [["train", "--run", "x-missing"], "error: required option '--data <dir>' not specified"],
    [["train", "--run", "x", "--size", "12y"], "Expected HEIGHTxWIDTH in pixels, such as 128x128."],
    [["train", "--run", "x", "--epochs", "2.5"], "Expected a whole number of at least 1."],
    [["train", "--run", "x", "--loss", "focl"], "Did you mean focal?"],
    [["train", "--run", "x", "--device", "tpu"], "Expected auto, cpu, cuda or cuda:<index>."],
    [["train", "--data", "x", "--run", "x-missing", "--classes", "3", "--class-names", "a,b"], "--classes says 3 but"],
    [["predict", "--run", "x", "--out", "y"], "error: expected image files or --data <dir>"],
    [["predict", "--run", "x", "--out", "y", "--data", "z", "a.png"], "not both"],
    [["evaluate"], "error: expected a run folder, such as runs/busi"],
    [["tune"], "error: expected a run folder"],
    [["tune", "x", "--run", "y"], "error: expected one run folder, but received x and --run y"],
    [["certify", "--alpha", "0.1"], "error: expected a run folder"],
    [["certify", "--run", "x"], "error: expected --alpha"],
    [["score"], "missing required argument 'files'"],
    [["score", "x.npz", "--fusion", "meen"], "Did you mean mean?"],
    [["score", "x.npz", "--spacing", "1,0"], "Expected a number above 0."],
    [["layers", "unett"], '"unett" (Did you mean unet?)'],
    [["layers", "unet", "--input", "0x3"], "Expected NxCxHxW"],
  ])("ends with 2 for %j", async (args, message) => {
    const { code, stdout, stderr } = await one(args);
    expect(stderr).toContain(message);
    expect(stderr).toMatch(/^error: /);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  });

  it("ends quietly where the reader leaves early", async () => {
    const { spawnSync } = await import("node:child_process");
    const main = path.resolve("dist/cli/main.js");
    const shell = spawnSync("sh", ["-c", `"${process.execPath}" "${main}" layers unet --json | head -c 10; true`], {
      encoding: "utf8",
    });
    expect(shell.stderr).toBe("");
    expect(shell.stdout).toHaveLength(10);
  });
});

describe("layers", () => {
  it("lists layers in the order of execution, as a table and as JSON", async () => {
    const args = ["layers", "plain-unet", "--width", "4", "--depth", "2", "--input", "1x1x32x32"];
    const table = await cli(args);
    expect(table).toMatchObject({ code: 0, stderr: "" });
    const lines = table.stdout.split("\n");
    expect(lines[0]).toMatch(/^layer +type +calls +output shape +parameters +tappable$/);
    expect(lines[2]).toMatch(/^\S+ +Conv2d +1 +1×4×32×32 +36 +yes$/);
    const layers = JSON.parse((await cli([...args, "--json"])).stdout);
    expect(layers[0]).toMatchObject({ type: "Conv2d", shape: [1, 4, 32, 32], calls: 1, tappable: true });
    expect(layers.filter((layer: { tappable: boolean }) => !layer.tappable)[0].whyNot).toBeTypeOf("string");
  });

  it("refuses an option of another kind of network", async () => {
    const { code, stdout, stderr } = await cli(["layers", "unet", "--width", "4"]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/^error \[ERR_LE_OPTION\]: .*'width'.*\n$/);
  });
});

describe("score", () => {
  /** An .npy file as NumPy writes it. */
  const npy = (descr: string, shape: number[], data: ArrayBufferView) => {
    const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(", ")},), }`;
    const text = `${header.padEnd(117)}\n`;
    const start = Buffer.from([0x93, 78, 85, 77, 80, 89, 1, 0, text.length & 255, text.length >> 8]);
    return Buffer.concat([start, Buffer.from(text, "latin1"), new Uint8Array(data.buffer)]);
  };
  const logits = (seed: number) => Float32Array.from({ length: 4 * 3 * 6 * 5 }, (_, i) => 4 * Math.sin(i * seed + i));
  const shape = [4, 3, 6, 5];
  const truth = Int32Array.from({ length: 30 }, (_, i) => (i === 7 ? 255 : i % 3));
  const write = (name: string, arrays: Record<string, Uint8Array>) => {
    writeFileSync(inside(name), zipSync(arrays));
    return inside(name);
  };
  const whole = (name: string, seed: number) =>
    write(name, { "heads.npy": npy("<f4", shape, logits(seed)), "truth.npy": npy("<i4", [6, 5], truth) });

  it("measures volumes in millimetres by the place that their files say, and refuses a truth that lies elsewhere", async () => {
    const size = [4, 3, 5];
    const heads = Float32Array.from({ length: 3 * 2 * 60 }, (_, i) => 4 * Math.sin(i * 3 + i));
    const labels = Int32Array.from({ length: 60 }, (_, i) => Number(i % 4 === 0));
    // z, y and x are 2.5, 0.75 and 0.5 mm apart; x grows to the front.
    const affine = Float64Array.of(0, -0.75, 0, 12, 0.5, 0, 0, -20, 0, 0, 2.5, 30, 0, 0, 0, 1);
    const volume = (name: string, more: Record<string, Uint8Array>) =>
      write(name, { "heads.npy": npy("<f4", [3, 2, ...size], heads), "truth.npy": npy("<i4", size, labels), ...more });
    const placed = { "affine.npy": npy("<f8", [4, 4], affine) };
    const moved = (by: number) =>
      npy(
        "<f8",
        [4, 4],
        affine.map((value, i) => (i === 3 ? value + by : value)),
      );
    const json = async (file: string, ...flags: string[]) => {
      const { code, stdout } = await cli(["score", file, "--json", ...flags]);
      expect(code).toBe(0);
      return JSON.parse(stdout);
    };
    const plain = (value: unknown) => JSON.parse(JSON.stringify(value));
    const expected = (more: object) =>
      plain(
        scoreHeads(
          { data: heads, shape: [3, 2, ...size] },
          { truth: { data: Uint8Array.from(labels), shape: size }, ...more },
        ).quality,
      );
    const spaced = { spacing: [2.5, 0.75, 0.5] };
    const own = await json(volume("placed.npz", placed));
    expect(own.units).toEqual({ length: "mm", size: "ml", tolerance: 1 });
    expect(own.files[0]).toMatchObject({ ...spaced, quality: expected(spaced) });
    const same = volume("same.npz", { ...placed, "truth_affine.npy": moved(0.04) });
    expect((await json(same)).files[0].quality).toEqual(expected(spaced));
    const said = volume("said.npz", { "spacing.npy": npy("<f4", [3], Float32Array.of(2.5, 0.75, 0.5)) });
    expect((await json(said)).files[0].quality).toEqual(expected(spaced));
    const other = await json(same, "--spacing", "1,2,3", "--neighbours", "all", "--lesions");
    expect(other.files[0].quality).toEqual(expected({ spacing: [1, 2, 3], neighbours: "all" }));
    const found = other.files[0].lesions.filter(({ is }: { is: string }) => is !== "missed");
    expect(other.lesions["class 1"]).toMatchObject({
      cases: 1,
      falsePositives: expected({ neighbours: "all" }).image.falsePositives,
    });
    expect(found.length).toBeGreaterThan(0);
    for (const { aula, volume: ml, voxels } of found) {
      expect(aula).toBeGreaterThanOrEqual(0);
      expect(ml).toBeCloseTo((voxels * 6) / 1000, 12);
    }
    const bare = volume("bare.npz", {});
    expect((await json(bare)).units).toEqual({ length: "voxels", size: "voxels", tolerance: 1 });
    expect((await cli(["score", bare, "--tolerance", "2"])).stdout).toContain("HD95 (voxels)");

    const refused: [Record<string, Uint8Array>, RegExp][] = [
      [{ ...placed, "truth_affine.npy": moved(0.06) }, /truth that lies where the heads do.*0\.120 voxels away/],
      [{ "truth_affine.npy": moved(0) }, /"affine" of the heads/],
      [
        { ...placed, "spacing.npy": npy("<f8", [3], Float64Array.of(0.5, 0.75, 2.5)) },
        /"spacing" of 2\.5, 0\.75, 0\.5/,
      ],
      [{ "spacing.npy": npy("<f8", [2], Float64Array.of(1, 1)) }, /3 positive numbers/],
      [{ "affine.npy": npy("<f8", [4, 4], new Float64Array(16)) }, /affine that has an inverse/],
      [
        {
          "affine.npy": npy(
            "<f8",
            [4, 4],
            affine.map((value, i) => (i === 0 ? 0.3 : value)),
          ),
        },
        /axes at right angles/,
      ],
    ];
    for (const [more, message] of refused) {
      const { code, stderr } = await cli(["score", volume("refused.npz", more)]);
      expect([code, stderr]).toEqual([1, expect.stringMatching(message)]);
      expect(stderr).toContain("[ERR_LE_DATA]");
    }
    const mixed = await cli(["score", bare, same]);
    expect(mixed).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/say how far their pixels are apart.*--spacing/),
    });
  });

  it("gives the values of scoreHeads, as JSON, as a table and as CSV", async () => {
    const files = [1, 2, 3].map((seed) => whole(`${seed}.npz`, seed));
    const args = ["score", ...files, "--skip", "1", "--spacing", "2,0.5", "--fusion", "logit-mean"];
    const json = await cli([...args, "--json"]);
    expect(json).toMatchObject({ code: 0 });
    const { files: scores, summary } = JSON.parse(json.stdout);
    const options = { skip: 1, spacing: [2, 0.5], fusion: "logit-mean" } as const;
    const truthBytes = { data: Uint8Array.from(truth), shape: [6, 5] };
    files.forEach((file, i) => {
      const { quality, calibration, aula, summaries } = scoreHeads(
        { data: logits(i + 1), shape },
        { ...options, truth: truthBytes },
      );
      const plain = (value: unknown) => JSON.parse(JSON.stringify(value));
      expect(scores[i]).toMatchObject({ file, heads: 3, classes: 3, shape: [6, 5], aula: aula?.value });
      expect(scores[i].quality).toEqual(plain(quality));
      expect(scores[i].calibration).toEqual(plain(calibration));
      expect(scores[i].uncertainty["variance.foreground"]).toBe(summaries.variance.foreground);
    });
    expect(summary.spearmanWithDice.aula.n).toBe(3);
    expect(summary.means.dice.mean).toBeCloseTo(
      scores.reduce((sum: number, of: { quality: { image: { dice: number } } }) => sum + of.quality.image.dice, 0) / 3,
      12,
    );

    const table = await cli([...args, "--csv", inside("scores.csv")]);
    expect(table).toMatchObject({ code: 0, stderr: expect.not.stringContaining("error") });
    expect(table.stdout).toMatch(/^file +heads +AULA .* Dice +HD95 \(mm\) +MHD \(mm\) +nll +ECE\n/);
    const { columns, rows } = parseCsv(readFileSync(inside("scores.csv"), "utf8"), "scores.csv");
    expect(columns.slice(0, 5)).toEqual(["file", "lengths", "heads", "classes", "empty"]);
    expect(rows.map((row) => Number(row["hd95.2"]))).toEqual(
      scores.map((of: { quality: { perClass: Record<string, { hd95: number }> } }) => of.quality.perClass[2]?.hd95),
    );
  });

  it("needs no truth, takes .npy, and probabilities", async () => {
    writeFileSync(inside("heads.npy"), npy("<f4", shape, logits(5)));
    const { code, stdout } = await cli(["score", inside("heads.npy")]);
    expect(code).toBe(0);
    expect(stdout).not.toContain("HD95");
    const sure = Float64Array.from({ length: 4 * 2 * 3 }, (_, i) => ((i / 3) % 2 < 1 ? 0.75 : 0.25));
    const file = write("p.npz", { "heads.npy": npy("<f8", [4, 2, 3], sure) });
    const json = JSON.parse((await cli(["score", file, "--probabilities", "--json"])).stdout);
    const h = -0.75 * Math.log(0.75) - 0.25 * Math.log(0.25);
    expect(json.files[0].uncertainty["entropy.mean"]).toBeCloseTo(h, 6);
    expect(json.files[0].uncertainty["mutualInformation.mean"]).toBeCloseTo(0, 6);
  });

  it("asks whether the heads are logits", async () => {
    const p = Float32Array.from({ length: 4 * 2 * 4 * 4 }, (_, i) => {
      const foreground = 0.5 + 0.4 * Math.sin(i % 16);
      return Math.floor(i / 16) % 2 ? foreground : 1 - foreground;
    });
    const file = write("p4.npz", { "heads.npy": npy("<f4", [4, 2, 4, 4], p) });
    const refused = await cli(["score", file]);
    expect(refused).toMatchObject({ code: 1, stdout: "", stderr: expect.stringContaining("--probabilities") });
    for (const flag of ["--probabilities", "--trust"])
      expect(await cli(["score", file, flag])).toMatchObject({
        code: 0,
        stderr: expect.not.stringContaining("warning"),
      });
    // Sigmoids of single classes, and heads without an axis of classes.
    const sigmoids = write("s.npz", {
      "heads.npy": npy(
        "<f4",
        [4, 2, 4, 4],
        p.map((value) => value * value),
      ),
    });
    expect(await cli(["score", sigmoids])).toMatchObject({
      code: 0,
      stderr: expect.stringContaining("from 0 to 1 and taken for logits"),
    });
    const flat = write("flat.npz", {
      "heads.npy": npy(
        "<f4",
        [8, 4, 4],
        p.map((value) => value * 9),
      ),
    });
    expect((await cli(["score", flat])).stderr).toContain("8 heads of 4 classes and 4 pixels");
  });

  it("refuses files that are missing, damaged, or hold something else, and leaves no table", async () => {
    const good = whole("good.npz", 1);
    const bytes = readFileSync(good);
    const at = (name: string, content: Uint8Array) => {
      writeFileSync(inside(name), content);
      return inside(name);
    };
    const wrong = Uint8Array.from(bytes);
    wrong[300] = (wrong[300] as number) ^ 255;
    const cases: [string, string][] = [
      [inside("none.npz"), "received none"],
      [at("short.npz", bytes.subarray(0, bytes.length / 2)), "cannot be read"],
      [at("text.npz", Buffer.from("not a zip file at all, but some text")), "cannot be read"],
      [at("flipped.npz", wrong), "ERR_LE_DATA"],
      [write("no-heads.npz", { "truth.npy": npy("<i4", [6, 5], truth) }), 'an array "heads"'],
      [write("ints.npz", { "heads.npy": npy("<i4", [6, 5], truth) }), "floating-point"],
      [write("complex.npz", { "heads.npy": npy("<c8", shape, logits(1)) }), "c8"],
      [write("nan.npz", { "heads.npy": npy("<f4", shape, logits(Number.NaN)) }), "finite"],
      [
        write("label.npz", {
          "heads.npy": npy("<f4", shape, logits(1)),
          "truth.npy": npy(
            "<i4",
            [6, 5],
            truth.map((y) => y - 1),
          ),
        }),
        "labels below 3 (classes)",
      ],
    ];
    for (const [file, message] of cases) {
      const { code, stdout, stderr } = await cli(["score", good, file, "--csv", inside("bad.csv")]);
      expect(stderr, file).toContain(message);
      expect(stderr).toMatch(/error \[ERR_LE_\w+\]: .*\n$/);
      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(existsSync(inside("bad.csv"))).toBe(false);
    }
  });
});

describe("a run from beginning to end", () => {
  let run: string;
  beforeAll(async () => {
    run = inside("run");
    const ended = await cli(train(run, "--epochs", "2", "--batch-size", "8"));
    expect(ended).toMatchObject({ code: 0 });
    const epochs = ended.stderr.split("\n").filter((line) => line.startsWith("epoch "));
    expect(epochs).toHaveLength(2);
    expect(epochs[1]).toMatch(/^epoch 2\/2 +train loss [\d.]+ +val loss [\d.]+ +val Dice [\d.]+ /);
    expect(ended.stderr).not.toContain("\x1b");
    expect(ended.stdout).toMatch(/\n +fused +[\d.]+ +[\d.]+\n/);
    expect(ended.stdout).toMatch(/Trained 2 epochs/);
  });

  it("leaves a run folder with everything and no temporary files", () => {
    const files = readdirSync(run);
    for (const name of ["run.json", "weights.safetensors", "state.safetensors", "history.csv"])
      expect(files).toContain(name);
    expect(files.filter((name) => name.endsWith(".tmp"))).toEqual([]);
    const { notes, ensemble } = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8"));
    expect(notes).toMatchObject({
      preprocessing: { size: [32, 32], resize: "stretch", channels: 1 },
      classNames: ["background", expect.any(String)],
    });
    expect(ensemble).toMatchObject({ classes: 2, final: true, taps: [expect.any(String), expect.any(String)] });
  });

  it("lists the layers of the run", async () => {
    const { code, stdout } = await cli(["layers", run, "--json", "--input", "32x32"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout).length).toBeGreaterThan(10);
  });

  it("predicts a split: pictures of the stored size and a line per image", async () => {
    const out = inside("predictions");
    const maps = "entropy,variance";
    const ended = await cli([
      "predict",
      "--run",
      run,
      "--data",
      data,
      "--split",
      "test",
      "--out",
      out,
      "--json",
      "--maps",
      maps,
    ]);
    expect(ended.stderr).toBe("");
    expect(ended.code).toBe(0);
    const records = ended.stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(readFileSync(path.join(out, "predictions.jsonl"), "utf8")).toBe(ended.stdout);
    const { rows } = parseCsv(readFileSync(path.join(data, "split.csv"), "utf8"), "split.csv");
    expect(records.map(({ id }) => id)).toEqual(rows.filter(({ split }) => split === "test").map(({ id }) => id));
    for (const record of records) {
      expect(record.aula.normalised).toBeGreaterThanOrEqual(0);
      expect(record.aula.normalised).toBeLessThanOrEqual(1);
      expect(record.summaries.entropy.sum).toBeGreaterThanOrEqual(0);
      expect(record.summaries.mutualInformation.mean).toBeGreaterThanOrEqual(0);
      expect(record.files).toMatchObject({
        mask: expect.any(String),
        entropy: expect.any(String),
        variance: expect.any(String),
      });
      for (const [what, file] of Object.entries<string>(record.files)) {
        const { shape } = await readImage(path.join(out, file));
        if (what !== "overlay") expect(shape.slice(1)).toEqual([40, 40]);
      }
      const mask = await readMask(path.join(out, record.files.mask));
      const area = mask.data.filter((value) => value === 255).length;
      expect(Object.values(record.area)).toEqual([1600 - area, area]);
      const grey = await readImage(path.join(out, record.files.probability));
      mask.data.forEach((label, i) => {
        if (label === 255) expect(grey.data[i]).toBeGreaterThanOrEqual(127);
        else expect(grey.data[i]).toBeLessThanOrEqual(128);
      });
    }
  });

  it("predicts files by path, and says so in a table", async () => {
    const out = inside("by-path");
    const file = path.join(data, "images", "phantom_0001.png");
    const ended = await cli(["predict", "--run", run, "--out", out, "--maps", "none", "--fusion", "vote", file]);
    expect(ended).toMatchObject({ code: 0, stderr: "" });
    expect(ended.stdout).toMatch(/\nphantom_0001 /);
    expect(readdirSync(out).sort()).toEqual([
      ".layer-ensembles-files.json",
      "masks",
      "overlays",
      "predictions.jsonl",
      "probabilities",
    ]);
  });

  it("writes inner and outer masks by their thresholds, and counts them", async () => {
    const out = inside("sets");
    const file = path.join(data, "images", "phantom_0001.png");
    const ended = await cli(["predict", "--run", run, "--out", out, "--json", "--sets", "0.3,0.99", file]);
    expect(ended).toMatchObject({ code: 0, stderr: "" });
    const { files, sets, area } = JSON.parse(ended.stdout);
    expect(files).toMatchObject({ inner: "inner/phantom_0001.png", outer: "outer/phantom_0001.png" });
    const [inner, outer, mask] = await Promise.all(
      ["inner", "outer", "mask"].map(async (what) => (await readMask(path.join(out, files[what]))).data),
    );
    const [name, sizes] = Object.entries<{ inner: number; outer: number }>(sets)[0] as [
      string,
      { inner: number; outer: number },
    ];
    expect(area).toHaveProperty(name);
    expect(sizes).toEqual({
      inner: inner?.filter((one) => one === 255).length,
      outer: outer?.filter((one) => one === 255).length,
    });
    expect(inner?.every((one, i) => one <= (outer?.[i] as number) && one <= (mask?.[i] as number))).toBe(true);
    expect(sizes.inner).toBeGreaterThan(0);
    expect(sizes.outer).toBeGreaterThan(sizes.inner);

    const alone = await cli(["predict", "--run", run, "--out", inside("outer"), "--json", "--sets", "none,1", file]);
    expect(JSON.parse(alone.stdout).sets).toEqual({ [name]: { outer: 1600 } });
    for (const wrong of ["0.5", "0.9,0.3", "10,95", "a,b", "0.1,0.2,0.3", ""]) {
      const refused = await cli(["predict", "--run", run, "--out", inside("wrong"), "--sets", wrong, file]);
      expect(refused).toMatchObject({ code: 2, stdout: "" });
      expect(refused.stderr).toMatch(/--sets/);
    }
  });

  it("never mixes what a killed predict left with the next one's", async () => {
    const [out, fresh] = [inside("killed"), inside("never-killed")];
    const predict = (split: string, folder: string, killAt?: string) =>
      cli(["predict", "--run", run, "--data", data, "--split", split, "--out", folder], {
        env: killAt === undefined ? {} : killedAt(killAt, folder),
      });
    const files = (of: string) =>
      Object.fromEntries(
        (readdirSync(of, { recursive: true, withFileTypes: true }) as Dirent[])
          .filter((entry) => entry.isFile())
          .map(({ parentPath, name }) => path.join(parentPath, name))
          .map((file) => [path.relative(of, file), readFileSync(file).toString("base64")]),
      );
    expect((await predict("test", fresh)).code).toBe(0);
    expect((await predict("train", out)).code).toBe(0);
    // While it works, the earlier output is what there is.
    const before = files(out);
    expect(await predict("test", out, "make 5")).toMatchObject({ signal: "SIGKILL" });
    const left = Object.keys(files(out)).filter((name) => !(name in before));
    expect(left.length).toBeGreaterThan(4);
    for (const name of left) expect(name).toMatch(/^\.[0-9a-f]{16}\.tmp\//);
    expect(files(out)).toMatchObject(before);
    expect((await cli(["score", path.join(out, left[0] as string)])).stderr).toContain("had not finished");
    for (const killAt of ["move 0", "move 3"]) {
      expect(await predict("test", out, killAt)).toMatchObject({ signal: "SIGKILL" });
      expect(existsSync(path.join(out, "predictions.jsonl"))).toBe(false);
      const scored = await cli(["score", path.join(out, "probabilities", "any.npy")]);
      expect(scored).toMatchObject({ code: 1, stdout: "" });
      expect(scored.stderr).toMatch(/ERR_LE_DATA.*whole output .* which has no predictions.jsonl/);
    }
    expect((await predict("test", out)).code).toBe(0);
    expect(files(out)).toEqual(files(fresh));
  });

  it("evaluates a split: what is printed, images.csv and summary.json agree", async () => {
    const out = inside("evaluation");
    const ended = await cli(["evaluate", "--run", run, "--data", data, "--split", "test", "--out", out, "--json"]);
    expect(ended).toMatchObject({ code: 0, stderr: "" });
    const printed = JSON.parse(ended.stdout);
    const { scores, ...summary } = printed;
    expect(JSON.parse(readFileSync(path.join(out, "summary.json"), "utf8"))).toEqual(summary);
    const { rows } = parseCsv(readFileSync(path.join(out, "images.csv"), "utf8"), "images.csv");
    expect(rows).toHaveLength(summary.images);
    const dice = rows.map((row) => Number(row.dice));
    expect(summary.means.dice.mean).toBeCloseTo(dice.reduce((a, b) => a + b, 0) / dice.length, 10);
    const aula = rows.map((row) => Number(row.aula));
    expect(aula).toEqual([...aula].sort((a, b) => a - b));
    for (const name of [
      "aula",
      "pairwiseAgreement",
      "softDiceConfidence",
      "entropy.sum",
      "entropy.mean",
      "entropy.foreground",
    ]) {
      expect(summary.spearmanWithDice).toHaveProperty([name]);
    }
    expect(Object.keys(summary.headDice)).toEqual(
      JSON.parse(readFileSync(path.join(run, "run.json"), "utf8")).ensemble.taps.concat("final"),
    );
    expect(scores[0].id).toBe(rows[0]?.id);
  });

  it("measures Dice at the stored size on what predict writes", async () => {
    const out = inside("checked");
    await cli(["predict", "--run", run, "--data", data, "--split", "test", "--out", out]);
    const evaluated = JSON.parse(
      (await cli(["evaluate", "--run", run, "--data", data, "--out", inside("checked-evaluation"), "--json"])).stdout,
    );
    for (const { id, dice } of evaluated.scores) {
      const predicted = (await readMask(path.join(out, "masks", `${id}.png`))).data;
      const truth = (await readMask(path.join(data, "masks", `${id}.png`))).data;
      let [both, sum] = [0, 0];
      predicted.forEach((value, i) => {
        both += Number(value > 0 && truth[i]! > 0);
        sum += Number(value > 0) + Number(truth[i]! > 0);
      });
      expect(dice).toBeCloseTo(sum === 0 ? 1 : (2 * both) / sum, 10);
    }
  });

  it("leaves AULA out where fewer than three heads are kept", async () => {
    const { taps } = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8")).ensemble;
    const skip = String(taps.length - 1);
    const ended = await cli([
      "evaluate",
      "--run",
      run,
      "--data",
      data,
      "--out",
      inside("skipped"),
      "--skip",
      skip,
      "--json",
    ]);
    expect(ended.code).toBe(0);
    const { aula, pairwiseAgreement } = JSON.parse(ended.stdout).scores[0];
    expect(aula).toBeNull();
    expect(pairwiseAgreement).toBeTypeOf("number");
  });

  it("refuses to skip all heads, and writes nothing", async () => {
    const out = inside("none-left");
    const ended = await cli(["predict", "--run", run, "--data", data, "--out", out, "--skip", "99"]);
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(/^error \[ERR_LE_OPTION\]: .*skip/);
    expect(existsSync(out)).toBe(false);
  });

  it("refuses a folder that holds a run, without --resume", async () => {
    const before = readFileSync(path.join(run, "weights.safetensors"));
    const ended = await cli(train(run));
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(/^error \[ERR_LE_IO\]: .*--resume/);
    expect(readFileSync(path.join(run, "weights.safetensors"))).toEqual(before);
  });

  it("resumes with the run's own options, with more epochs, and refuses others", async () => {
    const copy = inside("longer");
    await cp(run, copy, { recursive: true });
    const other = await cli(["train", "--run", copy, "--resume", "--loss", "focal"]);
    expect(other.code).toBe(2);
    expect(other.stderr).toContain("--loss");
    const ended = await cli(["train", "--run", copy, "--resume", "--epochs", "3", "--json"]);
    expect(ended.stderr).toContain("resuming at epoch 3 of 3");
    expect(ended.code).toBe(0);
    expect(JSON.parse(ended.stdout).epochs).toBe(3);
  });

  it("names a run whose weights are cut short", async () => {
    const copy = inside("cut");
    await cp(run, copy, { recursive: true });
    truncateSync(path.join(copy, "weights.safetensors"), 1000);
    const out = inside("cut-out");
    const ended = await cli(["predict", "--run", copy, "--data", data, "--out", out]);
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(/^error \[ERR_LE_CHECKPOINT\]: .*weights\.safetensors/);
    expect(existsSync(out)).toBe(false);
  });

  it("writes no half of a prediction where an image is corrupt", async () => {
    const good = path.join(data, "images", "phantom_0001.png");
    const bad = inside("bad.png");
    writeFileSync(bad, readFileSync(good).subarray(0, 500));
    const out = inside("half");
    const ended = await cli(["predict", "--run", run, "--out", out, "--batch-size", "1", good, bad]);
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(/^error \[ERR_LE_DATA\]: .*bad\.png.*\n$/);
    expect(existsSync(out)).toBe(false);
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  it("refuses an output folder that is a file, and shows the stack with --debug", async () => {
    const file = inside("a-file");
    writeFileSync(file, "mine");
    const ended = await cli(["evaluate", "--run", run, "--data", data, "--out", path.join(file, "out"), "--debug"]);
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(/^error \[ERR_LE_IO\]: .*a-file is a file\.\n/);
    expect(ended.stderr).toMatch(/\n +at /);
    expect(readFileSync(file, "utf8")).toBe("mine");
  });
});

describe("bad data", () => {
  const spoiled = async (name: string, spoil: (copy: string) => Promise<void> | void) => {
    const copy = inside(name);
    await cp(data, copy, { recursive: true });
    await spoil(copy);
    const run = inside(`${name}-run`);
    const ended = await cli(["train", "--data", copy, "--run", run, ...small, "--epochs", "1", "--classes", "2"]);
    expect(existsSync(run)).toBe(false);
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr.trimEnd().split("\n")).toHaveLength(1);
    return ended.stderr;
  };

  it("names a corrupt image and leaves no run behind", async () => {
    const message = await spoiled("corrupt", (copy) =>
      truncateSync(path.join(copy, "images", `${trainingId}.png`), 400),
    );
    expect(message).toMatch(/^error \[ERR_LE_DATA\]: /);
    expect(message).toContain(`${trainingId}.png`);
  });

  it("names an id without a file", async () => {
    const message = await spoiled("missing", (copy) => rmSync(path.join(copy, "images", "phantom_0004.png")));
    expect(message).toMatch(/^error \[ERR_LE_DATA\]: .*phantom_0004/);
  });

  it("names a mask with a label that is no class", async () => {
    const message = await spoiled("label", (copy) =>
      writePng(path.join(copy, "masks", "phantom_0005.png"), { data: new Uint8Array(1600).fill(7), shape: [40, 40] }),
    );
    expect(message).toMatch(/^error \[ERR_LE_DATA\]: .*phantom_0005.* 7/);
  });

  it("names a tap that does not exist, with the nearest", async () => {
    const run = inside("tap-run");
    const ended = await cli(train(run, "--taps", "encoder.0.9"));
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(/^error \[ERR_LE_TAP\]: .*encoder\.0\.9.*encoder\.0\./);
    expect(existsSync(run)).toBe(false);
  });

  it("takes a layer of several names once for a pattern, by the first of its names that fits", async () => {
    const model = path.join(PACKAGE_ROOT, "test/fixtures/semantics/aliased-traced.pt");
    const tapped = async (pattern: string) => {
      const run = inside(`pattern-run-${pattern.length}`);
      const options = ["--size", "32", "--device", "cpu", "--epochs", "1", "--no-final", "--taps", pattern];
      expect(await cli(["train", "--data", data, "--run", run, "--model", model, ...options])).toMatchObject({
        code: 0,
      });
      return JSON.parse(readFileSync(path.join(run, "run.json"), "utf8")).ensemble.taps;
    };
    const blocks = ["encoder.stages.0", "encoder.stages.1.0", "encoder.stages.1.1", "decoder.stage"];
    expect(await tapped("**.nonlin")).toEqual(blocks.map((block) => `${block}.nonlin`));
    expect(await tapped("**.all_modules.2")).toEqual(blocks.map((block) => `${block}.all_modules.2`));
  });

  it("names a device that is not there", async () => {
    const run = inside("device-run");
    const args = train(run).filter((argument) => argument !== "--device" && argument !== "cpu");
    const ended = await cli([...args, "--device", "cuda:63"]);
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(/^error \[ERR_LE_DEVICE\]: /);
    expect(existsSync(run)).toBe(false);
  });

  it("names a split that is empty", async () => {
    const ended = await cli(train(inside("split-run"), "--train-split", "trane"));
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(/^error \[ERR_LE_DATA\]: .*"trane".*train/);
  });
});

describe("splits drawn at random", () => {
  it("are recorded, and evaluate uses the recorded ones", async () => {
    const copy = inside("drawn");
    await cp(data, copy, { recursive: true });
    rmSync(path.join(copy, "split.csv"));
    const run = inside("drawn-run");
    const trained = await cli([
      "train",
      "--data",
      copy,
      "--run",
      run,
      ...small,
      "--epochs",
      "1",
      "--test-fraction",
      "0.2",
    ]);
    expect(trained.code).toBe(0);
    const { drawn } = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8")).notes.data;
    expect(drawn.test).toHaveLength(8);
    // An image that was added later must not move one from training to test.
    await cp(path.join(copy, "images", "phantom_0001.png"), path.join(copy, "images", "aaa.png"));
    await cp(path.join(copy, "masks", "phantom_0001.png"), path.join(copy, "masks", "aaa.png"));
    const ended = await cli(["evaluate", "--run", run, "--json"]);
    expect(ended.code).toBe(0);
    const ids = JSON.parse(ended.stdout).scores.map(({ id }: { id: string }) => id);
    expect(ids.sort()).toEqual([...drawn.test].sort());
  });
});

describe("an interrupted training", () => {
  it("keeps its checkpoint, says how to go on, and ends as an unbroken one would", async () => {
    const [broken, whole] = [inside("broken"), inside("whole")];
    const options = ["--epochs", "12", "--threads", "1"];
    let sent = false;
    const stopped = await cli(train(broken, ...options), {
      onProgress: (text, kill) => {
        if (sent || !text.includes("epoch  3/12")) return;
        sent = true;
        kill("SIGINT");
      },
    });
    expect(stopped).toMatchObject({ code: 130, signal: null, stdout: "" });
    expect(stopped.stderr).toContain(`layer-ensembles train --run ${broken} --resume`);
    const resumed = await cli(["train", "--run", broken, "--resume"]);
    expect(resumed.code).toBe(0);
    expect(resumed.stderr).toMatch(/resuming at epoch (4|5|6|7|8|9|10|11|12) of 12/);
    expect(await cli(train(whole, ...options))).toMatchObject({ code: 0 });
    const weights = (run: string) => readFileSync(path.join(run, "weights.safetensors"));
    expect(weights(broken).equals(weights(whole))).toBe(true);
  });

  it("is killed by a second signal", async () => {
    let signals = 0;
    const ended = await cli(train(inside("killed"), "--epochs", "5000"), {
      onProgress: (text, kill) => {
        if (signals === 0 && text.includes("epoch    1/5000")) {
          signals = 1;
          kill("SIGINT");
          kill("SIGINT");
        }
      },
    });
    // Signals that come together may be one; then the first stops it.
    expect(ended.signal === "SIGINT" || ended.code === 130).toBe(true);
  });
});

describe("the demo", () => {
  it("makes images, a run and a page", async () => {
    const out = inside("demo");
    const ended = await cli(["demo", "--out", out, "--images", "40", "--epochs", "1", "--device", "cpu", "--json"]);
    expect(ended.code).toBe(0);
    const { page, images, scores } = JSON.parse(ended.stdout);
    expect(page).toBe(path.join(out, "index.html"));
    expect(scores).toHaveLength(images);
    expect(readFileSync(page, "utf8")).toMatch(/^<!doctype html>[\s\S]*<\/html>\s*$/);
    const evaluated = await cli(["evaluate", "--run", path.join(out, "run"), "--json"]);
    expect(evaluated.code).toBe(0);
    expect(JSON.parse(evaluated.stdout).means.dice.mean).toBeCloseTo(JSON.parse(ended.stdout).means.dice.mean, 3);
  });

  it("keeps its hands off a folder that holds something else", async () => {
    const out = inside("demo-mine");
    await cp(data, path.join(out, "data"), { recursive: true });
    const ended = await cli(["demo", "--out", out]);
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(/^error \[ERR_LE_IO\]: .*demo-mine/);
    expect(existsSync(path.join(out, "data", "split.csv"))).toBe(true);
  });
});
