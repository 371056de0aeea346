// The counting of neighbouring heads' labels in WebAssembly SIMD, for what counts.ts defines: several times as fast.
import { instantiate } from "../wasm.js";
import type { AgreementCounts } from "./counts.js";
import { NEIGHBOURS } from "./neighbours.wasm.js";

/** What wasm/neighbours.ts exports. */
interface Exports {
  memory: { readonly buffer: ArrayBuffer };
  counts(): number;
  labels(): number;
  count(own: number, other: number, n: number, classes: number): void;
}

/** The module looks for one class after the other, and has room for so many. */
const MOST_CLASSES = 16;
/** A label that is none of {@link MOST_CLASSES}. */
const NO_CLASS = 255;

let loaded: Exports | null | undefined;

/**
 * What counts.ts calls countNeighbours.
 * @param labels K×S.
 * @returns Null where a label is no class, where there are too many classes, or no WebAssembly with SIMD.
 */
export function countNeighboursInWasm(labels: Uint8Array, heads: number, classes: number): AgreementCounts | null {
  if (classes > MOST_CLASSES) return null;
  if (loaded === undefined) loaded = instantiate<Exports>(NEIGHBOURS);
  if (!loaded) return null;
  const { buffer } = loaded.memory;
  const memory = new Uint8Array(buffer);
  const found = new Int32Array(buffer, loaded.counts(), 2 * MOST_CLASSES);
  const counts = new Float64Array(heads * classes);
  const intersections = new Float64Array(heads * heads * classes);
  const pixels = labels.length / heads;
  let counted = 0;
  // A block of one head, and of the next, whole vectors each.
  const room = ((buffer.byteLength - loaded.labels()) >> 1) & ~15;
  for (let start = 0; start < pixels; start += room) {
    const size = Math.min(room, pixels - start);
    const n = (size + 15) & ~15;
    let own = loaded.labels();
    let other = own + room;
    const copy = (k: number, to: number) => {
      memory.set(labels.subarray(k * pixels + start, k * pixels + start + size), to);
      memory.fill(NO_CLASS, to + size, to + n);
    };
    copy(0, own);
    for (let k = 0; k < heads; k++) {
      // The last head's next is itself.
      const next = Math.min(k + 1, heads - 1);
      copy(next, other);
      loaded.count(own, other, n, classes);
      const common = (k * heads + next) * classes;
      for (let c = 0; c < classes; c++) {
        counted += found[c] as number;
        counts[k * classes + c] = (counts[k * classes + c] as number) + (found[c] as number);
        intersections[common + c] = (intersections[common + c] as number) + (found[MOST_CLASSES + c] as number);
      }
      [own, other] = [other, own];
    }
  }
  return counted === labels.length ? { heads, classes, counts, intersections } : null;
}
