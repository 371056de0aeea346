// Requests that no honest client sends, and a way to send them byte by byte.
import net from "node:net";
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from "node:zlib";
import { random } from "./random.mjs";

const crcTable = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** The PNG with another size in its header, whose checksum is right. */
function withSize(png, width, height) {
  const out = Buffer.from(png);
  out.writeUInt32BE(width, 16);
  out.writeUInt32BE(height, 20);
  out.writeUInt32BE(crc32(out.subarray(12, 29)), 29);
  return out;
}

function npy(descr, shape, data) {
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }`.padEnd(117);
  const head = Buffer.from([0x93, 78, 85, 77, 80, 89, 1, 0, 118, 0]);
  return Buffer.concat([head, Buffer.from(`${text}\n`, "latin1"), data]);
}

const form = (boundary, ...parts) =>
  Buffer.concat([
    ...parts.map(({ name = "file", filename = "a.png", body }) =>
      Buffer.concat([
        Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; name="${name}"; filename="${filename}"\r\n\r\n`),
        body,
        Buffer.from("\r\n"),
      ]),
    ),
    Buffer.from(`--${boundary}--\r\n`),
  ]);

/**
 * Makes the n-th of `count` requests from a good PNG. Each must be answered by a status from 400 to 499 where the server takes
 * at most 1 MiB, in at most 2 seconds.
 */
export function hostileRequests(png, count, model = "model") {
  const v2 = `/v2/models/${model}/infer`;
  const json = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
  const tensor = (more) =>
    json({
      inputs: [{ name: "image", shape: [1, 1, 8, 8], datatype: "FP32", data: new Array(64).fill(0.5), ...more }],
    });
  const kinds = [
    ["random bytes", (next) => ({ body: Buffer.from(Array.from({ length: 1 + next() * 2000 }, () => next() * 256)) })],
    [
      "random bytes as JSON",
      (next) => ({
        path: v2,
        type: "application/json",
        body: Buffer.from(Array.from({ length: 1 + next() * 500 }, () => next() * 256)),
      }),
    ],
    ["a PNG cut short", (next) => ({ body: png.subarray(0, Math.floor(next() * (png.length - 1))) })],
    [
      "a PNG with a flipped byte",
      (next) => {
        const body = Buffer.from(png);
        body[8 + Math.floor(next() * (body.length - 8))] ^= 1 + Math.floor(next() * 255);
        return { body };
      },
    ],
    ["huge dimensions", (next) => ({ body: withSize(png, 1 + Math.floor(next() * 2 ** 31), 60_000) })],
    ["larger than its pixels", () => ({ body: withSize(png, 4000, 4000) })],
    ["no pixels", () => ({ body: withSize(png, 0, 10) })],
    [
      "a JPEG of noise",
      (next) => ({
        type: "image/jpeg",
        body: Buffer.from([0xff, 0xd8, 0xff, 0xe0, ...Array.from({ length: 300 }, () => next() * 256)]),
      }),
    ],
    [
      "a TIFF of noise",
      (next) => ({
        type: "image/tiff",
        body: Buffer.from([0x49, 0x49, 42, 0, 8, 0, 0, 0, ...Array.from({ length: 300 }, () => next() * 256)]),
      }),
    ],
    ["an SVG", () => ({ body: Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>') })],
    ["a GIF", () => ({ body: Buffer.from("GIF89a\x01\0\x01\0\0\0\0;", "latin1") })],
    ["nothing", () => ({ body: Buffer.alloc(0) })],
    ["an array of another shape", () => ({ body: npy("<f4", "2, 2, 2, 2", Buffer.alloc(64)) })],
    [
      "an array with NaN",
      () => ({ body: npy("<f4", "2, 2", Buffer.from(new Float32Array([1, Number.NaN, 2, 3]).buffer)) }),
    ],
    [
      "an array that claims too much",
      (next) => ({ body: npy("<f4", `${Math.floor(next() * 1e15)}, 7`, Buffer.alloc(16)) }),
    ],
    ["an array without numbers", () => ({ body: npy("<f4", "0, 5", Buffer.alloc(0)) })],
    ["Python objects", () => ({ body: npy("|O", "2, 2", Buffer.alloc(32)) })],
    ["another content type", () => ({ type: "text/html", body: png })],
    ["no content type, and no image", () => ({ type: null, body: Buffer.from("no image") })],
    ["a compressed body", () => ({ body: png, headers: { "content-encoding": "gzip" } })],
    ["more than the limit", () => ({ body: Buffer.alloc(1_100_000, 1) })],
    ["more than the limit, in chunks", () => ({ body: Buffer.alloc(1_100_000, 1), chunked: true })],
    ["a length that lies", () => ({ body: png, headers: { "content-length": "99999999" } })],
    ["an unknown model", () => ({ path: "/v1/predict?model=../../etc/passwd", body: png })],
    ["two models", () => ({ path: "/v1/predict?model=a&model=b", body: png })],
    ["an unknown option", () => ({ path: "/v1/predict?fusoin=mean", body: png })],
    ["a wrong option", (next) => ({ path: `/v1/predict?skip=${Math.floor(next() * 90) + 10}`, body: png })],
    ["an unknown output", () => ({ path: "/v1/predict?outputs=mask,secrets", body: png })],
    ["an answer that cannot be", () => ({ headers: { accept: "text/html" }, body: png })],
    [
      "a form without files",
      () => ({
        type: "multipart/form-data; boundary=x",
        body: Buffer.from('--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'),
      }),
    ],
    [
      "a form cut short",
      (next) => {
        const body = form("x", { body: png });
        return {
          type: "multipart/form-data; boundary=x",
          body: body.subarray(0, Math.floor(next() * (body.length - 8))),
        };
      },
    ],
    ["a form without a boundary", () => ({ type: "multipart/form-data", body: form("x", { body: png }) })],
    [
      "a form of many files",
      () => ({
        type: "multipart/form-data; boundary=x",
        body: form("x", ...Array.from({ length: 40 }, () => ({ body: png }))),
      }),
    ],
    [
      "a form with one bad file",
      () => ({
        type: "multipart/form-data; boundary=x",
        body: form("x", { body: png }, { body: Buffer.from("no"), filename: "../../x" }),
      }),
    ],
    [
      "inference on a shape that lies",
      () => ({ path: v2, type: "application/json", body: tensor({ shape: [1, 1, 1e9, 1e9] }) }),
    ],
    [
      "inference on a negative shape",
      () => ({ path: v2, type: "application/json", body: tensor({ shape: [1, -1, 8, -8] }) }),
    ],
    [
      "inference on text",
      () => ({ path: v2, type: "application/json", body: tensor({ datatype: "BYTES", data: ["a"] }) }),
    ],
    [
      "inference on values out of range",
      () => ({
        path: v2,
        type: "application/json",
        body: tensor({ datatype: "UINT8", data: new Array(64).fill(300) }),
      }),
    ],
    [
      "inference on infinity",
      () => ({
        path: v2,
        type: "application/json",
        body: json('{"inputs":[{"name":"image","shape":[1,1,1,2],"datatype":"FP32","data":[1e999,1]}]}'),
      }),
    ],
    [
      "deep JSON",
      () => ({ path: v2, type: "application/json", body: Buffer.from(`{"inputs":${"[".repeat(100_000)}`) }),
    ],
    [
      "deep data",
      () => ({
        path: v2,
        type: "application/json",
        body: json(
          `{"inputs":[{"name":"image","shape":[1,1,8,8],"datatype":"FP32","data":${"[".repeat(5000)}1${"]".repeat(5000)}}]}`,
        ),
      }),
    ],
    [
      "a binary length that lies",
      (next) => ({
        path: v2,
        body: tensor({}),
        headers: { "inference-header-content-length": String(Math.floor(next() * 1e9)) },
      }),
    ],
    [
      "a binary size that lies",
      () => {
        const head = json({
          inputs: [{ name: "image", shape: [1, 1, 8, 8], datatype: "FP32", parameters: { binary_data_size: 9999 } }],
        });
        return {
          path: v2,
          body: Buffer.concat([head, Buffer.alloc(256)]),
          headers: { "inference-header-content-length": String(head.length) },
        };
      },
    ],
    ["an unknown route", (next) => ({ path: `/${next().toString(36).slice(2)}`, body: png })],
    ["a method that is not there", () => ({ method: "DELETE", path: "/v1/predict", body: png })],
    [
      "bytes that are no HTTP",
      (next) => ({ raw: Buffer.from(Array.from({ length: 50 }, () => 33 + next() * 90)), end: true }),
    ],
    [
      "a header without end",
      () => ({ raw: Buffer.from(`POST /v1/predict HTTP/1.1\r\nHost: a\r\nX: ${"y".repeat(40_000)}`) }),
    ],
  ];
  // A few take the whole timeout, so they are few.
  const slow = [
    [
      "a body that never comes",
      () => ({ body: png.subarray(0, 10), headers: { "content-length": String(png.length) }, lazy: true }),
    ],
    [
      "a form that never ends",
      () => ({
        type: "multipart/form-data; boundary=x",
        body: form("x", { body: png }).subarray(0, 90),
        headers: { "content-length": "5000" },
        lazy: true,
      }),
    ],
    ["a head that never ends", () => ({ raw: Buffer.from("POST /v1/predict HTTP/1.1\r\nHost: a\r\n") })],
  ];
  return (n) => {
    const next = random(n + 1);
    const [name, make] = n % 50 === 49 ? slow[Math.floor(n / 50) % slow.length] : kinds[n % kinds.length];
    return { name, ...make(next), total: count };
  };
}

function chunk(type, body) {
  const named = Buffer.concat([Buffer.from(type, "latin1"), body]);
  const out = Buffer.alloc(named.length + 8);
  out.writeUInt32BE(body.length);
  named.copy(out, 4);
  out.writeUInt32BE(crc32(named), out.length - 4);
  return out;
}

/** A whole PNG of zeros, which packs to a thousandth. `colour`: 0 grey, 2 RGB, 3 palette, 6 RGBA. */
export function blankPng(width, height, { colour = 0, depth = 8, chunks = 1, interlaced = false } = {}) {
  const channels = { 0: 1, 2: 3, 3: 1, 6: 4 }[colour];
  const rows = interlaced ? 2 * height + 8 : height;
  const packed = deflateSync(Buffer.alloc(rows * (Math.ceil((width * channels * depth) / 8) + 1)), { level: 6 });
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([depth, colour, 0, 0, Number(interlaced)], 8);
  const step = Math.ceil(packed.length / chunks);
  const data = Array.from({ length: chunks }, (_, i) => chunk("IDAT", packed.subarray(i * step, (i + 1) * step)));
  const palette = colour === 3 ? [chunk("PLTE", Buffer.alloc(768))] : [];
  const signature = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
  return Buffer.concat([signature, chunk("IHDR", head), ...palette, ...data, chunk("IEND", Buffer.alloc(0))]);
}

/** A TIFF whose directory claims what it likes. Tags: [number, type (3 short, 4 long), value]. */
function tiff(tags, data = Buffer.alloc(16)) {
  const out = Buffer.alloc(8 + 2 + tags.length * 12 + 4);
  out.write("II*\0", "latin1");
  out.writeUInt32LE(8, 4);
  out.writeUInt16LE(tags.length, 8);
  for (const [i, [tag, type, value]] of tags.entries()) {
    const at = 10 + i * 12;
    out.writeUInt16LE(tag, at);
    out.writeUInt16LE(type, at + 2);
    out.writeUInt32LE(1, at + 4);
    out.writeUInt32LE(value, at + 8);
  }
  return Buffer.concat([out, data]);
}

/**
 * Requests that cost a server as much as they can: bombs of every format, answers that are larger than their questions, and texts
 * that are slow to read. Each must be answered by a status of `right`, soon, in bounded memory, beside others.
 * @param png A good image of `height`×`width`.
 * @param limits Largest body in bytes, and largest image in pixels, of the server.
 */
export function costlyRequests(png, { model = "model", maxBody = 2 ** 25, maxPixels = 2 ** 24 } = {}) {
  const v2 = `/v2/models/${model}/infer`;
  const json = { path: v2, type: "application/json" };
  const refused = [400, 413, 415, 503];
  const text = (value) => Buffer.from(value);
  const side = Math.floor(Math.sqrt(maxPixels));
  const full = maxBody - 1000;
  const pixels = (count, more = {}) =>
    JSON.stringify({
      inputs: [{ name: "image", shape: [1, 1, 1, count], datatype: "UINT8", data: "@", ...more }],
    });
  const filled = (body, part, end = "") => {
    const [before, after] = body.split('"@"');
    const room = full - before.length - after.length - end.length - 2;
    return text(`${before}[${part.repeat(Math.floor(room / part.length))}${end}]${after}`);
  };
  const zeros = (format) => ({ body: format(Buffer.alloc(4 * maxBody)), right: [413] });
  const tags = (width, height, samples, bits, compression = 1) => [
    [256, 4, width],
    [257, 4, height],
    [258, 3, bits],
    [259, 3, compression],
    [262, 3, 1],
    [273, 4, 8],
    [277, 3, samples],
    [278, 4, height],
    [279, 4, 16],
  ];
  const infer = (head, data) => ({
    path: v2,
    type: "application/octet-stream",
    body: Buffer.concat([text(head), data]),
    headers: { "inference-header-content-length": String(Buffer.byteLength(head)) },
  });
  return Object.entries({
    "a PNG of one row": { body: blankPng(maxPixels, 1) },
    "a PNG of one column": { body: blankPng(1, maxPixels) },
    "a PNG of two columns": { body: blankPng(2, maxPixels >> 1) },
    "a PNG of 16-bit RGBA, one row": { body: blankPng(maxPixels >> 3, 1, { colour: 6, depth: 16 }) },
    "a PNG of a palette, one column": { body: blankPng(1, maxPixels >> 2, { colour: 3 }) },
    "a PNG over the limit": { body: blankPng(side + 1, side + 1), right: [413] },
    "a PNG of 1 bit over the limit": { body: blankPng(2 * side, 2 * side, { depth: 1 }), right: [413] },
    "an interlaced PNG over the limit": { body: blankPng(side + 8, side + 8, { interlaced: true }), right: [413] },
    "a PNG of many empty chunks": {
      body: Buffer.concat([
        blankPng(40, 40).subarray(0, 33),
        Buffer.alloc(12 * Math.floor((full - 100) / 12), chunk("IDAT", Buffer.alloc(0))),
      ]),
    },
    "a PNG with more pixel data than pixels": {
      body: Buffer.concat([
        blankPng(8, 8).subarray(0, 33),
        chunk("IDAT", deflateSync(Buffer.alloc(1e8))),
        chunk("IEND", Buffer.alloc(0)),
      ]),
    },
    "a TIFF of 65535 bands": { type: "image/tiff", body: tiff(tags(4000, 4000, 65535, 8)) },
    "a TIFF of 64-bit samples": { type: "image/tiff", body: tiff(tags(4000, 4000, 4, 64)) },
    "a TIFF of one row": { type: "image/tiff", body: tiff(tags(maxPixels, 1, 1, 8)) },
    "a TIFF of huge sides": { type: "image/tiff", body: tiff(tags(2 ** 31, 2 ** 31, 1, 8)) },
    "a deflated TIFF that is cut": { type: "image/tiff", body: tiff(tags(4000, 4000, 3, 16, 8)) },
    "an array of one row": { type: "application/x-npy", body: npy("|u1", `1, ${maxPixels}`, Buffer.alloc(maxPixels)) },
    "an array of bytes over the limit": {
      type: "application/x-npy",
      body: npy("|u1", `${full - 200},`, Buffer.alloc(full - 200)),
    },
    "an array in a header without end": {
      type: "application/x-npy",
      body: npy("|u1", "1,".repeat(20_000), Buffer.alloc(1)),
    },
    "an archive in place of an array": {
      type: "application/x-npz",
      body: Buffer.concat([text("PK\x03\x04"), Buffer.alloc(1000)]),
    },
    "a gzip bomb": { headers: { "content-encoding": "gzip" }, ...zeros(gzipSync) },
    "a deflate bomb": { headers: { "content-encoding": "deflate" }, ...zeros(deflateSync) },
    "a raw deflate bomb": { headers: { "content-encoding": "deflate" }, ...zeros(deflateRawSync) },
    "a brotli bomb": { headers: { "content-encoding": "br" }, ...zeros((bytes) => brotliCompressSync(bytes)) },
    "a gzip of a gzip": { headers: { "content-encoding": "gzip" }, body: gzipSync(gzipSync(png)) },
    "two encodings": { headers: { "content-encoding": "gzip, gzip" }, body: gzipSync(gzipSync(png)), right: [415] },
    "a cut gzip": { headers: { "content-encoding": "gzip" }, body: gzipSync(png).subarray(0, 40) },
    "gzip of many empty members": {
      headers: { "content-encoding": "gzip" },
      body: Buffer.alloc(20 * Math.floor((full >> 3) / 20), gzipSync(Buffer.alloc(0))),
    },
    "an unknown encoding": { headers: { "content-encoding": "zstd" }, body: png, right: [415] },
    "outputs over and over": { path: `/v1/predict?outputs=${"overlay,".repeat(1900)}`, body: png, right: [400] },
    "outputs in two parameters, alike": { path: "/v1/predict?outputs=mask&outputs=mask", body: png, right: [400] },
    "many parameters": { path: `/v1/predict?${"a=1&".repeat(3000)}`, body: png, right: [400] },
    "a form of boundaries": {
      type: "multipart/form-data; boundary=x",
      body: Buffer.alloc(full - (full % 5), "--x\r\n"),
    },
    "a form of header lines": {
      type: "multipart/form-data; boundary=x",
      body: Buffer.concat([text("--x\r\n"), Buffer.alloc(full - 10, "a:b\r\n")]),
    },
    "a form of line ends": {
      type: "multipart/form-data; boundary=x",
      body: Buffer.concat([
        text('--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'),
        Buffer.alloc(full - 200, "\r\n--"),
      ]),
    },
    "a form of tiny parts": {
      type: "multipart/form-data; boundary=x",
      body: Buffer.alloc(full - 100, '--x\r\nContent-Disposition: form-data; name="f"\r\n\r\na\r\n'),
    },
    "a form of many small images": {
      type: "multipart/form-data; boundary=x",
      body: form("x", ...Array.from({ length: 2000 }, () => ({ body: png }))),
      right: [413],
    },
    "a form in a form": {
      type: "multipart/form-data; boundary=x",
      body: form("x", { body: form("y", { body: png }) }),
    },
    "a form with an endless boundary": { type: `multipart/form-data; boundary=${"y".repeat(8000)}`, body: png },
    "JSON of commas": { ...json, body: filled(pixels(1), ",") },
    "JSON of small numbers": { ...json, body: filled(pixels(100), "0,", "0") },
    "JSON of fractions": { ...json, body: filled(pixels(100, { datatype: "FP64" }), "0.5,", "0.5") },
    "JSON of negative zeros": { ...json, body: filled(pixels(100, { datatype: "FP32" }), "-0,", "0") },
    "JSON of lists": { ...json, body: filled(pixels(100), "[0],", "0") },
    "JSON of deep lists": {
      ...json,
      body: text(`{"inputs":${"[".repeat(full >> 1)}${"]".repeat(full >> 1).slice(20)}}`),
    },
    "JSON of objects": { ...json, body: filled(pixels(100), "{},", "0") },
    "JSON of names": {
      ...json,
      body: text(`{${Array.from({ length: full / 16 }, (_, i) => `"k${i}":1`).join(",")}}`.slice(0, full)),
    },
    "JSON of texts": { ...json, body: filled(pixels(100), '"a",', "0") },
    "JSON of one text": { ...json, body: text(`{"inputs":"${"\\u0041".repeat(full / 6 - 10)}"}`) },
    "JSON of blanks": { ...json, body: Buffer.concat([text("{"), Buffer.alloc(full - 100, " ")]) },
    "JSON in UTF-16": { ...json, body: Buffer.from('{"inputs":[]}', "utf16le") },
    "JSON of a long id": { ...json, body: text(JSON.stringify({ id: "a".repeat(full >> 1), inputs: [] })) },
    "JSON of a digit string": { ...json, body: filled(pixels(100), "9") },
    "a tensor of one row": infer(
      JSON.stringify({
        inputs: [
          {
            name: "image",
            shape: [1, 1, 1, maxPixels],
            datatype: "UINT8",
            parameters: { binary_data_size: maxPixels },
          },
        ],
      }),
      Buffer.alloc(maxPixels),
    ),
    "tensors as numbers that are too many": {
      ...infer(
        JSON.stringify({
          inputs: [
            {
              name: "image",
              shape: [1, 1, side, side],
              datatype: "UINT8",
              parameters: { binary_data_size: side * side },
            },
          ],
        }),
        Buffer.alloc(side * side),
      ),
      right: [413, 503],
    },
    "a tensor of the other type": infer(
      JSON.stringify({
        inputs: [{ name: "image", shape: [1, 1, 8, 8], datatype: "BOOL", parameters: { binary_data_size: 64 } }],
      }),
      Buffer.alloc(64, 7),
    ),
    "a tensor of NaN": infer(
      JSON.stringify({
        inputs: [{ name: "image", shape: [1, 1, 8, 8], datatype: "FP16", parameters: { binary_data_size: 128 } }],
      }),
      Buffer.alloc(128, 0xff),
    ),
    "a tensor of numbers beyond 2^53": infer(
      JSON.stringify({
        inputs: [{ name: "image", shape: [1, 1, 2, 1], datatype: "UINT64", parameters: { binary_data_size: 16 } }],
      }),
      Buffer.alloc(16, 0xff),
    ),
    "shared memory": {
      ...json,
      body: text(
        JSON.stringify({
          inputs: [
            {
              name: "image",
              shape: [1, 1, 8, 8],
              datatype: "UINT8",
              parameters: { shared_memory_region: "a", shared_memory_byte_size: 64 },
            },
          ],
        }),
      ),
      right: [400],
    },
    "outputs of the protocol over and over": {
      ...json,
      body: text(
        JSON.stringify({
          inputs: [{ name: "image", shape: [1, 1, 8, 8], datatype: "UINT8", data: new Array(64).fill(1) }],
          outputs: new Array(64).fill({ name: "probabilities" }),
        }),
      ),
      right: [400],
    },
  }).map(([name, request]) => ({ name, right: refused, ...request }));
}

/** Sends a request over a connection of its own; resolves with the status, 0 where the connection ended without one. */
export function sendRaw(
  port,
  { method = "POST", path = "/v1/predict", type = "image/png", body, headers = {}, chunked, raw, end, lazy },
) {
  return new Promise((resolve) => {
    let answer = "";
    const socket = net.connect(port, "127.0.0.1", () => {
      if (raw) {
        socket.write(raw);
        if (end) socket.end();
        return;
      }
      const all = {
        host: "a",
        ...(type && { "content-type": type }),
        ...(chunked ? { "transfer-encoding": "chunked" } : { "content-length": String(body.length) }),
        ...headers,
      };
      socket.write(
        `${method} ${path} HTTP/1.1\r\n${Object.entries(all)
          .map(([name, value]) => `${name}: ${value}\r\n`)
          .join("")}\r\n`,
      );
      if (chunked)
        for (let at = 0; at < body.length; at += 65536) {
          const part = body.subarray(at, at + 65536);
          socket.write(`${part.length.toString(16)}\r\n`);
          socket.write(part);
          socket.write("\r\n");
        }
      else socket.write(body);
      if (chunked) socket.write("0\r\n\r\n");
      // What is cut short by the length it claims ends here, unless it is meant to hang.
      if (!lazy && Number(all["content-length"]) > body.length) setTimeout(() => socket.end(), 20);
    });
    const done = () => {
      socket.destroy();
      resolve(Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 0));
    };
    socket.setEncoding("latin1");
    socket.on("data", (text) => {
      answer += text;
      if (/^HTTP\/1\.1 \d{3}/.test(answer)) done();
    });
    socket.on("error", done);
    socket.on("close", done);
    setTimeout(done, 30_000).unref();
  });
}
