import { setImmediate } from "node:timers/promises";

/** The distinct array buffers in a tree of plain objects and arrays: what a thread can hand over instead of copying. */
export function buffersOf(value: unknown): ArrayBuffer[] {
  const found = new Set<ArrayBuffer>();
  const visit = (item: unknown) => {
    if (ArrayBuffer.isView(item)) found.add(item.buffer as ArrayBuffer);
    else if (typeof item === "object" && item !== null) for (const inner of Object.values(item)) visit(inner);
  };
  visit(value);
  return [...found];
}

/**
 * A tree whose arrays own their buffers: those of the addon, of sharp and of Node's pools cannot be handed over, and a view
 * would take all that its buffer holds along.
 * @param given Views that may be handed over as they are, where each is all of its buffer: nobody else has them
 */
export function ownBuffers<T>(value: T, given?: ReadonlySet<unknown>): T {
  return map(value, (view) => (given?.has(view) && isWhole(view) ? view : copyOf(view)));
}

/** Bytes that are copied in one go on a thread that has others to serve. */
const STEP = 2 ** 23;

/**
 * The same for much, without keeping the event loop waiting: in steps.
 * @returns the copy, and its views
 */
export async function ownBuffersGently<T>(value: T): Promise<{ value: T; views: Set<unknown> }> {
  const views = new Set<unknown>();
  const copies: [from: Uint8Array, to: Uint8Array][] = [];
  let bytes = 0;
  const own = map(value, (view) => {
    bytes += view.byteLength;
    const Type = typeOf(view);
    const buffer = new ArrayBuffer(view.byteLength);
    copies.push([bytesOf(view), new Uint8Array(buffer)]);
    const copy = new Type(buffer);
    views.add(copy);
    return copy as ArrayBufferView;
  });
  let done = 0;
  for (const [from, to] of copies)
    for (let at = 0; at < from.length; at += STEP) {
      const part = from.subarray(at, at + STEP);
      to.set(part, at);
      done += part.length;
      if (done < bytes && done >= STEP) {
        await setImmediate();
        bytes -= done;
        done = 0;
      }
    }
  return { value: own, views };
}

function map<T>(value: T, own: (view: ArrayBufferView) => ArrayBufferView): T {
  if (ArrayBuffer.isView(value)) return own(value) as T;
  if (Array.isArray(value)) return value.map((item) => map(item, own)) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, map(inner, own)])) as T;
}

function copyOf(view: ArrayBufferView): ArrayBufferView {
  const { buffer, byteOffset, byteLength } = view;
  return new (typeOf(view))(buffer.slice(byteOffset, byteOffset + byteLength) as ArrayBuffer);
}

/** A Buffer arrives as a plain array of bytes. */
function typeOf(view: ArrayBufferView): new (buffer: ArrayBuffer) => ArrayBufferView {
  return view instanceof Buffer
    ? Uint8Array
    : (view.constructor as unknown as new (
        buffer: ArrayBuffer,
      ) => ArrayBufferView);
}

function isWhole(view: ArrayBufferView): boolean {
  return !(view instanceof Buffer) && view.byteLength === view.buffer.byteLength;
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
