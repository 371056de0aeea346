import { readFileSync } from "node:fs";
import { crc32c } from "../../lib/data/crc.js";

/** One scalar of a TensorBoard event file. */
export interface ScalarEvent {
  tag: string;
  value: number;
  step: number;
  /** Seconds since 1970. */
  wallTime: number;
}

/** Reads the scalars of an event file that is whole: a reader of its own, so that tests do not rely on the writer's. */
export function readScalars(file: string): ScalarEvent[] {
  const bytes = readFileSync(file);
  const scalars: ScalarEvent[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(checked(bytes, at, 8).readBigUInt64LE());
    const event = fields(checked(bytes, at + 12, length));
    for (const summary of (event[5] ?? []) as Buffer[])
      for (const value of (fields(summary)[1] ?? []) as Buffer[]) {
        const { 1: [tag] = [], 2: [number] = [] } = fields(value);
        scalars.push({
          tag: String(tag),
          value: (number as Buffer).readFloatLE(),
          step: Number(event[2]?.[0] ?? 0),
          wallTime: Buffer.from(event[1]?.[0] as Buffer).readDoubleLE(),
        });
      }
    at += length + 16;
  }
  return scalars;
}

/** Bytes of a TFRecord that are followed by their masked CRC-32C. */
function checked(bytes: Buffer, at: number, length: number): Buffer {
  const part = bytes.subarray(at, at + length);
  const crc = BigInt(crc32c(part));
  const masked = BigInt.asUintN(32, ((crc >> 15n) | (crc << 17n)) + 0xa282ead8n);
  if (BigInt(bytes.readUInt32LE(at + length)) !== masked) throw new Error(`a wrong checksum at byte ${at + length}`);
  return part;
}

/** The contents of a protocol-buffer message by the fields' numbers: varints as numbers, all else as bytes. */
function fields(message: Buffer): Record<number, (number | Buffer)[]> {
  const all: Record<number, (number | Buffer)[]> = {};
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = message.readUInt8(at++);
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const key = varint();
    const kind = key & 7;
    const content = kind === 0 ? varint() : kind === 1 ? 8 : kind === 5 ? 4 : varint();
    const list = all[key >> 3] ?? [];
    all[key >> 3] = list;
    list.push(kind === 0 ? content : message.subarray(at, at + content));
    if (kind !== 0) at += content;
  }
  return all;
}
