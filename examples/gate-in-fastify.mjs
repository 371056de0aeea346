// The gate in an existing fastify application: doubtful images go to a person, the others straight on.
//   node examples/gate-in-fastify.mjs RUN [PORT]
import fastify from "fastify";
import { PredictionService, routes } from "layer-ensembles/server";

const [run, port = "8080"] = process.argv.slice(2);
const service = await PredictionService.open({
  runs: { lesions: run },
  gate: { score: "softDiceConfidence", threshold: 0.8 }, // or leave it out where `tune` stored one in the run
});

const app = fastify();
const worklist = [];

// A route of one's own: bytes in, decision and area out.
app.addContentTypeParser("image/png", { parseAs: "buffer" }, (_request, body, done) => done(null, body));
app.post("/scans", async (request, reply) => {
  try {
    const { decision, reasons, record } = await service.predict("lesions", request.body, { outputs: [] });
    if (decision === "review") worklist.push({ reasons: reasons.map(({ message }) => message), at: new Date() });
    return { decision, reasons, area: record.area };
  } catch (error) {
    if (error.code !== "ERR_LE_BUSY") throw error;
    return reply.code(503).header("retry-after", 1).send({ error: error.message });
  }
});
app.get("/worklist", async () => worklist);

// All routes of `layer-ensembles serve`, below a prefix. Closing the application closes the service, too.
await app.register(routes(service), { prefix: "/segmentation" });

console.log(await app.listen({ port: Number(port) }));
process.once("SIGTERM", () => app.close());
