// Trains in a worker thread, so that the main thread keeps answering; progress and the result come as messages.
//   node examples/train-in-worker.mjs DATA RUN [EPOCHS]
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

if (isMainThread) {
  const [data, run, epochs = "2"] = process.argv.slice(2);
  const worker = new Worker(new URL(import.meta.url), { workerData: { data, run, epochs: Number(epochs) } });
  let ticks = 0;
  const alive = setInterval(() => ticks++, 20);
  process.once("SIGINT", () => worker.postMessage("stop"));
  worker.on("message", (message) => console.log(JSON.stringify(message)));
  worker.on("exit", (code) => {
    clearInterval(alive);
    console.log(JSON.stringify({ type: "end", code, ticks }));
    process.exitCode = code;
  });
} else {
  const { Backbone, Dataset, LayerEnsemble } = await import("layer-ensembles");
  const stop = new AbortController();
  parentPort.on("message", () => stop.abort()).unref();
  const { data: folder, run, epochs } = workerData;
  const data = await Dataset.fromFolder(folder, { size: [32, 32], classes: 2 });
  const backbone = await Backbone.create("plain-unet", { width: 4, depth: 2, classes: 2 });
  const model = await LayerEnsemble.create(backbone, { inputSize: [32, 32] });
  await model.fit(data.split("train"), {
    validation: data.split("val"),
    epochs,
    run,
    signal: stop.signal,
    onProgress: (event) => {
      if (event.type === "epoch")
        parentPort.postMessage({ type: "epoch", epoch: event.epoch, dice: event.validation?.fused.dice });
    },
  });
  await model.dispose();
  await backbone.dispose();
}
