import { type ErrorCode, LayerEnsemblesError } from "../errors.js";
import type { Addon, Handle } from "../native/addon.js";

/** From an error of the addon to this package's own, whose stack leads to the caller. */
export function fromNative(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { code, detail } = error as Error & { code?: unknown; detail?: unknown };
  if (typeof code !== "string" || !code.startsWith("ERR_LE_")) return error;
  const cause = typeof detail === "string" ? { cause: new Error(detail) } : undefined;
  return new LayerEnsemblesError(code as ErrorCode, error.message, cause);
}

/**
 * Runs native work that an `AbortSignal` can stop. The addon looks at a flag once per batch; a stopped job rejects with
 * `signal.reason`.
 */
export async function callNative<T>(
  addon: Addon,
  signal: AbortSignal | undefined,
  work: (control: Handle) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const control = addon.createControl();
  const stop = () => addon.stopControl(control);
  signal?.addEventListener("abort", stop, { once: true });
  try {
    return await work(control);
  } catch (error) {
    if (signal?.aborted && (error as { code?: unknown }).code === "ERR_LE_ABORTED") throw signal.reason;
    throw fromNative(error);
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}
