// The queue's rules, with a model that does what the test says.
import { describe, expect, it } from "vitest";
import type { NdArray } from "../../lib/arrays.js";
import type { PredictOptions } from "../../lib/ensemble/model.js";
import type { Prediction } from "../../lib/ensemble/prediction.js";
import { PredictionQueue, type QueueOptions } from "../../lib/server/queue.js";

interface Call {
  images: readonly NdArray[];
  options: PredictOptions;
  /** Ends the pass: each result's `heads` names the image it is of. */
  finish(): void;
  fail(error: unknown): void;
}

/** A model whose passes end when the test says so, or at once. */
function fakeModel({ auto = false } = {}) {
  const calls: Call[] = [];
  let running = 0;
  let mostRunning = 0;
  const waiting: (() => void)[] = [];
  const predict = (images: readonly NdArray[], options: PredictOptions = {}): Promise<Prediction[]> => {
    running++;
    mostRunning = Math.max(mostRunning, running);
    const done = new Promise<Prediction[]>((resolve, reject) => {
      const finish = () => resolve(images.map(({ data }) => ({ heads: [String(data[0])] }) as unknown as Prediction));
      options.signal?.addEventListener("abort", () => reject(options.signal?.reason));
      calls.push({ images, options, finish, fail: reject });
      if (auto) finish();
    });
    waiting.splice(0).forEach((go) => {
      go();
    });
    return done.finally(() => running--);
  };
  /** Waits until so many passes have begun. */
  const begun = async (count: number) => {
    while (calls.length < count) await new Promise<void>((resolve) => waiting.push(resolve));
    return calls[count - 1] as Call;
  };
  return { predict, calls, begun, mostRunning: () => mostRunning };
}

const image = (id: number, side = 4): NdArray => ({
  data: new Float32Array(side * side).fill(id),
  shape: [1, side, side],
});
const idOf = ({ heads }: Prediction) => Number(heads[0]);
const queueOf = (model: ReturnType<typeof fakeModel>, options: QueueOptions = {}) =>
  new PredictionQueue(model, { maxDelay: 1, ...options });
const settled = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error) => error.code ?? error.message,
  );

describe("batching", () => {
  it("puts what waits into one pass, one shape at a time, and gives each caller its own", async () => {
    const model = fakeModel();
    const queue = queueOf(model, { maxBatch: 3 });
    const first = queue.predict(image(0));
    const busy = await model.begun(1);
    const rest = [1, 2, 3, 4, 5].map((id) => queue.predict(image(id, id % 2 ? 4 : 8)));
    busy.finish();
    (await model.begun(2)).finish();
    (await model.begun(3)).finish();
    expect(await Promise.all([first, ...rest].map(async (one) => idOf(await one)))).toEqual([0, 1, 2, 3, 4, 5]);
    expect(model.calls.map(({ images }) => images.map(({ data }) => data[0]))).toEqual([[0], [1, 3, 5], [2, 4]]);
    expect(model.mostRunning()).toBe(1);
  });

  it("starts as soon as a batch is full, without the delay", async () => {
    const model = fakeModel({ auto: true });
    const queue = queueOf(model, { maxBatch: 2, maxDelay: 20_000 });
    expect(await Promise.all([queue.predict(image(1)), queue.predict(image(2))])).toHaveLength(2);
    expect(model.calls).toHaveLength(1);
  });

  it("waits for others no longer than the delay", async () => {
    const model = fakeModel({ auto: true });
    const queue = queueOf(model, { maxBatch: 100, maxDelay: 20 });
    const early = [queue.predict(image(1)), queue.predict(image(2))];
    expect(model.calls).toHaveLength(0);
    await Promise.all(early);
    expect(model.calls.map(({ images }) => images.length)).toEqual([2]);
  });

  it("keeps requests with other options apart", async () => {
    const model = fakeModel({ auto: true });
    const queue = queueOf(model);
    await Promise.all([queue.predict(image(1), { skip: 1 }), queue.predict(image(2), { skip: 2 })]);
    expect(model.calls.map(({ options }) => options.skip).sort()).toEqual([1, 2]);
  });

  it("serves the shape first whose image must be done first", async () => {
    const model = fakeModel();
    const queue = queueOf(model, { maxDelay: 0 });
    const first = queue.predict(image(0));
    const busy = await model.begun(1);
    const patient = queue.predict(image(1, 4), { timeout: 60_000 });
    const urgent = queue.predict(image(2, 8), { timeout: 30_000 });
    busy.finish();
    const second = await model.begun(2);
    expect(second.images[0]?.data[0]).toBe(2);
    second.finish();
    (await model.begun(3)).finish();
    await Promise.all([first, patient, urgent]);
  });

  it("tells of each pass", async () => {
    const seen: number[] = [];
    const queue = queueOf(fakeModel({ auto: true }), { onBatch: ({ size, waited }) => seen.push(size, waited.length) });
    await queue.predict(image(1));
    expect(seen).toEqual([1, 1]);
  });
});

describe("room", () => {
  it("refuses what it has no room for, with a time to come back, and has room again afterwards", async () => {
    const model = fakeModel();
    const queue = queueOf(model, { maxQueue: 2, maxDelay: 0 });
    const held = [queue.predict(image(1)), queue.predict(image(2))];
    expect(await settled(queue.predict(image(3)))).toBe("ERR_LE_BUSY");
    expect(queue.retryAfter).toBeGreaterThanOrEqual(1);
    (await model.begun(1)).finish();
    (await model.begun(2)).finish();
    await Promise.all(held);
    expect(queue.accepted).toBe(0);
    const again = queue.predict(image(4));
    (await model.begun(3)).finish();
    expect(idOf(await again)).toBe(4);
  });

  it("reserves room before an image is there", async () => {
    const queue = queueOf(fakeModel({ auto: true }), { maxQueue: 3 });
    const place = queue.reserve(2);
    place.grow(1);
    expect(() => place.grow(1)).toThrow(expect.objectContaining({ code: "ERR_LE_BUSY" }));
    expect(() => queue.reserve()).toThrow(expect.objectContaining({ code: "ERR_LE_BUSY" }));
    expect(idOf(await queue.predict(image(7), { place }))).toBe(7);
    place.release();
    place.release();
    expect(queue.accepted).toBe(0);
  });
});

describe("giving up", () => {
  it("drops what nobody waits for, before the model sees it", async () => {
    const model = fakeModel();
    const queue = queueOf(model, { maxDelay: 0 });
    const first = queue.predict(image(0));
    const busy = await model.begun(1);
    const leaving = new AbortController();
    const left = settled(queue.predict(image(1), { signal: leaving.signal }));
    const kept = queue.predict(image(2));
    leaving.abort(new Error("gone"));
    expect(await left).toBe("gone");
    expect(queue.waiting).toBe(1);
    busy.finish();
    const second = await model.begun(2);
    expect(second.images.map(({ data }) => data[0])).toEqual([2]);
    second.finish();
    await Promise.all([first, kept]);
    expect(await settled(queue.predict(image(3), { signal: leaving.signal }))).toBe("gone");
  });

  it("stops a pass only when nobody at all waits for it", async () => {
    const model = fakeModel();
    const queue = queueOf(model, { maxBatch: 2, maxDelay: 20_000 });
    const [a, b] = [new AbortController(), new AbortController()];
    const both = [a, b].map(({ signal }, id) => settled(queue.predict(image(id), { signal })));
    const pass = await model.begun(1);
    a.abort(new Error("a gone"));
    expect(pass.options.signal?.aborted).toBe(false);
    b.abort(new Error("b gone"));
    expect(pass.options.signal?.aborted).toBe(true);
    expect(await Promise.all(both)).toEqual(["a gone", "b gone"]);
    const next = [5, 6].map((id) => queue.predict(image(id)));
    (await model.begun(2)).finish();
    expect((await Promise.all(next)).map(idOf)).toEqual([5, 6]);
  });

  it("gives up when the time is over, waiting or running", async () => {
    const model = fakeModel();
    const queue = queueOf(model, { maxDelay: 0 });
    const running = settled(queue.predict(image(1), { timeout: 30 }));
    await model.begun(1);
    const waiting = settled(queue.predict(image(2), { timeout: 10 }));
    expect(await Promise.all([running, waiting])).toEqual(["ERR_LE_TIMEOUT", "ERR_LE_TIMEOUT"]);
    expect(queue.accepted).toBe(0);
  });

  it("does not let one bad image take the others down", async () => {
    const model = fakeModel();
    const queue = queueOf(model, { maxBatch: 3, maxDelay: 20_000 });
    const three = [1, 2, 3].map((id) => settled(queue.predict(image(id))));
    (await model.begun(1)).fail(new Error("one is bad"));
    (await model.begun(2)).finish();
    (await model.begun(3)).fail(new Error("this one"));
    (await model.begun(4)).finish();
    expect(await Promise.all(three)).toEqual(["done", "this one", "done"]);
    expect(model.mostRunning()).toBe(1);
  });
});

describe("the end", () => {
  it("finishes what was accepted, without the delay, and accepts nothing more", async () => {
    const model = fakeModel();
    const queue = queueOf(model, { maxDelay: 20_000, maxBatch: 8 });
    const place = queue.reserve();
    const early = [1, 2].map((id) => queue.predict(image(id)));
    let closed = false;
    const closing = queue.close().then(() => {
      closed = true;
    });
    expect(await settled(queue.predict(image(9)))).toBe("ERR_LE_DISPOSED");
    (await model.begun(1)).finish();
    expect((await Promise.all(early)).map(idOf)).toEqual([1, 2]);
    expect(closed).toBe(false);
    const late = queue.predict(image(3), { place });
    (await model.begun(2)).finish();
    expect(idOf(await late)).toBe(3);
    place.release();
    await closing;
    await queue.close();
  });

  it("is at once where nothing was accepted", async () => {
    await queueOf(fakeModel()).close();
  });

  it("refuses options that are none", () => {
    expect(() => queueOf(fakeModel(), { maxBacth: 3 } as never)).toThrow("maxBatch");
    expect(() => queueOf(fakeModel(), { maxQueue: 0 })).toThrow(expect.objectContaining({ code: "ERR_LE_OPTION" }));
  });
});
