import { Busboy } from "@fastify/busboy";
import { LayerEnsemblesError } from "../errors.js";

/** A file of a form. */
export interface FormFile {
  /** Its file name, else its field's. */
  name: string;
  /** Its content. */
  bytes: Uint8Array;
}

/** Bytes that the parser gets at a time. */
const STEP = 65_536;
const MAX_FIELDS = 8;
/** Bytes of a part's head: its parser takes a microsecond for each. */
const MAX_HEAD = 16_384;

/**
 * Takes a multipart/form-data body apart; fields that are no files are passed over.
 * @throws ERR_LE_DATA for a damaged one, and one without files; ERR_LE_TOO_LARGE for too many parts
 */
export async function readForm(task: {
  bytes: Uint8Array;
  contentType: string;
  maxFiles: number;
}): Promise<FormFile[]> {
  const { bytes, contentType, maxFiles } = task;
  const files: FormFile[] = [];
  const boundary = boundaryOf(contentType);
  const maxParts = maxFiles + MAX_FIELDS;
  checkHeads(bytes, boundary, maxParts);
  let over = false;
  try {
    await new Promise<void>((resolve, reject) => {
      const parser = new Busboy({
        headers: { "content-type": `multipart/form-data; boundary="${boundary}"` },
        limits: { files: maxFiles, fields: MAX_FIELDS, parts: maxParts, headerPairs: 32 },
      });
      const tooMany = () =>
        reject(
          new LayerEnsemblesError(
            "ERR_LE_TOO_LARGE",
            `Expected at most ${maxFiles} files and ${MAX_FIELDS} fields in a form but received more.`,
          ),
        );
      parser.on("filesLimit", tooMany).on("partsLimit", tooMany).on("fieldsLimit", tooMany);
      parser.on("file", (field, stream, fileName) => {
        const parts: Buffer[] = [];
        const file: FormFile = { name: (fileName || field || "file").slice(0, 200), bytes: new Uint8Array() };
        files.push(file);
        stream.on("data", (part: Buffer) => parts.push(part));
        stream.on("error", reject);
        stream.on("end", () => {
          file.bytes = new Uint8Array(Buffer.concat(parts));
        });
      });
      parser.on("error", reject).on("finish", resolve);
      const write = (at: number) => {
        if (over) return;
        if (at >= bytes.length) parser.end();
        else
          parser.write(Buffer.from(bytes.buffer, bytes.byteOffset + at, Math.min(STEP, bytes.length - at)), () =>
            setImmediate(write, at + STEP),
          );
      };
      write(0);
    });
  } catch (error) {
    // The rest is not read: the thread has other work.
    over = true;
    if (error instanceof LayerEnsemblesError) throw error;
    const received = `a damaged one: ${(error as Error).message}`;
    throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a whole multipart body but received ${received}.`);
  }
  if (files.length === 0)
    throw new LayerEnsemblesError("ERR_LE_DATA", "Expected at least one file in the multipart body but received none.");
  return files;
}

/** What stands between the parts, by RFC 2046. */
function boundaryOf(contentType: string): string {
  const found = /;\s*boundary\s*=\s*(?:"([\w'()+,./:=? -]{1,70})"|([\w'()+,./:=?-]{1,70}))\s*(?:;|$)/i.exec(
    contentType,
  );
  const boundary = (found?.[1] ?? found?.[2])?.trimEnd();
  if (boundary) return boundary;
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected a boundary of 1 to 70 characters in the content type of a form but received ${JSON.stringify(contentType.slice(0, 100))}.`,
  );
}

/** Refuses what would keep the parser busy: a part whose head does not end soon, among the parts that it takes. */
function checkHeads(bytes: Uint8Array, boundary: string, maxParts: number): void {
  const body = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const delimiter = `\r\n--${boundary}`;
  // The first one may be the body's first line.
  const first = body.indexOf(delimiter.slice(2)) === 0 ? -2 : body.indexOf(delimiter);
  for (let at = first, parts = 0; at !== -1 && parts <= maxParts; parts++) {
    const start = at + delimiter.length;
    const head = body.subarray(start, start + MAX_HEAD);
    if (head.toString("latin1", 0, 2) === "--") return;
    const end = head.indexOf("\r\n\r\n");
    const next = body.indexOf(delimiter, start);
    // A part without any head, or one that is cut, is the parser's to judge.
    const length = Math.min(end < 0 ? Number.POSITIVE_INFINITY : end, (next < 0 ? body.length : next) - start);
    if (length > MAX_HEAD)
      throw new LayerEnsemblesError(
        "ERR_LE_DATA",
        `Expected at most ${MAX_HEAD} bytes for the head of a part of a form but received more.`,
      );
    at = next;
  }
}
