// How programs that use the addon end, in real processes.
import { spawn } from "node:child_process";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { PACKAGE_ROOT } from "../../lib/package.js";

const api = pathToFileURL(path.join(PACKAGE_ROOT, "dist/index.js")).href;
const PREAMBLE = `
  const { Backbone, LayerEnsemble } = await import(${JSON.stringify(api)});
  const samples = (n, size) => Array.from({ length: n }, (_, i) => ({
    image: { data: Float32Array.from({ length: size * size }, (_, p) => Math.sin(p * (i + 1))), shape: [1, size, size] },
    mask: { data: Uint8Array.from({ length: size * size }, (_, p) => (p >> 3) & 1), shape: [size, size] },
  }));
  const make = async () => {
    const backbone = await Backbone.create("plain-unet", { width: 8, depth: 3 });
    return LayerEnsemble.create(backbone, { device: "cpu", inputSize: [32, 32] });
  };
`;

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  output: string;
}

/** Runs a program of ES module text and waits for its end; a hanging one is killed after `seconds`. */
function run(
  program: string,
  {
    seconds = 40,
    before = "",
    onOutput,
  }: {
    seconds?: number;
    /** What runs before the package is loaded. */
    before?: string;
    onOutput?: (kill: (signal: NodeJS.Signals) => void, text: string) => void;
  } = {},
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["--input-type=module", "-e", before + PREAMBLE + program], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    const timer = setTimeout(() => child.kill("SIGKILL"), seconds * 1000);
    let output = "";
    const collect = (chunk: Buffer) => {
      output += chunk;
      onOutput?.((signal) => child.kill(signal), output);
    };
    child.stdout.on("data", collect);
    child.stderr.on("data", collect);
    child.on("error", reject);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, output });
    });
  });
}

describe("a program", () => {
  it("that forgets to dispose still exits by itself", async () => {
    const ended = await run(
      `const model = await make(); await model.predict(samples(1, 32)[0].image); console.log("done");`,
    );
    expect(ended).toMatchObject({ code: 0, output: "done\n" });
  });

  it("stays alive for work that nobody awaits, then exits", async () => {
    const ended = await run(`
      const model = await make();
      model.fit(samples(8, 32), { epochs: 2 }).then(() => console.log("trained"));
    `);
    expect(ended).toMatchObject({ code: 0, output: "trained\n" });
  });

  it("may exit in the middle of training and of predictions, with its own code", async () => {
    const ended = await run(`
      const [a, b] = [await make(), await make()];
      for (let i = 0; i < 20; i++) b.predict(samples(4, 64).map((s) => s.image)).catch(() => {});
      a.fit(samples(64, 64), { epochs: 1000, onProgress: (e) => { if (e.type === "batch" && e.batch > 2) process.exit(7); } });
    `);
    expect(ended).toMatchObject({ code: 7, output: "" });
  });

  it("may throw in the middle of training", async () => {
    const ended = await run(`
      const model = await make();
      model.fit(samples(64, 64), { epochs: 1000 }).catch(() => {});
      setTimeout(() => { throw new Error("unlucky"); }, 300);
    `);
    expect(ended.code).toBe(1);
    expect(ended.output).toContain("unlucky");
  });

  it("dies of SIGTERM at once", async () => {
    const ended = await run(
      `const model = await make(); console.log("go"); await model.fit(samples(64, 64), { epochs: 1000 });`,
      { onOutput: (kill, text) => text.includes("go") && setTimeout(() => kill("SIGTERM"), 300) },
    );
    expect(ended.signal).toBe("SIGTERM");
  });

  it("ends with an unhandled rejection like any other", async () => {
    const ended = await run(
      `const model = await make(); model.predict({ data: new Float32Array(2), shape: [1, 1, 3] });`,
    );
    expect(ended.code).toBe(1);
    expect(ended.output).toContain("ERR_LE_SHAPE");
  });
});

// An image that sends test/fixtures/script/endless.pt into a loop that hears nothing.
const STUCK = `
  const endless = async () => {
    const backbone = await Backbone.load(${JSON.stringify(path.join(PACKAGE_ROOT, "test/fixtures/script/endless.pt"))}, { trust: true });
    return LayerEnsemble.create(backbone, { device: "cpu", inputSize: [8, 8], taps: ["a"] });
  };
  const image = (value) => ({ data: new Float32Array(64).fill(value), shape: [1, 8, 8] });
`;

describe("the end of a process", () => {
  const busy = `
    const [a, b] = [await make(), await make()];
    for (let i = 0; i < 20; i++) b.predict(samples(4, 64).map((s) => s.image)).catch(() => {});
    a.fit(samples(64, 64), { epochs: 1000 }).catch(() => {});
  `;
  const ways: Record<string, [code: number, program: string]> = {
    "by exit() in an exit handler": [
      9,
      'process.on("exit", () => process.exit(9)); setTimeout(() => process.exit(7), 100);',
    ],
    "by process.reallyExit, without the exit event": [7, "setTimeout(() => process.reallyExit(7), 100);"],
    "with an exit handler that begins new work": [
      7,
      'process.on("exit", () => { b.predict(samples(1, 64)[0].image).catch(() => {}); make().catch(() => {}); }); setTimeout(() => process.exit(7), 100);',
    ],
    "by exit() in a custom loss": [
      7,
      "(await make()).fit(samples(8, 32), { epochs: 9, loss: () => process.exit(7) });",
    ],
  };
  for (const [name, [code, program]] of Object.entries(ways))
    it(`may come ${name}, in the middle of work`, async () => {
      const ended = await run(busy + program);
      expect(ended).toMatchObject({ code, signal: null, output: "" });
    });

  it("may come by an exit handler that throws, registered before the package was loaded", async () => {
    const ended = await run(`${busy} setTimeout(() => process.exit(7), 100);`, {
      before: 'process.on("exit", () => { throw new Error("in a handler"); });',
    });
    expect(ended.signal).toBe(null);
    expect(ended.output).toContain("in a handler");
  });

  for (const [name, code, program] of [
    ["exit()", 7, "setTimeout(() => process.exit(7), 100);"],
    ["an uncaught exception", 1, 'setTimeout(() => { throw new Error("unlucky"); }, 100);'],
  ] as const)
    it(`comes by ${name} though a network loops for ever`, async () => {
      const ended = await run(`${STUCK} (await endless()).predict(image(2000)); ${program}`);
      expect(ended).toMatchObject({ code, signal: null });
    });

  it("comes by itself where all that loops for ever was given up: by its signal, or by disposal", async () => {
    const ended = await run(
      `
      ${STUCK}
      const model = await endless();
      const stuck = model.predict(image(2000), { signal: AbortSignal.timeout(50) });
      const behind = model.predict(image(1));
      await stuck.catch((error) => console.log(error.name));
      await Promise.all([behind.catch((error) => console.log(error.code)), model.dispose(), model.backbone.dispose()]);
      console.log("disposed");
      process.exitCode = 7;
    `,
      // Disposal waits ten seconds for a sign of life.
      { before: "const wait = setInterval; globalThis.setInterval = (work, ms) => wait(work, ms / 20);" },
    );
    expect(ended).toMatchObject({ code: 7, signal: null, output: "TimeoutError\nERR_LE_ABORTED\ndisposed\n" });
  });
});

describe("worker threads", () => {
  it("load the addon, use it and end, several at once and one after another", async () => {
    const ended = await run(`
      const { Worker } = await import("node:worker_threads");
      const body = ${JSON.stringify(`(async () => {${PREAMBLE}
        const model = await make();
        const result = await model.predict(samples(1, 32)[0].image);
        (await import("node:worker_threads")).parentPort.postMessage(result.mask.data.length);
      })()`)};
      const start = () => new Promise((resolve, reject) => {
        const worker = new Worker(body, { eval: true });
        let got;
        worker.on("message", (message) => (got = message)).on("error", reject).on("exit", (code) => resolve([code, got]));
      });
      console.log(JSON.stringify(await Promise.all([start(), start(), start()])));
      console.log(JSON.stringify([await start(), await start()]));
    `);
    expect(ended).toMatchObject({ code: 0, output: "[[0,1024],[0,1024],[0,1024]]\n[[0,1024],[0,1024]]\n" });
  });

  it("may be terminated in the middle of training, with a loss of JavaScript too", async () => {
    const ended = await run(`
      const { Worker } = await import("node:worker_threads");
      for (const loss of ["'softDice'", "(z) => ({ value: 1, gradient: new Float32Array(z.data.length) })"]) {
        const body = ${JSON.stringify(`(async () => {${PREAMBLE}
          const model = await make();
          const { parentPort } = await import("node:worker_threads");
          let told = false;
          await model.fit(samples(64, 64), { epochs: 1000, loss: LOSS, onProgress: (e) => {
            if (!told && e.type === "batch") { told = true; parentPort.postMessage("go"); }
          } });
        })()`)}.replace("LOSS", loss);
        const worker = new Worker(body, { eval: true });
        await new Promise((resolve) => worker.on("message", resolve));
        await worker.terminate();
        console.log("terminated");
      }
      const model = await make();
      await model.predict(samples(1, 32)[0].image);
      console.log("main works");
    `);
    expect(ended).toMatchObject({ code: 0, output: "terminated\nterminated\nmain works\n" });
  });

  it("end by terminate() alone: in a custom loss, while networks are made, and while one loops for ever", async () => {
    const ended = await run(`
      const { Worker } = await import("node:worker_threads");
      const start = async (program) => {
        const body = ${JSON.stringify(`(async () => {${PREAMBLE}${STUCK} const { parentPort } = await import("node:worker_threads"); PROGRAM })()`)};
        const worker = new Worker(body.replace("PROGRAM", program), { eval: true });
        await new Promise((resolve) => worker.once("message", resolve));
        return worker;
      };
      const programs = [
        "const m = await make(); m.fit(samples(8, 32), { epochs: 900, loss: () => { parentPort.postMessage(1); for (;;); } });",
        "for (let k = 0; k < 10; k++) Backbone.create('resnet18').catch(() => {}); parentPort.postMessage(1);",
        "const m = await endless(); m.predict(image(2000)).catch(() => {}); setTimeout(() => parentPort.postMessage(1), 50);",
      ];
      for (const program of programs) {
        await (await start(program)).terminate();
        console.log("terminated");
      }
      await (await make()).predict(samples(1, 32)[0].image);
      process.exit(7);
    `);
    expect(ended).toMatchObject({ code: 7, signal: null, output: "terminated\n".repeat(3) });
  });
});
