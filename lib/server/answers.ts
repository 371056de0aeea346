// The forms in which an answer is written, chosen by the header Accept.
import { randomUUID } from "node:crypto";
import { zipSync } from "fflate";
import Negotiator from "negotiator";
import type { OutputFile } from "./image-work.js";
import type { ImageAnswer } from "./service.js";

/** The content types of an answer. */
export const ANSWER_TYPES = ["application/json", "multipart/form-data", "application/x-npz"] as const;

/** One of {@link ANSWER_TYPES}. */
export type AnswerType = (typeof ANSWER_TYPES)[number];

/** The content type of JSON as it is sent: it may be asked for with its charset. */
const JSON_TYPE = "application/json; charset=utf-8";

/**
 * The best of what an Accept header asks for (RFC 9110, 12.5.1): of types wanted alike the one named most exactly, then the one
 * named first. Undefined where it asks for something else only.
 */
export function negotiate(accept: string | undefined): AnswerType | undefined {
  const [json, ...others] = ANSWER_TYPES;
  const best = new Negotiator({ headers: { accept: accept || "*/*" } }).mediaType([JSON_TYPE, ...others]);
  return best === JSON_TYPE ? json : (best as AnswerType | undefined);
}

/** An answer's head and body. */
export interface WrittenAnswer {
  /** Its content type, with the boundary of multipart. */
  type: string;
  /** Its bytes. */
  body: Uint8Array;
}

/**
 * Writes the answers for a request's images. JSON holds every file in base64. Multipart has a part `answer` of the same JSON
 * without files, and a part for each file, named `0.mask`, `0.entropy`, … by the image's place. An .npz archive has an array
 * for each file, `mask`, … (`0.mask`, … where there are several images), `answer.json`, and an overlay as a PNG.
 */
export function writeAnswers(task: {
  type: AnswerType;
  model: string;
  version: number;
  images: readonly ImageAnswer[];
}): WrittenAnswer {
  const { type, model, version, images } = task;
  const plain = (files: (image: ImageAnswer, index: number) => object) =>
    JSON.stringify({
      model,
      version,
      images: images.map((image, index) => {
        const { name, id, decision, reasons, score, certificate, record } = image;
        return {
          name,
          ...(id !== undefined && { id }),
          decision,
          reasons,
          score,
          ...(certificate && { certificate }),
          ...record,
          files: files(image, index),
        };
      }),
    });
  if (type === "application/json") return { type: JSON_TYPE, body: withBase64(plain, images) };
  const several = images.length > 1 || type === "multipart/form-data";
  const nameOf = (file: string, index: number) => (several ? `${index}.${file}` : file);
  const json = plain(({ files }, index) =>
    Object.fromEntries(Object.entries(files).map(([name, { type }]) => [name, { type, part: nameOf(name, index) }])),
  );
  const files = images.flatMap((image, index) =>
    Object.entries(image.files).map(([name, file]) => ({ name: nameOf(name, index), ...file })),
  );
  if (type === "application/x-npz") {
    const entries = Object.fromEntries(files.map(({ name, type, bytes }) => [`${name}.${endingOf(type)}`, bytes]));
    const zip = zipSync({ ...entries, "answer.json": new TextEncoder().encode(json) }, { level: 0 });
    return { type, body: zip };
  }
  // Not by FormData and Response: these name the JSON a file, "blob", and copy every file twice more.
  const boundary = randomUUID();
  const parts = [
    ...part(boundary, 'name="answer"', "application/json", Buffer.from(json)),
    ...files.flatMap(({ name, type, bytes }) =>
      part(boundary, `name="${quote(name)}"; filename="${quote(name)}.${endingOf(type)}"`, type, viewOf(bytes)),
    ),
  ];
  return {
    type: `multipart/form-data; boundary=${boundary}`,
    body: joined([...parts, Buffer.from(`--${boundary}--\r\n`)]),
  };
}

/** Bytes of a file that are encoded in one go; a multiple of three. */
const STEP = 3 * 2 ** 19;

/** JSON with every file in base64, written in parts: as one text it might not fit the heap. */
function withBase64(
  plain: (files: (image: ImageAnswer) => object) => string,
  images: readonly ImageAnswer[],
): Uint8Array {
  // What no text of an answer holds, as a quote in one is escaped.
  const mark = `"${randomUUID()}"`;
  const texts = plain(({ files }) =>
    Object.fromEntries(Object.entries(files).map(([name, { type }]) => [name, { type, data: mark.slice(1, -1) }])),
  ).split(mark);
  const files = images.flatMap(({ files }) => Object.values(files));
  const parts: Buffer[] = [];
  for (const [i, text] of texts.entries()) {
    const file = files[i];
    parts.push(Buffer.from(file ? `${text}"` : text));
    if (!file) continue;
    for (let at = 0; at < file.bytes.length; at += STEP)
      parts.push(Buffer.from(viewOf(file.bytes.subarray(at, at + STEP)).toString("base64"), "latin1"));
    parts.push(Buffer.from('"'));
  }
  return joined(parts);
}

/** In a buffer of its own. */
function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const ENDINGS: Record<OutputFile["type"], string> = {
  "image/png": "png",
  "application/x-npy": "npy",
  "application/x-nifti": "nii.gz",
};

function endingOf(type: OutputFile["type"]): string {
  return ENDINGS[type];
}

function part(boundary: string, disposition: string, type: string, body: Buffer): Buffer[] {
  const head = `--${boundary}\r\nContent-Disposition: form-data; ${disposition}\r\nContent-Type: ${type}\r\n\r\n`;
  return [Buffer.from(head), body, Buffer.from("\r\n")];
}

/** As browsers write names in forms. */
function quote(text: string): string {
  return text.replace(/[\r\n"]/g, encodeURIComponent);
}

function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
