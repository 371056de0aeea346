import { configure } from "../native/configure.js";

/** Where the network runs, in which numbers and on how many threads. */
export interface DeviceFlags {
  device?: "auto" | "cpu" | "cuda" | `cuda:${number}`;
  precision?: "auto" | "fp32" | "bf16";
  threads?: number;
}

/** Applies `threads`; before the model is made. */
export function setThreads({ threads }: DeviceFlags): void {
  if (threads !== undefined) configure({ threads });
}

/** What of them a model takes. */
export function placement({ device, precision }: DeviceFlags): Pick<DeviceFlags, "device" | "precision"> {
  return { ...(device !== undefined && { device }), ...(precision !== undefined && { precision }) };
}
