import { type Command, InvalidArgumentError } from "commander";
import { configure } from "../native/configure.js";
import { integer, oneOf } from "./arguments.js";

/** Where the network runs, in which numbers and on how many threads. */
export interface DeviceFlags {
  device?: "auto" | "cpu" | "cuda" | `cuda:${number}`;
  precision?: "auto" | "fp32" | "bf16";
  threads?: number;
}

/** Adds the options of {@link DeviceFlags} to a command. */
export function withDeviceOptions(command: Command): Command {
  return command
    .option("--device <device>", "auto, cpu, cuda or cuda:<index> (default: auto)", device)
    .option("--precision <numbers>", "auto, fp32 or bf16 (default: auto)", oneOf(["auto", "fp32", "bf16"]))
    .option("--threads <n>", "CPU threads (default: one for each core)", integer({ min: 1, max: 1024 }));
}

/** Applies `--threads`; before the model is made. */
export function setThreads({ threads }: DeviceFlags): void {
  if (threads !== undefined) configure({ threads });
}

/** What of them a model takes. */
export function placement({ device, precision }: DeviceFlags): Pick<DeviceFlags, "device" | "precision"> {
  return { ...(device !== undefined && { device }), ...(precision !== undefined && { precision }) };
}

function device(value: string): string {
  if (!/^(auto|cpu|cuda(:\d+)?)$/.test(value))
    throw new InvalidArgumentError("Expected auto, cpu, cuda or cuda:<index>.");
  return value;
}
