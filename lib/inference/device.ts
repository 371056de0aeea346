import type { PlacementOptions } from "../ensemble/model.js";
import { configure } from "../native/configure.js";

/** Where the network runs, in which numbers and on how many threads. */
export interface DeviceFlags extends PlacementOptions {
  threads?: number;
}

/** Applies `threads`; before the model is made. */
export function setThreads({ threads }: DeviceFlags): void {
  if (threads !== undefined) configure({ threads });
}

/** What of them a model takes; what was not asked for is left to the run. */
export function placement({ device, precision, channelsLast }: DeviceFlags): PlacementOptions {
  return {
    ...(device !== undefined && { device }),
    ...(precision !== undefined && { precision }),
    // The command line's own default is true, which asks for nothing.
    ...(channelsLast === false && { channelsLast }),
  };
}
