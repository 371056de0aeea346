import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // A crash inside the addon ends one fork, not the run.
    pool: "forks",
    maxWorkers: 2,
    allowOnly: false,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    env: {
      OMP_WAIT_POLICY: "passive",
      OMP_NUM_THREADS: "2",
      // Some thousand small networks are trained; the tests of what comes before a training switch it on.
      LAYER_ENSEMBLES_PREPARE_TRAINING: "off",
      // The servers of the tests are reached directly, whatever proxy there is.
      NO_PROXY: [process.env.NO_PROXY ?? process.env.no_proxy, "127.0.0.1"].filter(Boolean).join(),
    },
  },
});
