// The entry of a worker thread of image-pool.ts.
import { move, transferableSymbol, valueSymbol } from "piscina";
import { LayerEnsemblesError } from "../errors.js";
import { writeAnswers as writeAll } from "./answers.js";
import { readForm as readFiles } from "./form.js";
import { finish as finishImage, measure as measureImage, prepare as prepareImage } from "./image-work.js";
import { parseInfer as parse, writeInfer as write } from "./kserve.js";
import { buffersOf, ownBuffers } from "./transfer.js";

// Its cache would be beside what is counted.
void import("sharp").then(({ default: sharp }) => sharp.cache(false));

/** Nothing: tells that the thread has started. */
export function ready(): void {}

/** {@link measureImage} */
export const measure = answering(measureImage);
/** {@link readFiles} */
export const readForm = answering(readFiles);
/** {@link prepareImage} */
export const prepare = answering(prepareImage);
/** {@link finishImage} */
export const finish = answering(finishImage);
/** {@link parse} */
export const parseInfer = answering(parse);
/** {@link write} */
export const writeInfer = answering(write);

/** {@link writeAll} */
export const writeAnswers = answering(writeAll);

/** Hands the arrays of a result over, and an error's code as a value: between threads an error keeps its message only. */
function answering<T, R>(work: (task: T) => R | Promise<R>) {
  return async (task: T): Promise<unknown> => {
    try {
      const value = ownBuffers({ value: await work(task) });
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
  };
}
