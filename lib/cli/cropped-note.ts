import { type Cropped, describeCropped } from "../data/cropped.js";
import type { Session } from "./command.js";

/** Warns once where a network does not see all of its images. @param of how many there are @param size of its input */
export function noteCropped(session: Session, cropped: Cropped, of: number, size: readonly number[] | null): void {
  const said = describeCropped(cropped, of, size);
  if (said !== undefined) session.note(`warning: ${said}`);
}
