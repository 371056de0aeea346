import { type ErrorCode, LayerEnsemblesError } from "../errors.js";
import type { Addon, Handle } from "../native/addon.js";

/** Milliseconds that a job which was told to stop is waited for. A thread may never come back from a network's pass. */
const PATIENCE = 2000;
/** Milliseconds without a sign of life after which {@link disposeNative} stops the jobs of a network that may loop. */
const SILENCE = 10_000;

/** From an error of the addon to this package's own, whose stack leads to the caller. */
export function fromNative(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { code, detail } = error as Error & { code?: unknown; detail?: unknown };
  if (typeof code !== "string" || !code.startsWith("ERR_LE_")) return error;
  const cause = typeof detail === "string" ? { cause: new Error(detail) } : undefined;
  return new LayerEnsemblesError(code as ErrorCode, error.message, cause);
}

/** Who follows a signal, and the one listener for all of them: Node.js warns of a leak where a signal has more than ten. */
const followed = new WeakMap<AbortSignal, { stops: Set<() => void>; listener: () => void }>();

/** Why a signal was aborted. For its listeners: what one throws ends the process, and a signal's own property may throw. */
export function reasonOf(signal: AbortSignal | undefined): unknown {
  try {
    return signal?.reason;
  } catch (error) {
    return error;
  }
}

/**
 * Calls `stop`, which does not throw, once when the signal aborts.
 * @returns what ends that
 */
export function onAbort(signal: AbortSignal | undefined, stop: () => void): () => void {
  if (!signal) return () => {};
  let followers = followed.get(signal);
  if (!followers) {
    const stops = new Set<() => void>();
    const listener = () => {
      followed.delete(signal);
      for (const each of stops) each();
    };
    followers = { stops, listener };
    followed.set(signal, followers);
    signal.addEventListener("abort", listener, { once: true });
  }
  const { stops, listener } = followers;
  const own = () => stop(); // one function may follow twice
  stops.add(own);
  return () => {
    if (!stops.delete(own) || stops.size > 0 || followed.get(signal)?.stops !== stops) return;
    followed.delete(signal);
    signal.removeEventListener("abort", listener);
  };
}

/**
 * Runs native work that an `AbortSignal` can stop. The addon looks at a flag between the operations of a prediction's pass
 * and between batches of a training. A stopped job rejects with `signal.reason`, two seconds later at the latest.
 */
export async function callNative<T>(
  addon: Addon,
  signal: AbortSignal | undefined,
  work: (control: Handle) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const control = addon.createControl();
  let patience: NodeJS.Timeout | undefined;
  const ignore = onAbort(signal, () => {
    addon.stopControl(control);
    patience = setTimeout(() => addon.giveUpControl(control), PATIENCE);
  });
  try {
    return await work(control);
  } catch (error) {
    if (signal?.aborted && (error as { code?: unknown }).code === "ERR_LE_ABORTED") throw reasonOf(signal);
    throw fromNative(error);
  } finally {
    ignore();
    clearTimeout(patience);
  }
}

/**
 * Waits for a network's disposal, which comes after the jobs before it. A TorchScript program may loop for ever: where it
 * shows no sign of life, its jobs are told to stop, and given up (they reject with ERR_LE_ABORTED); what it holds is freed
 * should it come back.
 */
export async function disposeNative(addon: Addon, handle: Handle, disposal: Promise<void>): Promise<void> {
  let last = addon.jobsLife(handle);
  let silent = 0;
  const timer = setInterval(() => {
    const life = addon.jobsLife(handle);
    silent = life === undefined || life !== last ? 0 : silent + 1000;
    last = life;
    if (silent === SILENCE) addon.stopJobs(handle);
    if (silent >= SILENCE + PATIENCE) addon.giveUpJobs(handle);
  }, 1000);
  try {
    await disposal;
  } catch (error) {
    if ((error as { code?: unknown }).code !== "ERR_LE_ABORTED") throw fromNative(error);
  } finally {
    clearInterval(timer);
  }
}
