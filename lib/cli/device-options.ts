import { type Command, InvalidArgumentError } from "commander";
import { integer, oneOf } from "./arguments.js";

/** Adds the options of `DeviceFlags` to a command. */
export function withDeviceOptions(command: Command): Command {
  return command
    .option("--device <device>", "auto, cpu, cuda or cuda:<index> (default: auto)", device)
    .option(
      "--precision <numbers>",
      "auto, fp32 or bf16 (default: as the run was trained, else auto)",
      oneOf(["auto", "fp32", "bf16"]),
    )
    .option("--no-channels-last", "images and weights in contiguous order, where a machine's own order is in doubt")
    .option("--threads <n>", "CPU threads (default: one for each core)", integer({ min: 1, max: 1024 }));
}

function device(value: string): string {
  if (!/^(auto|cpu|cuda(:\d+)?)$/.test(value))
    throw new InvalidArgumentError("Expected auto, cpu, cuda or cuda:<index>.");
  return value;
}
