/** The process that tries kernels: see kernels.ts. What is wrong with one may end it. */
import { writeSync } from "node:fs";
import { text } from "node:stream/consumers";
import type { KernelAnswer, KernelQuestion } from "./kernels.js";
import { load } from "./load.js";

const say = (answer: KernelAnswer) => writeSync(1, `${JSON.stringify(answer)}\n`);

async function answer(): Promise<void> {
  const questions = JSON.parse(await text(process.stdin)) as KernelQuestion[];
  const { addon } = load();
  addon.configure({ threads: Number(process.argv[2]) });
  addon.useCheckedMemory();
  for (const [question, { call, ways }] of questions.entries())
    for (const way of ways) {
      say({ question, way });
      let right = false;
      try {
        ({ right } = addon.checkKernel(call, way));
      } catch (error) {
        const { code, message } = error as Error & { code?: string };
        if (code === "ERR_LE_MEMORY") {
          say({ question, way, problem: message });
          return;
        }
        // A kernel that refuses is of no use either.
      }
      say({ question, way, right });
      if (right) break;
    }
}

// At once: what a wrong kernel has written over is not worth taking apart.
answer().finally(() => process.kill(process.pid, "SIGKILL"));
