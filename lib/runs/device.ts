import { configure } from "../native/configure.js";

/** Where the network runs, in which numbers and on how many threads. */
export interface DeviceFlags {
  device?: "auto" | "cpu" | "cuda" | `cuda:${number}`;
  precision?: "auto" | "fp32" | "bf16";
  threads?: number;
  /** False: images and weights in contiguous order. */
  channelsLast?: boolean;
}

/** Applies `threads`; before the model is made. */
export function setThreads({ threads }: DeviceFlags): void {
  if (threads !== undefined) configure({ threads });
}

/** What of them a model takes; what was not asked for is left to the run. */
export function placement({
  device,
  precision,
  channelsLast,
}: DeviceFlags): Pick<DeviceFlags, "device" | "precision" | "channelsLast"> {
  return {
    ...(device !== undefined && { device }),
    ...(precision !== undefined && { precision }),
    // The command line's own default is true, which asks for nothing.
    ...(channelsLast === false && { channelsLast }),
  };
}
