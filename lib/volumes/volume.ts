import type { NumericArray } from "../arrays.js";
import type { Grid } from "../grid/index.js";

/** A volume as a file holds it: its values, where they lie, and what a reader should say of it. */
export interface Volume<T extends NumericArray = NumericArray> {
  /** The real values (after slope and intercept), x fastest. */
  readonly data: T;
  /** [D, H, W], or [C, D, H, W] where channels were asked for. */
  readonly shape: readonly number[];
  /** null where the file does not say where the volume lies. */
  readonly grid: Grid | null;
  /** The format's name in the register, such as `nifti`. */
  readonly format: string;
  /** The type as stored, such as `int16`. */
  readonly dtype: string;
  /** Values that are NaN or infinite; they are kept. */
  readonly nonFinite: number;
  /** What a person should know of the file, a sentence each. */
  readonly warnings: readonly string[];
  /** The header as stored, of formats whose writer keeps it for what is written in the same grid. Opaque. */
  readonly header?: Uint8Array;
}

/** The data of a volume of which the head alone was read. */
export const UNREAD: Uint8Array = new Uint8Array(0);

/** How many values are NaN or infinite. */
export function countNonFinite(data: NumericArray): number {
  if (!(data instanceof Float32Array || data instanceof Float64Array)) return 0;
  let count = 0;
  for (let i = 0; i < data.length; i++) if (!Number.isFinite(data[i])) count++;
  return count;
}
