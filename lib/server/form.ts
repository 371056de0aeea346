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
  try {
    await new Promise<void>((resolve, reject) => {
      const parser = new Busboy({
        headers: { "content-type": contentType },
        limits: { files: maxFiles, fields: MAX_FIELDS, parts: maxFiles + MAX_FIELDS, headerPairs: 32 },
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
        if (at >= bytes.length) parser.end();
        else
          parser.write(Buffer.from(bytes.buffer, bytes.byteOffset + at, Math.min(STEP, bytes.length - at)), () =>
            setImmediate(write, at + STEP),
          );
      };
      write(0);
    });
  } catch (error) {
    if (error instanceof LayerEnsemblesError) throw error;
    const received = `a damaged one: ${(error as Error).message}`;
    throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a whole multipart body but received ${received}.`);
  }
  if (files.length === 0)
    throw new LayerEnsemblesError("ERR_LE_DATA", "Expected at least one file in the multipart body but received none.");
  return files;
}
