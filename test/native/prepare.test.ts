import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Backbone, DeepEnsemble, type FitOptions, LayerEnsemble, type PreparedEvent } from "../../lib/index.js";
import type { RawKernel } from "../../lib/native/addon.js";
import { takeDetours, tryEach, tryKernels } from "../../lib/native/kernels.js";
import { load } from "../../lib/native/load.js";
import { machineFile } from "../../lib/native/machine-memory.js";
import { sweep } from "../../scripts/check-kernels.js";
import { discs, noise, smallModel } from "../support/model.js";

const code = (value: string) => expect.objectContaining({ name: "LayerEnsemblesError", code: value });

let folder: string;
beforeEach(() => {
  load(); // from the usual cache
  folder = mkdtempSync(path.join(os.tmpdir(), "le-prepare-"));
  vi.stubEnv("XDG_CACHE_HOME", path.join(folder, "cache"));
  vi.stubEnv("LAYER_ENSEMBLES_PREPARE_TRAINING", "");
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

/** Some kernels, each right or led around. */
const someKernels = (count: number): RawKernel[] => {
  const { addon } = load();
  const all = [...sweep()];
  return Array.from({ length: count }, (_, i) =>
    addon.describeKernel(all[Math.floor((i * all.length) / count)] as object),
  );
};

/** The processes that try kernels for this one. */
function children(): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      try {
        const ppid = Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
        return ppid === process.pid && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("kernels-child.js");
      } catch {
        return false;
      }
    });
}

describe("kernels of libtorch", () => {
  it("give what the definition says, in ways that are known: a part of npm run check-kernels", async () => {
    const kernels = someKernels(120);
    const wrong: string[] = [];
    const problem = await tryEach(kernels, {}, (kernel, way) => {
      if (way !== kernel.ways[0]) wrong.push(`${kernel.text}: ${way}`);
    });
    expect({ problem, wrong }).toEqual({ problem: "", wrong: [] });
  });

  it("are tried once on a machine", async () => {
    const kernels = someKernels(8);
    const seen: number[] = [];
    expect(await tryKernels(kernels, { onProgress: (done, of) => seen.push(done, of) })).toEqual({ tried: 8 });
    expect(seen.slice(0, 4)).toEqual([1, 8, 2, 8]);
    const { addon } = load();
    const another = addon.describeKernel({ ...kernels[0]?.call, batch: 5 });
    expect(await tryKernels([...kernels, another])).toEqual({ tried: 1 });
    const lines = readFileSync(machineFile("kernels"), "utf8").split("\n").filter(Boolean);
    expect(lines).toHaveLength(9);
  });

  /** One that is done at once, and one that takes long enough to be struck. */
  const smallAndLarge = () => {
    const { addon } = load();
    const all = [...sweep()].filter(
      ({ type, backward, channelsLast, size, kernel }) =>
        type === "fp32" && !backward && channelsLast[0] && size.length === 3 && size[0] === 5 && kernel[0] === 3,
    );
    const plain = all.filter(({ stride, dilation }) => stride[0] === 1 && dilation[0] === 1);
    return [plain[0], { ...plain[0], channels: [64, 64], groups: 1, size: [48, 48, 48] }].map((call) =>
      addon.describeKernel(call as object),
    ) as [RawKernel, RawKernel];
  };

  it.each([
    ["end their process", "SIGSEGV"],
    ["do not end", "SIGSTOP"],
  ] as const)("that %s are led another way", async (_, signal) => {
    const [small, large] = smallAndLarge();
    const found = new Map<string, string>();
    let struck = false;
    const problem = await tryEach([small, large], { patience: 15_000 }, (kernel, way) => {
      found.set(kernel.text, way);
      if (struck) return;
      struck = true;
      setTimeout(() => {
        for (const pid of children()) process.kill(pid, signal);
      }, 100);
    });
    expect(problem).toBe("");
    expect([...found]).toEqual([
      [small.text, "none"],
      [large.text, "contiguous"],
    ]);
  });

  it("whose process is killed from outside, or is slow before it begins, are not held to be wrong", async () => {
    for (const [signal, problem] of [
      ["SIGKILL", /^their process was killed$/],
      ["SIGSTOP", /^one took longer than 1 seconds$/],
    ] as const) {
      const found: string[] = [];
      const trial = tryEach(smallAndLarge(), { patience: 1000 }, (_, way) => found.push(way));
      await begun();
      for (const pid of children()) process.kill(pid, signal);
      expect(await trial).toMatch(problem);
      expect(found).toEqual([]);
    }
  });

  it("are let go when the training is aborted", async () => {
    const abort = new AbortController();
    const reason = new Error("enough");
    const trial = tryKernels(someKernels(400), {
      signal: abort.signal,
      onProgress: (done) => {
        if (done === 3) abort.abort(reason);
      },
    });
    await expect(trial).rejects.toBe(reason);
    await vi.waitFor(() => expect(children()).toEqual([]));
  });

  it("take the way that was found, in the whole process", () => {
    const { addon } = load();
    const call = {
      ...[...sweep()].find(({ type, backward, size }) => type === "fp32" && !backward && size[0] === 5),
      batch: 3,
    };
    const kernel = addon.describeKernel(call);
    expect(takeDetours([kernel])).toEqual([]);
    mkdirSync(path.dirname(machineFile("kernels")), { recursive: true });
    vi.stubEnv("XDG_CACHE_HOME", path.join(folder, "other"));
    mkdirSync(path.dirname(machineFile("kernels")), { recursive: true });
    writeFileSync(machineFile("kernels"), `${JSON.stringify([JSON.stringify(kernel.call), "plain"])}\n`);
    expect(takeDetours([kernel])).toEqual([{ kernel: kernel.text, way: "plain" }]);
    expect(kernel.text).toMatch(/^float32 1×1 convolution, from 1 to 1 channels, of 3×1×5×9/);
  });
});

async function begun(): Promise<void> {
  await vi.waitFor(() => expect(children()).not.toEqual([]), { timeout: 10_000, interval: 5 });
}

/** Trains, and gives the event that says what was found out before. */
async function prepared(
  model: LayerEnsemble,
  options: FitOptions = {},
  samples = discs(10, 24),
): Promise<PreparedEvent> {
  let event: PreparedEvent | undefined;
  const types: string[] = [];
  await model.fit(samples, {
    epochs: 1,
    batchSize: 3,
    ...options,
    onProgress: (happened) => {
      types.push(happened.type);
      if (happened.type === "prepared") event = happened;
    },
  });
  expect(types.filter((type) => type !== "preparing").slice(0, 2)).toEqual(["prepared", "start"]);
  return event as PreparedEvent;
}

describe("fit", () => {
  it("tries its kernels first, and trains as it would without", async () => {
    const train = async (options: FitOptions, file: string) => {
      const { backbone, model } = await smallModel({ dropout: 0.2 });
      const event = await prepared(model, { validation: discs(4, 24, 2), epochs: 2, seed: 3, ...options });
      await model.save(path.join(folder, file));
      await model.dispose();
      await backbone.dispose();
      return event;
    };
    const { kernels, stepSeconds, precision } = await train({}, "with");
    expect({ stepSeconds, precision }).toEqual({ stepSeconds: null, precision: "fp32" });
    expect(kernels?.kernels).toBeGreaterThan(20);
    expect(kernels?.tried).toBe(kernels?.kernels);
    expect(kernels?.untried).toBeUndefined();
    expect((await train({}, "again")).kernels?.tried).toBe(0);
    expect((await train({ checkKernels: false }, "without")).kernels).toBeNull();
    const weights = (run: string) => readFileSync(path.join(folder, run, "weights.safetensors"));
    for (const run of ["again", "without"]) expect(weights(run).equals(weights("with"))).toBe(true);
  });

  it("records what takes another way: volumes of depth 2 in bfloat16, which come out wrong otherwise", async () => {
    const backbone = await Backbone.create("unet3d", { width: 4, depth: 4, classes: 2 });
    const precision = load().addon.info().bf16 ? "bf16" : "fp32";
    const model = await LayerEnsemble.create(backbone, { device: "cpu", precision, inputSize: [16, 16, 16] });
    const samples = [1, 2].map((seed) => ({
      image: noise([1, 16, 16, 16], seed),
      mask: { data: Uint8Array.from({ length: 4096 }, (_, i) => Number(i % 16 < 8)), shape: [16, 16, 16] },
    }));
    const run = path.join(folder, "run");
    let event: PreparedEvent | undefined;
    await model.fit(samples, {
      epochs: 1,
      batchSize: 2,
      run,
      onProgress: (happened) => {
        if (happened.type === "prepared") event = happened;
      },
    });
    const { training } = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8"));
    const { detours = [] } = event?.kernels ?? {};
    expect(training.detours).toEqual(detours);
    expect(detours.some(({ kernel }) => /gradients .* of a 3×3×3 convolution.* of 2×\d+×2×2×2/.test(kernel))).toBe(
      true,
    );
    await model.dispose();
    await backbone.dispose();
  });

  it("knows the kernels of an imported network", async () => {
    const backbone = await Backbone.load("test/fixtures/script/block-scripted.pt");
    const { config } = backbone;
    const channels = (config.inChannels as number | undefined) ?? 1;
    const model = await LayerEnsemble.create(backbone, {
      device: "cpu",
      precision: "fp32",
      inputSize: [24, 24],
      final: false,
    });
    const samples = discs(4, 24).map(({ mask }, i) => ({ image: noise([channels, 24, 24], i), mask }));
    const { kernels } = await prepared(model, {}, samples);
    expect(kernels?.kernels).toBeGreaterThan(2);
    expect(kernels?.tried).toBe(kernels?.kernels);
    await model.dispose();
    await backbone.dispose();
  });

  it("trains where the processes that try kernels are killed, and says so", async () => {
    const { backbone, model } = await smallModel();
    const training = prepared(model);
    await begun();
    for (const pid of children()) process.kill(pid, "SIGKILL");
    expect((await training).kernels?.untried).toMatch(/killed/);
    await model.dispose();
    await backbone.dispose();
  });

  it("fails before it writes anything where its options do not fit", async () => {
    const { backbone, model } = await smallModel();
    const run = path.join(folder, "run");
    await expect(model.fit(discs(4, 24), { run, headWeights: [1] })).rejects.toEqual(code("ERR_LE_OPTION"));
    expect(existsSync(run)).toBe(false);
    await model.dispose();
    await backbone.dispose();
  });

  it("prepares a deep ensemble's members alike", async () => {
    const model = await DeepEnsemble.create((seed) => Backbone.create("plain-unet", { width: 4, depth: 2, seed }), {
      classes: 2,
      members: 2,
      device: "cpu",
      inputSize: [24, 24],
    });
    const events: PreparedEvent[] = [];
    await model.fit(discs(6, 24), {
      epochs: 1,
      onProgress: (event) => {
        if (event.type === "prepared") events.push(event);
      },
    });
    expect(events).toHaveLength(2);
    expect(events[1]?.precision).toBe(events[0]?.precision);
    expect(events[1]?.stepSeconds).toEqual(events[0]?.stepSeconds);
    expect(events[1]?.kernels?.tried).toBe(0);
    await model.dispose();
  });
});

describe.runIf(load().addon.info().bf16)("precision auto", () => {
  const make = async () => {
    const backbone = await Backbone.create("plain-unet", { width: 4, depth: 2, classes: 2, seed: 1 });
    const model = await LayerEnsemble.create(backbone, { device: "cpu", inputSize: [24, 24] });
    expect(model.precision).toBe("bf16"); // until it is known better
    return { backbone, model };
  };
  /** What a machine with such units would have measured. */
  const measured = async (fp32: number, bf16: number) => {
    vi.stubEnv("XDG_CACHE_HOME", path.join(folder, "measured"));
    const { backbone, model } = await make();
    await prepared(model);
    const lines = readFileSync(machineFile("steps"), "utf8").split("\n").filter(Boolean);
    expect(lines).toHaveLength(1);
    const [key, seconds] = JSON.parse(lines[0] as string);
    expect(seconds).toEqual({ fp32: expect.any(Number), bf16: expect.any(Number) });
    vi.stubEnv("XDG_CACHE_HOME", path.join(folder, `cache-${fp32}-${bf16}`));
    mkdirSync(path.dirname(machineFile("steps")), { recursive: true });
    writeFileSync(machineFile("steps"), JSON.stringify([key, { fp32, bf16 }]));
    await model.dispose();
    await backbone.dispose();
  };

  it("is the faster one, remembered, recorded, and what the run predicts in", async () => {
    await measured(1, 2);
    const { backbone, model } = await make();
    const run = path.join(folder, "run");
    const event = await prepared(model, { run, epochs: 1 });
    expect(event).toMatchObject({ precision: "fp32", stepSeconds: { fp32: 1, bf16: 2 } });
    expect(event.kernels?.detours.every(({ kernel }) => kernel.startsWith("float32"))).toBe(true);
    expect(model.precision).toBe("fp32");
    expect(JSON.parse(readFileSync(path.join(run, "run.json"), "utf8")).training.precision).toBe("fp32");
    const loaded = await LayerEnsemble.load(run);
    expect(loaded.precision).toBe("fp32");
    const [sample] = discs(1, 24, 9);
    const [ours, theirs] = [await model.predict(sample!.image), await loaded.predict(sample!.image)];
    expect(theirs.probabilities).toEqual(ours.probabilities);
    await loaded.dispose();
    // Going on: as it was begun, though this network, made anew, would do either.
    const second = await make();
    const history = await second.model.fit(discs(10, 24), { epochs: 2, batchSize: 3, run, resume: true });
    expect(history.epochs).toHaveLength(2);
    expect(second.model.precision).toBe("fp32");
    for (const each of [model, backbone, second.model, second.backbone]) await each.dispose();
  });

  it("is bfloat16 only where that is a tenth faster", async () => {
    await measured(1, 0.85);
    for (const [seconds, precision] of [
      [0.85, "bf16"],
      [0.95, "fp32"],
    ] as const) {
      if (seconds !== 0.85) await measured(1, seconds);
      const { backbone, model } = await make();
      expect((await prepared(model)).precision).toBe(precision);
      expect(model.precision).toBe(precision);
      await model.dispose();
      await backbone.dispose();
    }
  });

  it("is not asked where a precision is given, or preparations are off", async () => {
    const backbone = await Backbone.create("plain-unet", { width: 4, depth: 2, classes: 2 });
    for (const precision of ["fp32", "bf16"] as const) {
      const model = await LayerEnsemble.create(backbone, { device: "cpu", precision, inputSize: [24, 24] });
      expect(await prepared(model)).toMatchObject({ precision, stepSeconds: null });
      await model.dispose();
    }
    vi.stubEnv("LAYER_ENSEMBLES_PREPARE_TRAINING", "off");
    const model = await LayerEnsemble.create(backbone, { device: "cpu", inputSize: [24, 24] });
    expect(await prepared(model)).toEqual({ type: "prepared", precision: "bf16", stepSeconds: null, kernels: null });
    await model.dispose();
    await backbone.dispose();
  });
});
