// What threads hand over instead of copying.
import { setImmediate } from "node:timers/promises";
import { expect, it } from "vitest";
import { buffersOf, ownBuffers, ownBuffersGently } from "../../lib/server/transfer.js";

const shared = Float32Array.of(1, 2, 3, 4);
const tree = {
  name: "a",
  nothing: null,
  list: [shared.subarray(1, 3), { data: Uint8Array.of(7), shape: [1] }],
  again: shared,
  text: Buffer.from("pooled"),
};
const expected = {
  name: "a",
  nothing: null,
  list: [Float32Array.of(2, 3), { data: Uint8Array.of(7), shape: [1] }],
  again: shared,
  text: new Uint8Array(Buffer.from("pooled")),
};

it("finds each buffer of a tree once", () => {
  const buffers = buffersOf(tree);
  expect(buffers).toHaveLength(3);
  expect(buffers).toContain(shared.buffer);
  expect(buffersOf({ a: 1, b: ["text", null, undefined] })).toEqual([]);
});

it("gives every array a buffer of its own, of its own size and type", async () => {
  for (const own of [ownBuffers(tree), (await ownBuffersGently(tree)).value]) {
    expect(own).toEqual(expected);
    expect(Buffer.isBuffer(own.text)).toBe(false);
    const buffers = buffersOf(own);
    expect(buffers.map(({ byteLength }) => byteLength)).toEqual([8, 1, 16, 6]);
    for (const buffer of buffersOf(tree)) expect(buffers).not.toContain(buffer);
  }
});

it("copies what is given away by nobody, and hands over what is, where it is all of its buffer", async () => {
  const { value, views } = await ownBuffersGently(tree);
  const own = ownBuffers(value, views);
  expect(buffersOf(own)).toEqual(buffersOf(value));
  const part = shared.subarray(1);
  expect(ownBuffers({ part }, new Set([part])).part.buffer).not.toBe(shared.buffer);
  expect(ownBuffers({ shared }, new Set()).shared.buffer).not.toBe(shared.buffer);
});

it("lets other work run while it copies much", async () => {
  const large = Array.from({ length: 5 }, (_, i) => new Uint8Array(2 ** 23 - 1).fill(i));
  let done = false;
  let turns = 0;
  const counting = (async () => {
    for (; !done; turns++) await setImmediate();
  })();
  const { value } = await ownBuffersGently(large);
  done = true;
  await counting;
  expect(turns).toBeGreaterThanOrEqual(2);
  for (const [i, copy] of value.entries()) expect([copy.length, copy[0], copy.at(-1)]).toEqual([2 ** 23 - 1, i, i]);
});
