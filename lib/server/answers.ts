// The forms in which an answer is written, chosen by the header Accept.
import { randomUUID } from "node:crypto";
import { zipSync } from "fflate";
import type { OutputFile } from "./image-work.js";
import type { ImageAnswer } from "./service.js";

/** The content types of an answer. */
export const ANSWER_TYPES = ["application/json", "multipart/form-data", "application/x-npz"] as const;

/** One of {@link ANSWER_TYPES}. */
export type AnswerType = (typeof ANSWER_TYPES)[number];

/** The best of what an Accept header asks for; undefined where it asks for something else only. */
export function negotiate(accept: string | undefined): AnswerType | undefined {
  if (accept === undefined) return "application/json";
  const wanted = accept
    .split(",")
    .map((part) => {
      const [type = "", ...parameters] = part.split(";").map((text) => text.trim().toLowerCase());
      const q = parameters.find((text) => text.startsWith("q="));
      return { type, q: q === undefined ? 1 : Number(q.slice(2)) };
    })
    .filter(({ q }) => q > 0)
    .sort((a, b) => b.q - a.q);
  for (const { type } of wanted) {
    const found = ANSWER_TYPES.find(
      (name) => type === name || type === "*/*" || (type.endsWith("/*") && name.startsWith(type.slice(0, -1))),
    );
    if (found) return found;
  }
  return undefined;
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
        const { name, decision, reasons, score, record } = image;
        return { name, decision, reasons, score, ...record, files: files(image, index) };
      }),
    });
  if (type === "application/json")
    return {
      type: "application/json; charset=utf-8",
      body: Buffer.from(
        plain(({ files }) =>
          Object.fromEntries(
            Object.entries(files).map(([name, { type, bytes }]) => [
              name,
              { type, data: viewOf(bytes).toString("base64") },
            ]),
          ),
        ),
      ),
    };
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
  const boundary = randomUUID();
  const parts = [
    part(boundary, 'name="answer"', "application/json", Buffer.from(json)),
    ...files.map(({ name, type, bytes }) =>
      part(boundary, `name="${quote(name)}"; filename="${quote(name)}.${endingOf(type)}"`, type, viewOf(bytes)),
    ),
  ];
  return {
    type: `multipart/form-data; boundary=${boundary}`,
    body: Buffer.concat([...parts, Buffer.from(`--${boundary}--\r\n`)]),
  };
}

function endingOf(type: OutputFile["type"]): string {
  return type === "image/png" ? "png" : "npy";
}

function part(boundary: string, disposition: string, type: string, body: Buffer): Buffer {
  const head = `--${boundary}\r\nContent-Disposition: form-data; ${disposition}\r\nContent-Type: ${type}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), body, Buffer.from("\r\n")]);
}

/** As browsers write names in forms. */
function quote(text: string): string {
  return text.replace(/[\r\n"]/g, encodeURIComponent);
}

function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
