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
 */
export function ownBuffers<T>(value: T): T {
  if (ArrayBuffer.isView(value)) {
    const { buffer, byteOffset, byteLength } = value;
    const own = buffer.slice(byteOffset, byteOffset + byteLength) as ArrayBuffer;
    const Type = (value instanceof Buffer ? Uint8Array : value.constructor) as new (buffer: ArrayBuffer) => unknown;
    return new Type(own) as T;
  }
  if (Array.isArray(value)) return value.map(ownBuffers) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, ownBuffers(inner)])) as T;
}
