import type { Command } from "commander";
import { PLACEMENT } from "../ensemble/model.js";
import { CONFIGURE } from "../native/configure.js";
import { withOptions } from "./arguments.js";

/** Where a network runs, in which numbers and on how many threads. */
export const DEVICE = { ...PLACEMENT, threads: CONFIGURE.threads };

/** Adds the options of `DeviceFlags` to a command. */
export function withDeviceOptions(command: Command): Command {
  return withOptions(command, DEVICE);
}
