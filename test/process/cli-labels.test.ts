// What masks mean, what does not count and what may not be in two splits: as the commands have it, from training to comparison.
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { zipSync } from "fflate";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writePng } from "../../lib/data/encode-png.js";
import { encodeNpy } from "../../lib/data/npy-file.js";
import { cli } from "../support/cli.js";
import { discs } from "../support/model.js";

const SIZE = 24;
let folder: string;
const inside = (...parts: string[]) => path.join(folder, ...parts);

/** A folder of twelve discs, six to train on, three for validation and three for testing. */
async function data(name: string, change: (mask: Uint8Array, i: number) => void, from = 0): Promise<void> {
  const rows = ["id,split"];
  for (const [i, { image, mask }] of discs(from + 12, SIZE)
    .slice(from)
    .entries()) {
    const labels = mask.data.slice();
    change(labels, i);
    const grey = Uint8Array.from(image.data, (value) => 80 + 60 * value);
    await writePng(inside(name, "images", `c${i}.png`), { data: grey, shape: [SIZE, SIZE] });
    await writePng(inside(name, "masks", `c${i}.png`), { data: labels, shape: [SIZE, SIZE] });
    rows.push(`c${i},${i < 6 ? "train" : i < 9 ? "val" : "test"}`);
  }
  writeFileSync(inside(name, "split.csv"), `${rows.join("\n")}\n`);
}

const train = (name: string, run: string, ...more: string[]) =>
  cli([
    ...["train", "--data", inside(name), "--run", inside(run), "--backbone", "plain-unet", "--width", "4"],
    ...["--depth", "2", "--size", String(SIZE), "--device", "cpu", "--precision", "fp32", "--epochs", "1", "--json"],
    ...more,
  ]);
const evaluate = (run: string, name: string, ...more: string[]) =>
  cli(["evaluate", "--run", inside(run), "--data", inside(name), "--out", inside("out"), "--json", ...more]);
const notes = (run: string) => JSON.parse(readFileSync(inside(run, "run.json"), "utf8")).notes;

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-labels-"));
  await data("index", () => {});
  await data("full", (mask) =>
    mask.forEach((label, i) => {
      mask[i] = 255 * label;
    }),
  );
  // Nine pixels of each mask do not count, and of the last image none does.
  await data("ignored", (mask, i) => mask.fill(255, 0, i === 11 ? mask.length : 9));
  const trained = await Promise.all([
    train("index", "of-index"),
    train("full", "of-full"),
    train("ignored", "of-ignored"),
  ]);
  for (const { code, stderr } of trained) expect(code, stderr).toBe(0);
  const [index, full, ignored] = trained;
  expect(JSON.parse(index?.stdout ?? "")).toMatchObject({
    labels: { ignore: null, scale: "index" },
    ignored: { pixels: 0 },
  });
  expect(JSON.parse(full?.stdout ?? "")).toMatchObject({ labels: { ignore: null, scale: "0/255" } });
  expect(JSON.parse(ignored?.stdout ?? "").ignored).toEqual({ pixels: 81, images: 9, unlabelled: 0 });
  expect(ignored?.stderr).toContain("ignored (label 255): 81 pixels of 9 of 9 images\n");
  for (const { stderr } of [index, full] as { stderr: string }[]) expect(stderr).not.toContain("ignored");
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("the rule of a run", () => {
  it("is recorded, and holds for other folders: a mask that contradicts it is refused by name", async () => {
    expect(notes("of-full").labels).toEqual({ ignore: null, scale: "0/255" });
    const [other, reverse] = await Promise.all([evaluate("of-index", "full"), evaluate("of-full", "index")]);
    expect(other).toMatchObject({ code: 1, stdout: "" });
    expect(other.stderr).toMatch(/ERR_LE_DATA.*masks.c0\.png .*the label 255, .*--ignore 255.*--labels 0\/255/);
    expect(reverse).toMatchObject({ code: 1, stdout: "" });
    expect(reverse.stderr).toMatch(/ERR_LE_DATA.*masks.c0\.png but received 1\n/);
    const said = await evaluate("of-index", "full", "--labels", "0/255");
    expect(said.code, said.stderr).toBe(0);
    expect(JSON.parse(said.stdout).ignored.pixels).toBe(0);
  });

  it("asks what 255 means in another folder's masks of 0 and 255 alone, where the training ignored it", async () => {
    await data("controls", (mask) => mask.fill(0).fill(255, 0, 20));
    const [refused, tuned, full] = await Promise.all([
      evaluate("of-ignored", "controls"),
      cli(["tune", inside("of-ignored"), "--data", inside("full"), "--dry-run"]),
      evaluate("of-ignored", "full", "--labels", "0/255"),
    ]);
    for (const ended of [refused, tuned]) {
      expect(ended).toMatchObject({ code: 1, stdout: "" });
      expect(ended.stderr).toMatch(/ERR_LE_DATA.*masks.c0\.png but received 0 and 255 alone: say --labels 0\/255/);
    }
    expect(full.code, full.stderr).toBe(0);
    expect(JSON.parse(full.stdout).ignored.pixels).toBe(0);
    const { code, stdout, stderr } = await evaluate("of-ignored", "controls", "--labels", "index");
    expect(code, stderr).toBe(0);
    expect(stderr).toContain("ignored: 60 pixels of 3 of 3 images\n");
    expect(stderr).toMatch(/warning: the mask .*c0\.png holds 0 and 255 alone: .*--labels 0\/255/);
    for (const { quality } of JSON.parse(stdout).scores) expect(quality.perClass[1].sensitivity).toBeNull();
  });
});

describe("masks of another kind in the split that is reported", () => {
  it("are named where an option took them for what does not count", async () => {
    await data("mixed", (mask, i) => {
      if (i >= 9) mask.set(mask.map((label) => 255 * label));
    });
    const refused = await train("mixed", "of-mixed");
    expect(refused.stderr).toMatch(/ERR_LE_DATA.*masks of one kind .* 0 and 255 in .*c10\.png/);
    const trained = await train("mixed", "of-mixed", "--labels", "index");
    expect(trained.code, trained.stderr).toBe(0);
    expect(trained.stderr).toMatch(/warning: the mask .*c10\.png holds 0 and 255 alone/);
    const [evaluated, compared] = [
      await evaluate("of-mixed", "mixed"),
      await cli(["compare", inside("of-mixed"), "--out", inside("mixed-compared"), "--no-report"]),
    ];
    for (const { code, stderr } of [evaluated, compared]) {
      expect(code, stderr).toBe(0);
      expect(stderr).toMatch(/warning: the mask .*c10\.png holds 0 and 255 alone/);
    }
  });
});

describe("an image of which no pixel counts", () => {
  it("has no Dice, is left out of means and ranks, and is counted", async () => {
    const { code, stdout, stderr } = await evaluate("of-ignored", "ignored");
    expect(code, stderr).toBe(0);
    expect(stderr).toContain("no pixel is left of 1, which has no Dice");
    const { scores, means, images, withDice, ignored } = JSON.parse(stdout);
    expect({ images, withDice, ignored }).toEqual({
      images: 3,
      withDice: 2,
      ignored: { pixels: 18 + SIZE ** 2, images: 3, unlabelled: 1 },
    });
    const blank = scores.find(({ id }: { id: string }) => id === "c11");
    expect(blank).toMatchObject({ dice: null, hausdorff: null, nll: null, ignored: SIZE ** 2 });
    const others = scores.flatMap(({ dice }: { dice: number | null }) => (dice === null ? [] : [dice]));
    expect(means.dice).toMatchObject({ mean: (others[0] + others[1]) / 2, n: 2, leftOut: 1 });
  });

  it("goes through tune, compare and its report", async () => {
    const [tuned, compared] = await Promise.all([
      cli(["tune", inside("of-ignored"), "--dry-run"]),
      cli(["compare", inside("of-ignored"), "--out", inside("comparison")]),
    ]);
    expect(tuned.code, tuned.stderr).toBe(0);
    expect(tuned.stderr).toContain("ignored (label 255): 27 pixels of 3 of 3 images\n");
    expect(compared.code, compared.stderr).toBe(0);
    expect(compared.stdout).toContain("no pixel is left of 1");
    const { runs, methods, data } = JSON.parse(readFileSync(inside("comparison", "results.json"), "utf8"));
    const blank = runs[0].images.filter(({ dice }: { dice: number | null }) => dice === null);
    expect(blank).toMatchObject([{ id: "c11" }]);
    expect(methods[0].quality.dice).toMatchObject({ n: 2, leftOut: 1 });
    expect(data.ignored.unlabelled).toBe(1);
  });
});

describe("images in two splits", () => {
  it("are refused by name, unless they are allowed, and told then", async () => {
    cpSync(inside("index"), inside("twice"), { recursive: true });
    cpSync(inside("twice", "images", "c1.png"), inside("twice", "images", "c7.png"));
    const refused = await train("twice", "of-twice");
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toMatch(
      /ERR_LE_DATA.*the same image as c1 in "train" and as c7 in "val".*--allow-duplicates/,
    );
    cpSync(inside("index"), inside("later"), { recursive: true });
    cpSync(inside("later", "images", "c7.png"), inside("later", "images", "c10.png"));
    // One after another: they write to one folder.
    const test = await evaluate("of-index", "later");
    const allowed = await evaluate("of-index", "later", "--allow-duplicates");
    const own = await evaluate("of-index", "index", "--split", "train");
    expect(test).toMatchObject({ code: 1, stdout: "" });
    expect(test.stderr).toMatch(/ERR_LE_DATA.*the same image as c7 in "val" and as c10 in "test"/);
    expect(allowed.code, allowed.stderr).toBe(0);
    expect(JSON.parse(allowed.stdout).seen).toBe(1);
    expect(own.stderr).toContain("6 of the 6 images are among those that the training, the validation or tune saw");
  });
});

describe("a run of a version that compared images otherwise", () => {
  it("is named by every command that would refuse what it has seen", async () => {
    cpSync(inside("of-index"), inside("of-older"), { recursive: true });
    const file = inside("of-older", "run.json");
    const run = JSON.parse(readFileSync(file, "utf8"));
    for (const images of Object.values<[string, string][]>(run.notes.data.contents))
      for (const image of images) image[1] = image[1].slice(2);
    writeFileSync(file, JSON.stringify(run));
    const said = `${inside("of-older")} does not record what its images of "train"`;
    const [evaluated, tuned, compared] = [
      await evaluate("of-older", "index"),
      await cli(["tune", inside("of-older"), "--dry-run"]),
      await cli(["compare", inside("of-older"), "--out", inside("of-older-compared")]),
    ];
    expect(evaluated.stderr).toContain(said);
    expect(JSON.parse(evaluated.stdout).unknown).toEqual(["train", "val"]);
    expect(tuned.stderr).toContain(said);
    expect(compared.stdout).toContain(said);
    const { data } = JSON.parse(readFileSync(inside("of-older-compared", "results.json"), "utf8"));
    expect(data.unknown).toEqual([{ run: inside("of-older"), splits: ["train", "val"] }]);
  });
});

describe("images that tune has seen", () => {
  it("are refused like those of the training where the choice is judged", async () => {
    await data("elsewhere", () => {}, 12);
    cpSync(inside("elsewhere", "images", "c6.png"), inside("elsewhere", "images", "c9.png"));
    cpSync(inside("elsewhere", "masks", "c6.png"), inside("elsewhere", "masks", "c9.png"));
    cpSync(inside("of-index"), inside("tuned"), { recursive: true });
    const before = await evaluate("tuned", "elsewhere");
    expect(before.code, before.stderr).toBe(0);
    const tuned = await cli(["tune", inside("tuned"), "--data", inside("elsewhere"), "--json"]);
    expect(tuned.code, tuned.stderr).toBe(0);
    expect(JSON.parse(tuned.stdout).tuning).not.toHaveProperty("contents");
    const [test, own] = [await evaluate("tuned", "elsewhere"), await evaluate("tuned", "elsewhere", "--split", "val")];
    expect(test).toMatchObject({ code: 1, stdout: "" });
    expect(test.stderr).toMatch(/ERR_LE_DATA.*the same image as c6 in "val of .*elsewhere" and as c9 in "test"/);
    expect(own.stderr).toContain("3 of the 3 images are among those that the training, the validation or tune saw");
  });
});

describe("score", () => {
  const heads = { data: Float32Array.from({ length: 24 }, (_, i) => Math.sin(i)), shape: [3, 2, 2, 2] };
  const file = (name: string, truth: Uint8Array) => {
    const arrays = { "heads.npy": encodeNpy(heads), "truth.npy": encodeNpy({ data: truth, shape: [2, 2] }) };
    writeFileSync(inside(name), zipSync(arrays));
    return inside(name);
  };

  it("reads the truths of all files by one rule", async () => {
    const index = file("a.npz", Uint8Array.of(0, 1, 1, 0));
    const full = file("b.npz", Uint8Array.of(0, 255, 255, 0));
    const part = file("c.npz", Uint8Array.of(0, 1, 255, 255));
    const none = file("d.npz", Uint8Array.of(255, 255, 255, 255));
    const [one, other, both, ignored] = await Promise.all([
      cli(["score", index, "--json"]),
      cli(["score", full, "--json"]),
      cli(["score", index, full, "--json"]),
      cli(["score", part, none, "--json"]),
    ]);
    const of = (ended: { stdout: string }) => JSON.parse(ended.stdout);
    const said = await cli(["score", index, full, "--labels", "index"]);
    expect(said.stderr).toMatch(/warning: the mask "truth" of .*b\.npz holds 0 and 255 alone/);
    expect((await cli(["score", index, "--labels", "index"])).stderr).not.toContain("warning");
    expect(of(other).files[0].quality).toEqual(of(one).files[0].quality);
    expect(of(other).labels).toEqual({ ignore: null, scale: "0/255" });
    expect(both).toMatchObject({ code: 1, stdout: "" });
    expect(both.stderr).toMatch(/masks of one kind for the mask "truth" of .*a\.npz .*b\.npz/);
    expect(ignored.stderr).toContain("ignored (label 255): 6 pixels of 2 of 2 images; no pixel is left of 1");
    expect(of(ignored).files[1].quality.image.dice).toBeNull();
    expect(of(ignored).summary.means.dice).toMatchObject({ n: 1, leftOut: 1 });
  });
});
