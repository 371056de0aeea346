// Requests that no honest client sends, and a way to send them byte by byte.
import net from "node:net";

/** A stream of numbers in [0, 1) that a seed decides (mulberry32). */
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

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
