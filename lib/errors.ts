/**
 * The one error class of this package. `code` is stable; the message follows one sentence shape:
 * "Expected … for … but received …", and ends with what to do where that is not obvious.
 */
export class LayerEnsemblesError extends Error {
  /** `"LayerEnsemblesError"`. */
  override readonly name = "LayerEnsemblesError";
  /** Stable, machine-readable: see {@link ErrorCode}. */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** Every `code` that an error of this package can carry. */
export type ErrorCode =
  /** An array's shape does not fit. */
  | "ERR_LE_SHAPE"
  /** A number that is NaN, infinite or out of range; a label that is no class. */
  | "ERR_LE_VALUE"
  /** An option that does not exist or has the wrong type. */
  | "ERR_LE_OPTION"
  /** A tap that does not exist, cannot be tapped or did not run. */
  | "ERR_LE_TAP"
  /** A run, weight or state file that is cut short, damaged or of another architecture. */
  | "ERR_LE_CHECKPOINT"
  /** An image, mask or table of a dataset that is missing, corrupt or contradictory. */
  | "ERR_LE_DATA"
  /** The file system refused: no space, no permission, no such folder. */
  | "ERR_LE_IO"
  /** Stopped by the caller's `AbortSignal` where that gave no reason of its own. */
  | "ERR_LE_ABORTED"
  /** Used after `dispose()`. */
  | "ERR_LE_DISPOSED"
  /** More was asked for than a queue takes; later it may. */
  | "ERR_LE_BUSY"
  /** Not done in the time that was given. */
  | "ERR_LE_TIMEOUT"
  /** An image or a request beyond a limit of the service. */
  | "ERR_LE_TOO_LARGE"
  /** A device that is not there. */
  | "ERR_LE_DEVICE"
  /** Out of memory. */
  | "ERR_LE_MEMORY"
  /** A training loss that is no longer a number. */
  | "ERR_LE_DIVERGED"
  /** No libtorch was found; the message lists what was tried. */
  | "ERR_LE_LIBTORCH_NOT_FOUND"
  /** A libtorch of another version than the addon was built for. */
  | "ERR_LE_LIBTORCH_VERSION"
  /** A libtorch that was found but cannot be loaded, or whose checksum is wrong. */
  | "ERR_LE_LIBTORCH_BROKEN"
  /** The addon itself is missing or cannot be loaded. */
  | "ERR_LE_ADDON_NOT_FOUND"
  /** libtorch refused an operation; its message is the `cause`. */
  | "ERR_LE_INTERNAL";
