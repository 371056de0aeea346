// The threads for images, which only the built package can start.
import { createRequire } from "node:module";
import path from "node:path";
import { beforeAll, expect, it, onTestFinished } from "vitest";
import { encodePng } from "../../lib/data/encode-png.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import type * as Built from "../../lib/server/image-pool.js";

let built: typeof Built;
let png: Uint8Array;
beforeAll(async () => {
  built = createRequire(import.meta.url)(path.join(PACKAGE_ROOT, "dist/server/image-pool.js"));
  png = await encodePng({ data: new Uint8Array(12).fill(9), shape: [3, 4] });
});

/** A pool with one thread for what is small and one for what is large. */
async function open(options: Built.PoolOptions = {}) {
  const pool = await built.ImagePool.create({ workers: 1, ...options });
  onTestFinished(() => pool.close());
  const done: string[] = [];
  const measure = async (name: string, options?: Built.TaskOptions) => {
    const size = await pool.run("measure", { bytes: png, name }, options);
    done.push(name);
    return size;
  };
  return { pool, done, measure };
}

it("gives what the work gives, and its errors with their codes", async () => {
  const { pool, measure } = await open();
  expect((await measure("a.png")).size).toEqual([3, 4]);
  await expect(pool.run("measure", { bytes: new Uint8Array(9), name: "b.png" })).rejects.toMatchObject({
    name: "LayerEnsemblesError",
    code: "ERR_LE_DATA",
    message: expect.stringContaining("b.png"),
  });
});

it("is handed what is given away, and gets a copy of everything else", async () => {
  const { pool } = await open();
  const [kept, given] = [Uint8Array.from(png), Uint8Array.from(png)];
  await pool.run("measure", { bytes: kept, name: "a.png" });
  await pool.run("measure", { bytes: given, name: "a.png" }, { given: new Set([given]) });
  expect([kept.length, given.length]).toEqual([png.length, 0]);
});

it("does what ends something before what begins, each in the order of arrival", async () => {
  for (const bytes of [0, built.LARGE + 1]) {
    const { done, measure } = await open();
    await Promise.all([
      measure("first", { bytes }),
      measure("second", { bytes }),
      measure("third", { bytes }),
      measure("end", { bytes, ends: true }),
      measure("last end", { bytes, ends: true }),
    ]);
    expect(done).toEqual(["first", "end", "last end", "second", "third"]);
  }
});

it("lets go of work that nobody waits for, whether it waits or runs, and goes on", async () => {
  const { done, measure } = await open();
  const [running, waiting] = [new AbortController(), new AbortController()];
  const work = [
    measure("running", { signal: running.signal }).catch((reason) => reason),
    measure("waiting", { signal: waiting.signal }).catch((reason) => reason),
    measure("other"),
  ];
  waiting.abort("left");
  running.abort("gone");
  expect((await Promise.all(work)).slice(0, 2)).toEqual(["gone", "left"]);
  expect(done).toEqual(["other"]);
  await expect(measure("late", { signal: AbortSignal.abort("over") })).rejects.toBe("over");
});

it("refuses large work that would not be done in time, by what large work took before", async () => {
  const { pool, measure } = await open();
  const large = built.LARGE + 1;
  await measure("measured", { bytes: large });
  expect(pool.backlog).toBe(0);
  const release = pool.book(large, 1);
  expect(pool.backlog).toBeGreaterThan(0);
  expect(() => pool.book(2 ** 60, 1000)).toThrow(expect.objectContaining({ code: "ERR_LE_BUSY" }));
  // What is small is never refused.
  pool.book(built.LARGE, 1)();
  release();
  release();
  expect(pool.backlog).toBe(0);
  pool.book(2 ** 60, 1000)();
});

it("is closed once everything is done", async () => {
  const { pool, done, measure } = await open();
  const work = ["a", "b", "c"].map((name) => measure(name));
  await pool.close();
  expect(done).toEqual(["a", "b", "c"]);
  await Promise.all(work);
});
