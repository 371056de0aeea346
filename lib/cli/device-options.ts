import { PLACEMENT } from "../ensemble/model.js";
import { CONFIGURE } from "../native/configure.js";

/** Where a network runs, in which numbers and on how many threads. */
export const DEVICE = { ...PLACEMENT, threads: CONFIGURE.threads };
