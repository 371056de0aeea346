// PredictionQueue without any framework: requests share passes, too many are refused, and who leaves costs nothing.
//   node examples/queue-in-node-http.mjs RUN [PORT]
import http from "node:http";
import { buffer } from "node:stream/consumers";
import { LayerEnsemble } from "layer-ensembles";
import { decide, PredictionQueue } from "layer-ensembles/server";

const [run, port = "8080"] = process.argv.slice(2);
const model = await LayerEnsemble.load(run);
const queue = new PredictionQueue(model, { maxBatch: 8, maxQueue: 32, timeout: 5000 });

// The body: 64×64 32-bit floats, prepared as the model was trained.
const server = http.createServer(async (request, response) => {
  const left = new AbortController();
  response.on("close", () => left.abort());
  try {
    const place = queue.reserve(); // before the body is read
    try {
      const bytes = await buffer(request);
      const image = { data: new Float32Array(new Uint8Array(bytes).buffer), shape: [1, 64, 64] };
      const result = await queue.predict(image, { place, signal: left.signal, maps: [] });
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ ...decide(result, { threshold: 5 }), aula: result.aula }));
    } finally {
      place.release();
    }
  } catch (error) {
    const busy = error.code === "ERR_LE_BUSY" || error.code === "ERR_LE_TIMEOUT";
    response.writeHead(busy ? 503 : 400, busy ? { "retry-after": queue.retryAfter } : {});
    response.end(JSON.stringify({ error: error.message }));
  }
});
server.listen(Number(port), () => console.log(`http://127.0.0.1:${server.address().port}`));

process.once("SIGTERM", () => {
  server.close();
  queue.close().then(() => model.dispose());
});
