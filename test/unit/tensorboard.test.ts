import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { appendFile, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { crc32, crc32c } from "../../lib/data/crc.js";
import { HistoryFile } from "../../lib/runs/history.js";
import { TensorBoardWriter } from "../../lib/runs/tensorboard.js";
import { readScalars } from "../support/tensorboard.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "le-report-"));
});
afterEach(() => rm(folder, { recursive: true }));

test("checksums have the published check values", () => {
  expect(crc32(Buffer.from("123456789"))).toBe(0xcbf43926);
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa); // RFC 3720, B.4
});

describe("TensorBoardWriter", () => {
  test("writes the very bytes of TensorFlow's record format", async () => {
    const writer = await TensorBoardWriter.open(folder);
    await writer.scalars({ "loss/train": 0.5 }, 300, 1.5);
    await writer.close();
    const bytes = await readFile(writer.path);
    const first = 16 + Number(bytes.readBigUInt64LE(0));
    const message = bytes.subarray(first + 12, bytes.length - 4);
    // wall_time 1.5; step 300 as a varint; summary { value { tag: "loss/train", simple_value: 0.5 } }
    expect(message.toString("hex")).toBe(
      "09000000000000f83f10ac022a13".concat("0a110a0a6c6f73732f747261696e150000003f"),
    );
    expect(Number(bytes.readBigUInt64LE(first))).toBe(message.length);
    expect(bytes.subarray(0, first).includes("brain.Event:2")).toBe(true);
  });

  test("is read back, with steps above one byte and values that are no number", async () => {
    const writer = await TensorBoardWriter.open(folder);
    await Promise.all([
      writer.scalars({ a: 1, b: Number.NaN }, 0, 10),
      writer.scalars({ a: -2.5 }, 40_000_000_000, 11.25),
    ]);
    await writer.close();
    expect(readScalars(writer.path)).toEqual([
      { tag: "a", value: 1, step: 0, wallTime: 10 },
      { tag: "b", value: Number.NaN, step: 0, wallTime: 10 },
      { tag: "a", value: -2.5, step: 40_000_000_000, wallTime: 11.25 },
    ]);
  });

  test("goes on in the same file from a step, without what came after it or was half-written", async () => {
    const writer = await TensorBoardWriter.open(folder);
    for (let step = 0; step < 10; step++) await writer.scalars({ a: step }, step, step);
    await writer.close();
    const whole = await readFile(writer.path);
    await truncate(writer.path, whole.length - 5);

    const second = await TensorBoardWriter.open(folder, { fromStep: 20 });
    expect(second.path).toBe(writer.path);
    await second.scalars({ a: 9 }, 9, 9);
    await second.close();
    expect(await readFile(writer.path)).toEqual(whole);

    const third = await TensorBoardWriter.open(folder, { fromStep: 4 });
    await third.scalars({ a: 99 }, 4, 4);
    await third.close();
    expect(readScalars(third.path).map(({ value }) => value)).toEqual([0, 1, 2, 3, 99]);
  });

  test("a damaged record is where a resumed run goes on", async () => {
    const writer = await TensorBoardWriter.open(folder);
    await writer.scalars({ a: 1 }, 1);
    await writer.close();
    const bytes = await readFile(writer.path);
    bytes[bytes.length - 6]! ^= 1;
    await writeFile(writer.path, bytes);
    expect(() => readScalars(writer.path)).toThrow(/checksum/);
    const again = await TensorBoardWriter.open(folder, { fromStep: 5 });
    await again.close();
    expect(readScalars(again.path)).toEqual([]);
  });

  test("a folder that cannot be made is ERR_LE_IO", async () => {
    const file = join(folder, "file");
    await appendFile(file, "x");
    await expect(TensorBoardWriter.open(join(file, "runs"))).rejects.toMatchObject({ code: "ERR_LE_IO" });
  });
});

describe("HistoryFile", () => {
  test("has a header from the rows' keys and a row for each epoch, in the place of what was there", async () => {
    const path = join(folder, "run", "history.csv");
    await new HistoryFile(path).append({ epoch: 7, other: 1 });
    const history = new HistoryFile(path);
    await Promise.all([
      history.append({ epoch: 1, loss: 0.25 }),
      history.append({ epoch: 2, loss: 1e-7, "val, dice": 0.5 }),
      history.append({ epoch: 3, loss: Number.NaN }),
    ]);
    expect(await readFile(path, "utf8")).toBe('epoch,loss,"val, dice"\n1,0.25,\n2,1e-7,0.5\n3,NaN,\n');
  });

  test("has epochs that increase", async () => {
    const history = new HistoryFile(join(folder, "history.csv"));
    await history.append({ epoch: 2 });
    await expect(history.append({ epoch: 2 })).rejects.toThrow("Expected an epoch above 2");
    await expect(history.append({ loss: 2 })).rejects.toThrow("received undefined");
  });

  test("has no epoch twice where a training begins anew or goes on, in whatever file it is", async () => {
    const folder = mkdtempSync(join(tmpdir(), "le-events-"));
    try {
      for (const steps of [
        [0, 1],
        [2, 3],
      ]) {
        const writer = await TensorBoardWriter.open(folder);
        for (const step of steps) await writer.scalars({ loss: step }, step);
        await writer.close();
        await new Promise((resolve) => setTimeout(resolve, 2)); // names begin with the time
      }
      const others = "events.out.tfevents.1700000000.host.1234.0";
      writeFileSync(join(folder, others), "of another program");
      const steps = () => {
        const names = readdirSync(folder).filter((name) => name !== others);
        return names.sort().flatMap((name) => readScalars(join(folder, name)).map(({ step }) => step));
      };
      const resumed = await TensorBoardWriter.open(folder, { fromStep: 1 });
      await resumed.scalars({ loss: 1 }, 1);
      await resumed.close();
      expect(steps()).toEqual([0, 1]);
      const anew = await TensorBoardWriter.open(folder, { fromStep: 0 });
      await anew.scalars({ loss: 0 }, 0);
      await anew.close();
      expect(steps()).toEqual([0]);
      expect(readFileSync(join(folder, others), "utf8")).toBe("of another program");
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
