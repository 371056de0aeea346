// The entry of a worker thread of image-pool.ts.
import { move, transferableSymbol, valueSymbol } from "piscina";
import { LayerEnsemblesError } from "../errors.js";
import { type Task, WORK } from "./image-pool.js";
import { buffersOf, ownBuffers } from "./transfer.js";

// Its cache would be beside what is counted.
void import("sharp").then(({ default: sharp }) => sharp.cache(false));

/** The process has the addon loaded: where volumes are resampled, this thread takes it, too. */
async function withKernels(name: Task["name"], task: unknown): Promise<void> {
  if (!["prepare", "parseInfer"].includes(name) || !(task as ImageTask).kind.preprocessing.grid?.spacing) return;
  const { loadAddon } = await import("../native/load.js");
  await loadAddon();
}

type ImageTask = Parameters<(typeof WORK)["prepare"]>[0];

/** Hands the arrays of a result over, and an error's code as a value: between threads an error keeps its message only. */
export default async function work({ name, task }: Task): Promise<unknown> {
  try {
    await withKernels(name, task);
    const value = ownBuffers({ value: await WORK[name](task as never) });
    return move({ [transferableSymbol]: buffersOf(value), [valueSymbol]: value } as unknown as Parameters<
      typeof move
    >[0]);
  } catch (error) {
    if (error instanceof LayerEnsemblesError) return { error: { code: error.code, message: error.message } };
    // An array or a text that cannot be made.
    if (error instanceof RangeError)
      return {
        error: {
          code: "ERR_LE_TOO_LARGE",
          message: `Expected a request that there is memory for but received: ${error.message}.`,
        },
      };
    throw error;
  }
}
