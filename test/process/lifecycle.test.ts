// How programs that use the addon end, in real processes.
import { spawn } from "node:child_process";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { PACKAGE_ROOT } from "../../lib/native/package.js";

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
    onOutput,
  }: { seconds?: number; onOutput?: (kill: (signal: NodeJS.Signals) => void, text: string) => void } = {},
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["--input-type=module", "-e", PREAMBLE + program], {
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
});
