/** A minimal uncompressed little-endian TIFF (one strip), for samples that image libraries do not write. */
export function encodeTiff(
  data: Uint8Array | Uint16Array | Uint32Array | Int16Array | Float32Array,
  [height, width, channels]: readonly [number, number, number],
): Buffer {
  const format = data instanceof Float32Array ? 3 : data instanceof Int16Array ? 2 : 1;
  const bits = data.BYTES_PER_ELEMENT * 8;
  const pixels = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const tags: [tag: number, type: 3 | 4, values: number[]][] = [
    [256, 4, [width]],
    [257, 4, [height]],
    [258, 3, Array.from({ length: channels }, () => bits)],
    [259, 3, [1]],
    [262, 3, [channels === 3 ? 2 : 1]],
    [273, 4, [8]],
    [277, 3, [channels]],
    [278, 4, [height]],
    [279, 4, [pixels.length]],
    [339, 3, Array.from({ length: channels }, () => format)],
  ];
  const directory = 8 + pixels.length + (pixels.length % 2);
  const extra = directory + 2 + tags.length * 12 + 4;
  const out = Buffer.alloc(extra + 64);
  out.write("II", 0, "latin1");
  out.writeUInt16LE(42, 2);
  out.writeUInt32LE(directory, 4);
  pixels.copy(out, 8);
  out.writeUInt16LE(tags.length, directory);
  let free = extra;
  tags.forEach(([tag, type, values], i) => {
    const at = directory + 2 + i * 12;
    const size = type === 3 ? 2 : 4;
    out.writeUInt16LE(tag, at);
    out.writeUInt16LE(type, at + 2);
    out.writeUInt32LE(values.length, at + 4);
    let target = at + 8;
    if (values.length * size > 4) {
      out.writeUInt32LE(free, at + 8);
      target = free;
      free += values.length * size;
    }
    values.forEach((value, j) => {
      out[type === 3 ? "writeUInt16LE" : "writeUInt32LE"](value, target + j * size);
    });
  });
  return out;
}
