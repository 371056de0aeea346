import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  checkOptions,
  describe as describeValue,
  editDistance,
  nearest,
  nearestFew,
  option,
} from "../../lib/options.js";

const specs = {
  epochs: option.integer({ min: 1 }),
  rate: option.number({ above: 0, max: 1 }),
  loss: option.oneOf(["softDice", "focal", null]),
  size: option.array(option.integer({ min: 1 }), { length: 2 }),
  weights: option.record(option.number()),
  augment: option.object({ flip: option.boolean() }),
  name: option.string(),
  onProgress: option.callback(),
  signal: option.signal(),
  when: option.instance(Date),
  either: option.anyOf(option.boolean(), option.object({ depth: option.integer() })),
};
const check = (options: unknown) => () => checkOptions("fit", options, specs);
const refused = (message: string | RegExp) =>
  expect.objectContaining({ code: "ERR_LE_OPTION", message: expect.stringMatching(message) });

describe("checkOptions", () => {
  it("accepts what fits, and undefined as left out", () => {
    expect(check({})).not.toThrow();
    expect(
      check({
        epochs: 3,
        rate: 1,
        loss: null,
        size: [128, 96],
        weights: { a: 1, b: -2 },
        augment: { flip: true },
        name: "x",
        onProgress: () => {},
        signal: new AbortController().signal,
        when: new Date(),
        either: { depth: 2 },
      }),
    ).not.toThrow();
    expect(check({ epochs: undefined, nothing: undefined })).toThrow(refused("'nothing'"));
    expect(check({ epochs: undefined })).not.toThrow();
  });

  it("suggests the nearest name for an unknown one", () => {
    expect(check({ epoch: 3 })).toThrow(
      refused(/^Expected a known option for fit but received 'epoch'\. Did you mean 'epochs'\?$/),
    );
    expect(check({ onprogress: 1 })).toThrow(refused("Did you mean 'onProgress'"));
    expect(check({ zzzzzzzz: 3 })).toThrow(refused(/There are: epochs, rate, /));
    expect(check({ toString: 3 })).toThrow(refused("'toString'"));
    expect(check(JSON.parse('{"__proto__": 1}'))).toThrow(refused("'__proto__'"));
  });

  it.each([
    [{ epochs: "10" }, "an integer at least 1 for option 'epochs' of fit but received \"10\""],
    [{ epochs: 1.5 }, "received 1.5"],
    [{ epochs: 0 }, "received 0"],
    [{ epochs: Number.NaN }, "received NaN"],
    [{ rate: 0 }, "a finite number above 0 and at most 1 for option 'rate'"],
    [{ rate: Number.POSITIVE_INFINITY }, "received Infinity"],
    [{ loss: "dice" }, 'one of "softDice", "focal", null for option \'loss\' of fit but received "dice"'],
    [{ size: [1] }, "an array of 2, each an integer at least 1 for option 'size' of fit but received \\[1\\]"],
    [{ size: [1, "2"] }, 'received \\[1, "2"\\]'],
    [{ weights: [1] }, "an object whose every value is a finite number"],
    [{ weights: { a: "1" } }, "received an object with a"],
    [{ name: "" }, "a string that is not empty for option 'name' of fit but received \"\""],
    [{ onProgress: {} }, "a function for option 'onProgress' of fit but received an empty object"],
    [{ signal: {} }, "an AbortSignal"],
    [{ when: 5 }, "a Date"],
    [
      { augment: { flipp: true } },
      "known option for option 'augment' of fit but received 'flipp'. Did you mean 'flip'",
    ],
    [{ augment: { flip: 1 } }, "a boolean for option 'flip' of option 'augment' of fit but received 1"],
    [{ either: 3 }, "a boolean, or an object of options for option 'either'"],
    [{ either: { depth: "1" } }, "an integer for option 'depth' of option 'either'"],
    [null, "an object for the options of fit but received null"],
    [[1], "received \\[1\\]"],
    ["text", 'received "text"'],
  ])("refuses %j", (options, message) => {
    expect(check(options)).toThrow(refused(message));
  });

  it("asks for what is required", () => {
    const required = { taps: option.required(option.array(option.string(), { min: 1 })) };
    expect(() => checkOptions("create", {}, required)).toThrow(refused("option 'taps' of create but received nothing"));
    expect(() => checkOptions("create", { taps: [] }, required)).toThrow(refused("at least 1"));
    expect(() => checkOptions("create", { taps: ["a"] }, required)).not.toThrow();
  });
});

describe("nearest names", () => {
  it("counts insertions, deletions, replacements and swaps", () => {
    expect(editDistance("kitten", "sitting")).toBe(3);
    expect(editDistance("lables", "labels")).toBe(1);
    expect(editDistance("", "abc")).toBe(3);
  });

  it("is symmetric, zero only for equal texts, and at most the longer length", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 12 }), fc.string({ maxLength: 12 }), (a, b) => {
        const distance = editDistance(a, b);
        expect(distance).toBe(editDistance(b, a));
        expect(distance === 0).toBe(a === b);
        expect(distance).toBeLessThanOrEqual(Math.max(a.length, b.length));
      }),
    );
  });

  it("leaves out what is too far", () => {
    expect(nearest("encoder.layr1", ["encoder.layer1", "decoder.block"])).toBe("encoder.layer1");
    expect(nearest("banana", ["encoder.layer1"])).toBeUndefined();
    expect(nearestFew("layer1", ["layer3", "layer1.0", "layer2", "fc"], 2)).toHaveLength(2);
  });
});

describe("describe", () => {
  it.each([
    [new Float32Array(3), "a Float32Array of 3"],
    [new DataView(new ArrayBuffer(4)), "a DataView"],
    [new Map(), "an instance of Map"],
    [Object.create(null), "an empty object"],
    [Array.from({ length: 20 }, (_, i) => i), "[0, 1, 2, 3, 4, 5, 6, 7, … 20 in all]"],
    [10n, "10n"],
    [Symbol("s"), "Symbol(s)"],
    ["x".repeat(100), `"${"x".repeat(57)}..."`],
  ])("shows %o", (value, text) => {
    expect(describeValue(value)).toBe(text);
  });
});
