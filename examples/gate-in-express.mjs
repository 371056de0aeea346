// The gate in an Express application, by the plain queue: doubtful images go to a person, the others straight on.
//   node examples/gate-in-express.mjs RUN [PORT]
import express from "express";
import { loadModel, preprocess } from "layer-ensembles";
import { decide, PredictionQueue } from "layer-ensembles/server";
import sharp from "sharp";

const [run, port = "8080"] = process.argv.slice(2);
const model = await loadModel(run);
const queue = new PredictionQueue(model, { maxBatch: 8, maxQueue: 32, timeout: 5000 });
const gate = { score: "softDiceConfidence", threshold: 0.8 }; // or model.run.gate, where `tune` stored one

const app = express();
const worklist = [];

app.post("/scans", express.raw({ type: "image/png", limit: "8mb" }), async (request, response) => {
  const left = new AbortController();
  response.on("close", () => left.abort());
  const { data, info } = await sharp(request.body, { limitInputPixels: 2 ** 24 })
    .greyscale()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const stored = { data: new Uint8Array(data), shape: [1, info.height, info.width] };
  const { image } = preprocess(stored, model.run.notes.preprocessing); // as in the run's training
  const result = await queue.predict(image, { signal: left.signal, maps: [] });
  const { decision, reasons, score } = decide(result, gate);
  if (decision === "review") worklist.push({ reasons: reasons.map(({ message }) => message), at: new Date() });
  response.json({ decision, reasons, score });
});
app.get("/worklist", (_request, response) => response.json(worklist));

// Express gives the error of a handler that rejects to this one.
app.use((error, _request, response, next) => {
  if (response.headersSent || response.destroyed) return next(error);
  const busy = ["ERR_LE_BUSY", "ERR_LE_TIMEOUT", "ERR_LE_DISPOSED"].includes(error.code);
  if (busy) response.set("retry-after", String(queue.retryAfter));
  response.status(busy ? 503 : (error.status ?? 400)).json({ error: error.message });
});

const server = app.listen(Number(port), () => console.log(`http://127.0.0.1:${server.address().port}`));
process.once("SIGTERM", () => {
  server.close();
  queue.close().then(() => model.dispose());
});
