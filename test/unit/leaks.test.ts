import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { NumericArray } from "../../lib/arrays.js";
import { Dataset } from "../../lib/data/dataset.js";
import { encodePng, writePng } from "../../lib/data/encode-png.js";
import { contentOf, SeenImages } from "../../lib/data/leaks.js";
import { SampleGuard } from "../../lib/ensemble/sample-guard.js";
import { gather } from "../../lib/ensemble/samples.js";
import type { TrainingSample } from "../../lib/ensemble/training.js";
import type { Addon } from "../../lib/native/addon.js";
import { chooseSplit, isSeenSplit, type RunNotes, seenBy } from "../../lib/runs/notes.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "le-leaks-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function made(name: string, ids: readonly string[], split?: string): Promise<string> {
  const root = path.join(folder, name);
  for (const [i, id] of ids.entries()) {
    await writePng(path.join(root, "images", `${id}.png`), { data: Uint8Array.from([i, 7, 9]), shape: [1, 3] });
    await writePng(path.join(root, "masks", `${id.normalize("NFC")}.png`), {
      data: Uint8Array.from([0, 1, 0]),
      shape: [1, 3],
    });
  }
  if (split !== undefined) await writeFile(path.join(root, "split.csv"), split);
  return root;
}

describe("the content of an image", () => {
  const plane = [1, 2, 3, 250];
  it("is that of its numbers, whatever the type and however grey was stored", () => {
    const grey = contentOf({ data: Uint8Array.from(plane), shape: [1, 2, 2] });
    expect(contentOf({ data: Uint16Array.from(plane), shape: [1, 2, 2] })).toBe(grey);
    expect(contentOf({ data: Float32Array.from(plane), shape: [1, 2, 2] })).toBe(grey);
    expect(contentOf({ data: Float32Array.from(plane), shape: [2, 2] })).toBe(grey);
    expect(contentOf({ data: Uint8Array.from([...plane, ...plane, ...plane]), shape: [3, 2, 2] })).toBe(grey);
  });

  it("is that of what they show, on whatever scale 8 or 16 bits were stored again", () => {
    const bytes = Uint8Array.from({ length: 400 }, (_, i) => (i * 97 + (i >> 3)) % 251);
    const of = (data: NumericArray) => contentOf({ data, shape: [1, 20, 20] });
    expect(of(Uint16Array.from(bytes, (value) => value * 257))).toBe(of(bytes));
    expect(of(Uint16Array.from(bytes, (value) => value * 256))).toBe(of(bytes));
    expect(of(Float32Array.from(bytes, (value) => value / 255))).toBe(of(bytes));
    expect(of(Float32Array.from(bytes, (value) => (value / 255 - 0.5) / 0.25))).toBe(of(bytes));
    const words = Uint16Array.from({ length: 400 }, (_, i) => (i * 40503) % 21001);
    expect(of(Float32Array.from(words, (value) => 3 * value - 1000))).toBe(of(words));
    expect(of(words.map((value, i) => (i === 7 ? value + 1 : value)))).not.toBe(of(words));
  });

  it("differs with the numbers and with the shape, and is none for a single value", () => {
    const all = [
      { data: Uint8Array.from(plane), shape: [1, 2, 2] },
      { data: Uint8Array.from(plane), shape: [1, 1, 4] },
      { data: Uint8Array.from([1, 2, 4, 250]), shape: [1, 2, 2] },
      { data: Float32Array.from([1, 2, 3.5, 250]), shape: [1, 2, 2] },
      { data: Uint8Array.from([...plane, ...plane, 1, 2, 3, 4]), shape: [3, 2, 2] },
    ].map(contentOf);
    expect(new Set(all).size).toBe(5);
    expect(contentOf({ data: new Uint8Array(9).fill(3), shape: [1, 3, 3] })).toBeUndefined();
  });

  it("comes with every image of a dataset", async () => {
    const set = await Dataset.fromFolder(await made("content", ["a", "b"]));
    const [a, b] = await set.loadAll();
    expect(a?.content).toBe(contentOf({ data: Uint8Array.from([0, 7, 9]), shape: [1, 1, 3] }));
    expect((await set.loadBoth(0)).content).toBe(a?.content);
    expect(b?.content).not.toBe(a?.content);
  });
});

describe("two splits", () => {
  const data = (more: Partial<RunNotes["data"]> = {}): RunNotes["data"] => ({
    ...{ folder: "/data", trainSplit: "training", valSplit: "validation", drawn: null },
    ...more,
  });

  it("share no group, whatever those in use are called", async () => {
    const rows = ["a,training,p", "b,validation,q", "c,testing,r", "d,training,p"];
    const whole = await Dataset.fromFolder(
      await made("groups", ["a", "b", "c", "d"], `id,split,group\n${rows.join("\n")}\n`),
    );
    expect(chooseSplit(whole, "testing", data()).ids).toEqual(["c"]);
    for (const [name, row] of [
      ["in-val", "b,validation,p"],
      ["in-test", "c,testing,p"],
    ] as const) {
      const table = `id,split,group\n${rows.map((other) => (other[0] === row[0] ? row : other)).join("\n")}\n`;
      const leaking = await Dataset.fromFolder(await made(name, ["a", "b", "c", "d"], table));
      expect(() => chooseSplit(leaking, "training", data())).toThrow(/group "p" .*results look too good/);
    }
    // Of splits that nobody trains on or reports nothing is asked.
    const other = await Dataset.fromFolder(
      await made("others", ["a", "b", "c"], "id,split,group\na,x,p\nb,y,p\nc,training,q\n"),
    );
    expect(chooseSplit(other, "training", data({ valSplit: null })).ids).toEqual(["c"]);
    expect(() => chooseSplit(other, "x", data({ valSplit: null }))).toThrow(/group "p"/);
  });

  it("share no image", () => {
    const seen = new SeenImages([
      ["training", [["a", "h1"]]],
      ["validation", [["b", "h2"]]],
    ]);
    expect(() => seen.check("c", "h2", "test", "data")).toThrow(
      'different images for the splits of data but received the same image as b in "validation" and as c in "test"',
    );
    expect(() => seen.check("c", "h3", "test", "data")).not.toThrow();
    expect(() => seen.check("c", undefined, "test", "data")).not.toThrow();
    expect(
      ["training", "validation", "all", "test"].map((split) =>
        isSeenSplit(split, "/data", { data: data() } as RunNotes),
      ),
    ).toEqual([true, true, true, false]);
    expect(isSeenSplit("all", "/other", { data: data() } as RunNotes)).toBe(false);
  });

  it("are not known where another version made the hashes, or none", async () => {
    const hash = contentOf({ data: Float32Array.of(0, 1, 2, 3), shape: [1, 2, 2] }) as string;
    const unknown = (...splits: ConstructorParameters<typeof SeenImages>) => new SeenImages(...splits).unknown;
    expect(unknown([["train", [["a", hash]]]])).toEqual([]);
    expect(unknown([["train", [["a", hash.slice(2)]]]])).toEqual(["train"]);
    expect(
      unknown([
        ["train", [["a", hash]]],
        ["val", undefined],
      ]),
    ).toEqual(["val"]);
    const contents = { training: [["a", "older"]] as [string, string][], validation: [] };
    expect(seenBy({ data: data({ contents }) } as RunNotes).unknown).toEqual(["training"]);
    expect(seenBy({ data: data() } as RunNotes).unknown).toEqual(["training", "validation"]);
    expect(seenBy({ data: data({ valSplit: null }) } as RunNotes).unknown).toEqual(["training"]);
  });

  it("are told apart in fit, too, unless they are one and the same or it is allowed", () => {
    const image = (id: string, content: string, group?: string) => ({ id, content, group });
    const fit = (options: object, held: ReturnType<typeof image>, validation: unknown = []) => {
      const training = validation === "same" ? options : [];
      const guard = new SampleGuard(training, {
        validation: validation === "same" ? training : validation,
        ...options,
      });
      guard.see("training", 0, image("a", "h", "p"), Uint8Array.of(0, 1));
      return () => guard.see("validation", 0, held, Uint8Array.of(0, 1));
    };
    expect(fit({}, image("b", "h"))).toThrow(/the same image as a and b in both/);
    expect(fit({}, image("b", "i", "p"))).toThrow(/group "p" in both/);
    expect(fit({}, image("b", "i", "q"))).not.toThrow();
    expect(fit({ allowDuplicates: true }, image("b", "h", "p"))).not.toThrow();
    expect(fit({}, image("a", "h", "p"), "same")).not.toThrow();
  });

  it("are told apart by what they show where samples are no dataset's", async () => {
    const sample = (...data: number[]) => ({
      image: { data: Float32Array.from(data), shape: [1, 1, data.length] },
      mask: { data: Uint8Array.from(data, (_, i) => i % 2), shape: [1, data.length] },
    });
    const addon = { createDataset: () => ({}), addSample: () => {} } as unknown as Addon;
    const fit = async (
      training: TrainingSample[],
      validation: TrainingSample[] | undefined,
      allowDuplicates?: boolean,
    ) => {
      const guard = new SampleGuard(training, { validation, ...(allowDuplicates && { allowDuplicates }) });
      await gather(addon, training, 2, "training", undefined, guard);
      if (validation) await gather(addon, validation, 2, "validation", undefined, guard);
    };
    const training = [sample(1, 2, 4), sample(0, 2, 3)];
    const scaled = [sample(5, 5, 6), sample(0, 20, 30)];
    const warn = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
    await fit(training, scaled);
    expect(warn).toHaveBeenCalledOnce();
    expect(warn.mock.calls[0]?.[0]).toMatch(
      /^1 samples .* \(validation\[1\] as training\[1\]\): results look too good/,
    );
    await fit(training, training.slice(1));
    expect(warn).toHaveBeenCalledTimes(2);
    await fit(training, scaled, true);
    await fit(training, training);
    await fit(training, [...training]);
    await fit(training, [sample(5, 5, 6)]);
    await fit([sample(0, 2, 3), sample(0, 2, 3)], undefined);
    expect(warn).toHaveBeenCalledTimes(2);
    warn.mockRestore();
  });
});

describe("names", () => {
  const name = "patient-é";
  const [composed, decomposed] = [name.normalize("NFC"), name.normalize("NFD")];

  it("are the same text in whatever normal form", async () => {
    const root = await made("forms", [decomposed], `id,split,group\n${composed},train,${decomposed}\n`);
    const set = await Dataset.fromFolder(root);
    expect(set.samples).toEqual([{ id: composed, split: "train", group: composed, hasMask: true }]);
    const drawn = { train: [decomposed] };
    const notes = { folder: root, trainSplit: "train", valSplit: null, drawn };
    expect(chooseSplit(set, "train", notes).ids).toEqual([composed]);
  });

  it("that differ in it alone are refused, both spelled out", async () => {
    const root = await made("both", [composed]);
    for (const kind of ["images", "masks"])
      await writeFile(
        path.join(root, kind, `${decomposed}.png`),
        await encodePng({ data: Uint8Array.of(0, 1, 0), shape: [1, 3] }),
      );
    await expect(Dataset.fromFolder(root)).rejects.toThrow(
      /patient-e\\u\{301\}\.png and patient-\\u\{e9\}\.png, which differ in their Unicode normal form alone/,
    );
    const sample = (id: string) => ({ id, image: { data: Uint8Array.of(1, 2), shape: [1, 2] } });
    expect(() => Dataset.fromSamples([sample(composed), sample(decomposed)])).toThrow("normal form alone");
  });

  it("may be those of every object's properties", async () => {
    const ids = ["__proto__", "constructor", "toString"];
    const root = await made(
      "objects",
      ids,
      "id,split,group\n__proto__,constructor,toString\nconstructor,__proto__,g\ntoString,train,h\n",
    );
    const set = await Dataset.fromFolder(root);
    expect(Object.entries(set.splits)).toEqual([
      ["constructor", 1],
      ["__proto__", 1],
      ["train", 1],
    ]);
    expect(set.split("__proto__").ids).toEqual(["constructor"]);
    expect(() => set.split("hasOwnProperty")).toThrow("there are constructor (1), __proto__ (1), train (1)");
    const drawn = JSON.parse('{ "__proto__": ["toString"], "train": ["constructor"] }') as Record<string, string[]>;
    const notes = { folder: root, trainSplit: "train", valSplit: null, drawn };
    expect(chooseSplit(set, "__proto__", notes).ids).toEqual(["toString"]);
    expect(() => chooseSplit(set, "constructor", notes)).toThrow("one of __proto__ (1), train (1) only");
  });

  it("of masks in other formats are told", async () => {
    const root = await made("jpeg", ["a"]);
    await rm(path.join(root, "masks", "a.png"));
    await writeFile(path.join(root, "masks", "a.jpg"), "");
    await expect(Dataset.fromFolder(root)).rejects.toThrow(/none for a\.png: a\.jpg is no \.png/);
  });
});
