// Compares libtorch's convolutions, and their gradients, with the definition over small shapes: for each version of
// libtorch and each kind of CPU that is to be used. Says which faults native/core/convolutions/known.cpp does not know.
//   npm run check-kernels [-- --part i/n]   a part of the shapes; ONEDNN_MAX_CPU_ISA narrows the CPU
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import type { RawKernel } from "../lib/native/addon.js";
import { tryEach } from "../lib/native/kernels.js";
import { load } from "../lib/native/load.js";
import { BuildError, build, main } from "./build.js";

/** A shape as native/core/convolutions/convolution.h has it. */
interface Call {
  backward: boolean;
  transposed: boolean;
  bias: boolean;
  type: "fp32" | "bf16";
  channelsLast: boolean[];
  wanted: boolean[];
  batch: number;
  channels: number[];
  groups: number;
  size: number[];
  kernel: number[];
  stride: number[];
  padding: number[];
  dilation: number[];
  outputPadding: number[];
}

/** The shapes of the sweep: 2D and 3D, each kind of kernel with every depth, and channels around every width of a unit. */
export function* sweep(): Generator<Call> {
  for (const axes of [2, 3])
    for (const depth of [1, 2, 3, 4, 5])
      for (const channels of pairs(axes))
        for (const [kernel, stride, dilation, transposed] of KINDS)
          for (const groups of new Set([1, channels[0] === channels[1] ? channels[0] : 1]))
            for (const last of [true, false])
              for (const type of ["fp32", "bf16"] as const)
                for (const backward of [false, true]) {
                  const all = (value: number) => Array(axes).fill(value) as number[];
                  const size = [depth, ...all(axes === 2 ? 9 : 7).slice(1)];
                  const padding = transposed ? 0 : Math.floor((dilation * (kernel - 1)) / 2);
                  const fits = size.every((side) => transposed || side + 2 * padding >= dilation * (kernel - 1) + 1);
                  if (!fits) continue;
                  yield {
                    backward,
                    transposed,
                    bias: false,
                    type,
                    channelsLast: [last, last, last && backward],
                    wanted: [true, true, false],
                    batch: 2,
                    channels,
                    groups,
                    size,
                    kernel: all(kernel),
                    stride: all(stride),
                    padding: all(padding),
                    dilation: all(dilation),
                    outputPadding: all(0),
                  };
                }
}

/** Kernel, stride, dilation, transposed. */
const KINDS: [number, number, number, boolean][] = [
  [1, 1, 1, false],
  [1, 2, 1, false],
  [3, 1, 1, false],
  [3, 2, 1, false],
  [3, 1, 2, false],
  [5, 1, 1, false],
  [7, 2, 1, false],
  [2, 2, 1, true],
  [3, 2, 1, true],
  [4, 2, 1, true],
];

function pairs(axes: number): [number, number][] {
  const widths = axes === 2 ? [1, 2, 3, 5, 8, 15, 16, 17, 24, 31, 32] : [1, 3, 8, 16, 17, 32];
  return widths.flatMap((width, i) => [
    [width, width] as [number, number],
    [width, widths[(i + 3) % widths.length] as number] as [number, number],
  ]);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href)
  await main(async () => {
    const { values } = parseArgs({ options: { part: { type: "string", default: "1/1" } } });
    const [part = 0, parts = 0] = values.part.split("/").map(Number);
    if (!(part >= 1 && part <= parts)) throw new BuildError(`Expected --part i/n but received ${values.part}.`);
    await build();
    const { addon } = load();
    const kernels = [...sweep()].filter((_, i) => i % parts === part - 1).map((call) => addon.describeKernel(call));
    const { libtorch, isa, threads } = addon.info() as Record<string, unknown>;
    console.log(`libtorch ${libtorch}, ${isa}, ${threads} threads: ${kernels.length} kernels`);
    let done = 0;
    const faults: [RawKernel, string][] = [];
    const problem = await tryEach(kernels, { patience: 10_000 }, (kernel, way) => {
      if (way !== kernel.ways[0]) faults.push([kernel, way]);
      if (++done % 500 === 0) console.log(`${done} of ${kernels.length}`);
    });
    for (const [{ text }, way] of faults) console.log(`WRONG ${text}: right is ${way}`);
    console.log(problem ? `stopped: ${problem}` : `${done} compared, ${faults.length} wrong that are not known`);
    return problem || faults.length > 0 ? 1 : 0;
  });
