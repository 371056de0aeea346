import { describe, expect, it } from "vitest";
import { negotiate } from "../../lib/server/answers.js";
import { Budget } from "../../lib/server/budget.js";
import { readForm } from "../../lib/server/form.js";
import { type InferResult, parseInfer, writeInfer } from "../../lib/server/kserve.js";

const kind = {
  preprocessing: { size: null, resize: "stretch", normalise: { kind: "none" }, channels: 1 },
  spatialAxes: 2,
  classes: 2,
  maps: 1,
  maxPixels: 1e6,
  maxSide: 1e4,
} as const;

function tensor(datatype: string, values: readonly unknown[] | Uint8Array, more: object = {}, shape?: number[]) {
  const binary = values instanceof Uint8Array ? values : undefined;
  const width = { BOOL: 1, FP16: 2, BF16: 2, FP32: 4 }[datatype] ?? 8;
  const count = binary ? binary.length / width : values.length;
  const input = {
    name: "image",
    shape: shape ?? [1, 1, 1, count],
    datatype,
    ...(binary ? { parameters: { binary_data_size: binary.length } } : { data: values }),
  };
  const json = Buffer.from(JSON.stringify({ inputs: [input], ...more }));
  return parseInfer({
    bytes: new Uint8Array(Buffer.concat([json, binary ?? Buffer.alloc(0)])),
    headerLength: json.length,
    kind: { ...kind, preprocessing: { ...kind.preprocessing } },
    maxImages: 4,
  });
}
const bytesOf = (array: { buffer: ArrayBufferLike }) => new Uint8Array(array.buffer);
const read = async (...args: Parameters<typeof tensor>) => [...((await tensor(...args)).images[0]?.input.data ?? [])];

describe("tensors of the Open Inference Protocol", () => {
  it("have the values that their types say, in bytes", async () => {
    const halves = Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0001, 0x03ff, 0x8000);
    expect(await read("FP16", bytesOf(halves))).toEqual([1, -2, 65504, 2 ** -24, 1023 * 2 ** -24, -0]);
    const brains = Uint16Array.of(0x3f80, 0xc049, 0x0001, 0x7f7f);
    expect(await read("BF16", bytesOf(brains))).toEqual([1, -3.140625, Math.fround(2 ** -133), 255 * 2 ** 120]);
    expect(await read("INT64", bytesOf(BigInt64Array.of(-5n, 1n << 40n)))).toEqual([-5, 2 ** 40]);
    expect(await read("UINT64", bytesOf(BigUint64Array.of(7n)))).toEqual([7]);
    expect(await read("BOOL", Uint8Array.of(0, 1))).toEqual([0, 1]);
  });

  it("have the values that their types say, in JSON: rounded to the type, ties to even", async () => {
    expect(await read("BOOL", [true, false, 1])).toEqual([1, 0, 1]);
    expect(await read("INT64", [-3, 2 ** 30])).toEqual([-3, 2 ** 30]);
    expect(await read("FP16", [0.1, 2049, 2051, 65519, 2 ** -25])).toEqual([0.0999755859375, 2048, 2052, 65504, 0]);
    expect(await read("BF16", [1.7, 257, 259])).toEqual([1.703125, 256, 260]);
  });

  it("may be lists in lists, in row-major order, with as many numbers as the shape says", async () => {
    const nested = (values: unknown[]) => () => tensor("FP32", values, {}, [2, 1, 2, 2]);
    const { images } = await nested([
      [
        [
          [1, 2],
          [3, 4],
        ],
      ],
      [
        [
          [5, 6],
          [7, 8],
        ],
      ],
    ])();
    expect(images.map(({ input }) => [...input.data])).toEqual([
      [1, 2, 3, 4],
      [5, 6, 7, 8],
    ]);
    // The shape alone says how: as other servers have it, the lists may be flat or grouped in any way.
    expect((await nested([[1, 2, 3], [[4], 5, 6], 7, 8])()).images[1]?.input.data).toEqual(Float32Array.of(5, 6, 7, 8));
    await expect(
      nested([
        [1, 2, 3, 4],
        [5, 6, 7],
      ])(),
    ).rejects.toThrow(/8 numbers, by its shape, .*received 7/);
    await expect(nested([1, 2, 3, 4, 5, 6, 7, 8, 9])()).rejects.toThrow(/8 numbers, by its shape, .*received more/);
    await expect(nested([1, 2, 3, 4, 5, 6, 7, null])()).rejects.toThrow(
      expect.objectContaining({ code: "ERR_LE_DATA" }),
    );
    await expect(nested([[[[[[[[[1, 2, 3, 4, 5, 6, 7, 8]]]]]]]]])()).rejects.toThrow(
      expect.objectContaining({ code: "ERR_LE_DATA" }),
    );
  });

  it.each([
    ["UINT8", [300]],
    ["UINT8", [true]],
    ["INT8", [-129]],
    ["INT64", [2 ** 53]],
    ["UINT64", [-1]],
    ["UINT64", bytesOf(BigUint64Array.of(1n << 60n))],
    ["INT64", bytesOf(BigInt64Array.of(-(1n << 60n)))],
    ["BOOL", [2]],
    ["BOOL", Uint8Array.of(2)],
    ["FP16", [65520]],
    ["FP16", bytesOf(Uint16Array.of(0x7c00))],
    ["BF16", bytesOf(Uint16Array.of(0x7fc0))],
    ["FP32", [1e39]],
    ["FP64", bytesOf(Float64Array.of(Number.NaN))],
    ["BYTES", ["a"]],
    ["FP8", [1]],
  ])("of %s are refused where they hold %j", async (datatype, values) => {
    await expect(tensor(datatype, values)).rejects.toThrow(
      expect.objectContaining({ code: expect.stringMatching(/DATA|VALUE/) }),
    );
  });

  it("come from the request, each output once, all without a choice", async () => {
    expect((await tensor("FP32", [1], { outputs: [] })).outputs.length).toBeGreaterThan(8);
    const binary = await tensor("FP32", [1], {
      outputs: [{ name: "mask" }],
      parameters: { binary_data_output: true, other: 1 },
    });
    expect(binary.outputs).toEqual([{ name: "mask", binary: true }]);
    const refused = (more: object) => () => tensor("FP32", [1], more);
    await expect(refused({ outputs: [{ name: "mask" }, { name: "mask" }] })()).rejects.toThrow(/distinct/);
    await expect(refused({ outputs: [{ name: "mask", parameters: { shared_memory_region: "r" } }] })()).rejects.toThrow(
      /shared_memory_region/,
    );
    await expect(refused({ outputs: [{ name: "mask", parameters: { classification: 3 } }] })()).rejects.toThrow(
      /classification/,
    );
    await expect(refused({ parameters: { binary_data_output: "yes" } })()).rejects.toThrow(/true or false/);
    await expect(refused({ id: "x".repeat(1001) })()).rejects.toThrow(/id/);
  });

  it("are not read from JSON that takes more memory than its length tells", async () => {
    const lists = `{"inputs":[${"[0],".repeat(300_000)}0]}`;
    const bytes = new TextEncoder().encode(lists);
    await expect(
      parseInfer({ bytes, kind: { ...kind, preprocessing: { ...kind.preprocessing } }, maxImages: 1 }),
    ).rejects.toThrow(expect.objectContaining({ code: "ERR_LE_TOO_LARGE" }));
  });

  describe("of volumes", () => {
    const affine = [-1, 0, 0, 70.25, 0, -1.25, 0, 33, 0, 0, 2, 0.1, 0, 0, 0, 1];
    const grid = (...numbers: number[]) => ({
      shape: [2, 1, 3],
      affine: [0, 4, 8, 12].map((at) => numbers.slice(at, at + 4)),
    });
    const volumes = (given: unknown, { count = 1, placed = true, axes = 3 } = {}) => {
      const own = { ...kind.preprocessing, ...(placed && { grid: { axes: "LPS", spacing: null, crop: "none" } }) };
      const input = {
        name: "image",
        ...{ shape: axes === 3 ? [count, 1, 2, 1, 3] : [count, 1, 2, 3], datatype: "UINT8" },
        ...{ data: Array.from({ length: 6 * count }, (_, i) => i), parameters: { affine: given } },
      };
      return parseInfer({
        bytes: new TextEncoder().encode(JSON.stringify({ inputs: [input] })),
        kind: { ...kind, spatialAxes: axes, preprocessing: own } as never,
        maxImages: 4,
      });
    };
    const storedIn = async (...args: Parameters<typeof volumes>) =>
      (await volumes(...args)).images.map(({ placement }) => "stored" in placement && placement.stored);

    it("lie where the parameter affine says, which is their own or of all of them", async () => {
      for (const given of [
        affine.join(","),
        affine.join(", "),
        affine,
        [0, 4, 8, 12].map((at) => affine.slice(at, at + 4)),
      ])
        expect(await storedIn(given)).toEqual([grid(...affine)]);
      expect(await storedIn(affine.join(","), { count: 2 })).toEqual([grid(...affine), grid(...affine)]);
      const other = affine.with(10, 6);
      expect(await storedIn([...affine, ...other].join(","), { count: 2 })).toEqual([grid(...affine), grid(...other)]);
    });

    it.each<[string, unknown, object]>([
      ["of 15 numbers", affine.slice(1).join(","), {}],
      ["with a word", affine.join(",").replace("33", "here"), {}],
      ["with a gap", affine.join(",").replace("33", ""), {}],
      ["of null", null, {}],
      ["of more volumes than there are", [...affine, ...affine].join(","), {}],
      ["without an inverse", affine.with(10, 0).join(","), {}],
      ["with another last row", affine.with(12, 1).join(","), {}],
      ["not finite", affine.join(",").replace("33", "1e999"), {}],
      ["of an image", affine.join(","), { axes: 2, placed: false }],
      ["for a network of volumes without a place", affine.join(","), { placed: false }],
      ["that is missing", undefined, {}],
    ])("refuse one %s", async (_, given, how) => {
      await expect(volumes(given, how)).rejects.toThrow(
        expect.objectContaining({ code: expect.stringMatching(/ERR_LE_(DATA|VALUE)/) }),
      );
    });

    it("are answered with it", async () => {
      const { images } = await volumes([...affine, ...affine.with(10, 6)].join(","), { count: 2 });
      const results = images.map(({ placement }) => ({
        ...{ placement, scores: { aula: 1 }, empty: false, decision: "review" },
        prediction: { probabilities: { data: new Float32Array(12).fill(0.5), shape: [2, 2, 1, 3] }, maps: {} },
      }));
      const outputs = ["mask", "probabilities", "aula"].map((name) => ({ name, binary: name === "probabilities" }));
      const parametersOf = (own: readonly unknown[]) => {
        const { bytes, headerLength } = writeInfer({
          model: "m",
          version: "1",
          outputs,
          results: own as InferResult[],
        });
        const { outputs: written } = JSON.parse(Buffer.from(bytes).toString("utf8", 0, headerLength));
        return written.map(({ parameters }: { parameters?: object }) => parameters);
      };
      const both = [...affine, ...affine.with(10, 6)].join(",");
      expect(parametersOf(results)).toEqual([{ affine: both }, { affine: both, binary_data_size: 96 }, undefined]);
      expect(parametersOf(results.slice(0, 1))[0]).toEqual({ affine: affine.join(",") });
    });
  });
});

describe("an answer of the Open Inference Protocol", () => {
  const result = (foreground: number[], rest: Partial<InferResult>): Partial<InferResult> => {
    const data = Float32Array.from([...foreground.map((p) => 1 - p), ...foreground]);
    return {
      prediction: { probabilities: { data, shape: [2, 1, 2] }, maps: {} },
      placement: { original: [1, 2], size: [1, 2], content: { top: 0, left: 0, height: 1, width: 2 } },
      ...rest,
    };
  };
  const write = (...outputs: { name: string; binary: boolean }[]) => {
    const results = [
      result([0.25, 0.75], { decision: "accept", scores: { aula: 1.5 }, empty: false }),
      result([0, 0.5], { decision: "review", scores: { aula: Number.NaN }, empty: true }),
    ] as InferResult[];
    return writeInfer({ model: "m", version: "3", id: "42", outputs, results });
  };
  const plain = (name: string) => ({ name, binary: false });
  const binary = (name: string) => ({ name, binary: true });

  it("has each tensor with its type and shape, and null for what is not defined", () => {
    const { bytes, headerLength } = write(...["mask", "probabilities", "aula", "empty", "decision"].map(plain));
    expect(headerLength).toBeUndefined();
    expect(JSON.parse(Buffer.from(bytes).toString())).toEqual({
      model_name: "m",
      model_version: "3",
      id: "42",
      outputs: [
        { name: "mask", datatype: "UINT8", shape: [2, 1, 2], data: [0, 1, 0, 0] },
        {
          name: "probabilities",
          datatype: "FP32",
          shape: [2, 2, 1, 2],
          data: [0.75, 0.25, 0.25, 0.75, 1, 0.5, 0, 0.5],
        },
        { name: "aula", datatype: "FP64", shape: [2], data: [1.5, null] },
        { name: "empty", datatype: "BOOL", shape: [2], data: [false, true] },
        { name: "decision", datatype: "BYTES", shape: [2], data: ["accept", "review"] },
      ],
    });
  });

  it("has binary tensors behind the JSON, in their order, texts with their lengths before them", () => {
    const { bytes, headerLength } = write(binary("decision"), plain("empty"), binary("aula"));
    const { outputs } = JSON.parse(Buffer.from(bytes.subarray(0, headerLength)).toString());
    expect(outputs.map(({ parameters }: { parameters?: object }) => parameters)).toEqual([
      { binary_data_size: 20 },
      undefined,
      { binary_data_size: 16 },
    ]);
    const rest = Buffer.from(bytes.subarray(headerLength));
    expect(rest.toString("latin1", 0, 20)).toBe("\x06\0\0\0accept\x06\0\0\0review");
    expect([rest.readDoubleLE(20), rest.readDoubleLE(28), rest.length]).toEqual([1.5, Number.NaN, 36]);
  });
});

it.each([
  [undefined, "application/json"],
  ["", "application/json"],
  [" , ,", undefined],
  ["*/*", "application/json"],
  ["application/x-npz, application/json", "application/x-npz"],
  ["application/json;q=0.2, application/x-npz", "application/x-npz"],
  ["application/json;q=0, */*", "multipart/form-data"],
  ["application/*;q=0.1, multipart/*;q=0.3", "multipart/form-data"],
  ["*/*;q=0.9, application/x-npz;Q=0.95", "application/x-npz"],
  ["*/*, application/x-npz", "application/x-npz"],
  ["application/json;q=0.5, multipart/form-data;q=0.7, application/x-npz;q=0.6", "multipart/form-data"],
  ['APPLICATION/JSON; charset="UTF-8"', "application/json"],
  ["application/json;charset=latin1", undefined],
  ["text/html, */*;q=0", undefined],
  ["application/json;q=much", undefined],
  ["application/json;q=0", undefined],
  ["text/html", undefined],
])("the header Accept %j is answered with %s", (accept, type) => {
  expect(negotiate(accept)).toBe(type);
});

describe("a budget", () => {
  it("holds no more than it has, and gives up the largest that may be", () => {
    const budget = new Budget("tests", 100);
    const given: string[] = [];
    const one = (name: string, bytes: number, idle = true) =>
      budget.take(bytes, { idle: () => idle, evict: () => given.push(name) });
    one("small", 20);
    one("large", 50);
    one("busy", 30, false);
    expect(budget.held).toBe(100);
    budget.take(10);
    expect(given).toEqual(["large"]);
    expect(budget.held).toBe(60);
    expect(() => budget.take(60)).toThrow(expect.objectContaining({ code: "ERR_LE_BUSY" }));
    expect(() => budget.check(101, "a test", "Less.")).toThrow(expect.objectContaining({ code: "ERR_LE_TOO_LARGE" }));
  });

  it("lets those wait who hold nothing, in their order, and forgets who has left", async () => {
    const budget = new Budget("tests", 100);
    const first = budget.take(80);
    const abort = new AbortController();
    const { signal } = new AbortController();
    const order: number[] = [];
    const second = budget.wait(50, abort.signal).catch((error) => error);
    const third = budget.wait(30, signal).then(() => order.push(3));
    const fourth = budget.wait(10, signal).then(() => order.push(4));
    abort.abort("left");
    expect(await second).toBe("left");
    expect(order).toEqual([]);
    first.release();
    await Promise.all([third, fourth]);
    expect(order).toEqual([3, 4]);
    expect(budget.held).toBe(40);
  });
});

it("takes the files of a form in their order, and refuses one that is cut, empty or too large", async () => {
  const part = (name: string, body: string) =>
    `--x\r\nContent-Disposition: form-data; name="f"; filename="${name}"\r\n\r\n${body}\r\n`;
  const form = (text: string, maxFiles = 3) =>
    readForm({ bytes: new TextEncoder().encode(text), contentType: "multipart/form-data; boundary=x", maxFiles });
  const files = await form(`${part("ä.png", "1")}${part("b", "22".repeat(100_000))}--x--\r\n`);
  expect(files.map(({ name, bytes }) => [name, bytes.length])).toEqual([
    ["ä.png", 1],
    ["b", 200_000],
  ]);
  await expect(form(part("a", "1").repeat(4))).rejects.toMatchObject({ code: "ERR_LE_TOO_LARGE" });
  await expect(form(part("a", "1").slice(0, -3))).rejects.toMatchObject({ code: "ERR_LE_DATA" });
  await expect(form("--x--\r\n")).rejects.toMatchObject({ code: "ERR_LE_DATA" });
  // A part's head that does not end would keep the parser busy.
  const head = `--x\r\n${"a: b\r\n".repeat(5000)}`;
  await expect(form(`${head}\r\n1\r\n--x--\r\n`)).rejects.toThrow(/at most 16384 bytes for the head of a part/);
  await expect(form(head)).rejects.toThrow(/at most 16384 bytes for the head of a part/);
  await expect(form(head.replaceAll("a:", "a--x:"))).rejects.toThrow(/at most 16384 bytes for the head of a part/);
  await expect(form(`${part("a", "1")}${head}`)).rejects.toThrow(/at most 16384 bytes for the head of a part/);
});

it("takes every boundary that RFC 2046 allows, and refuses what is none", async () => {
  const read = (boundary: string, type: string) =>
    readForm({
      bytes: Buffer.from(
        `--${boundary}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n1\r\n--${boundary}--\r\n`,
      ),
      contentType: `multipart/form-data${type}`,
      maxFiles: 1,
    });
  for (const boundary of ["x", "----WebKitFormBoundaryAb1", "a'()+_,-./:=?b", "in words", "y".repeat(70)])
    expect(await read(boundary, `; charset=utf-8; Boundary="${boundary}"`)).toHaveLength(1);
  expect(await read("a_b-c", ";boundary=a_b-c ; x=1")).toHaveLength(1);
  for (const type of ["", "; boundary=", '; boundary=""', '; boundary="x', `; boundary=${"y".repeat(71)}`])
    await expect(read("x", type)).rejects.toMatchObject({ code: "ERR_LE_DATA" });
});
