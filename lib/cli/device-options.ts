import type { Command } from "commander";
import { PLACEMENT } from "../ensemble/model.js";
import { option } from "../options.js";
import { withOptions } from "./arguments.js";

/** Where a network runs, in which numbers and on how many threads. */
export const DEVICE = {
  ...PLACEMENT,
  threads: option.integer({ min: 1, max: 1024, otherwise: "one for each core", text: "CPU threads" }),
};

/** Adds the options of `DeviceFlags` to a command. */
export function withDeviceOptions(command: Command): Command {
  return withOptions(command, DEVICE);
}
