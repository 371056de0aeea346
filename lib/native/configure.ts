import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, option, type Values } from "../options.js";

export const CONFIGURE = {
  /** Folder of the libtorch to use, or `"python"` for the active Python's torch. Only before the first use. @default searched */
  libtorch: option.string(),
  /** Threads that one operation is spread over, 1 to 1024. @default one for each core */
  threads: option.integer({ min: 1, max: 1024, otherwise: "one for each core", text: "CPU threads" }),
  /** CPU memory: `"pool"` keeps freed blocks for the next batch, `"system"` gives them back. @default "pool" */
  allocator: option.oneOf(["pool", "system"]),
};

/** Settings of the process. */
export interface Configuration extends Values<typeof CONFIGURE> {}

const current: Configuration = {};
let apply: (() => void) | null = null;

/**
 * Sets what concerns the whole process. May be called several times; what is left out stays as it is.
 * @throws LayerEnsemblesError `ERR_LE_OPTION`, also for another `libtorch` once one is loaded.
 */
export function configure(options: Configuration): void {
  const given = checkOptions("configure", options, CONFIGURE);
  if (apply && given.libtorch !== undefined && given.libtorch !== current.libtorch) {
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      "Expected option 'libtorch' of configure before libtorch is first used but received it after. Fix: call configure first.",
    );
  }
  for (const [name, value] of Object.entries(given)) {
    if (value !== undefined) Object.assign(current, { [name]: value });
  }
  apply?.();
}

/** The settings so far. */
export function configuration(): Readonly<Configuration> {
  return current;
}

/** @internal What to call when settings change, from the moment that the addon is loaded. */
export function onConfigure(callback: () => void): void {
  apply = callback;
}
