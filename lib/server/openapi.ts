import { PREDICTION_FUSIONS } from "../ensemble/model.js";
import { PACKAGE_VERSION } from "../native/package.js";
import { ANSWER_TYPES } from "./answers.js";
import { OUTPUTS } from "./image-work.js";
import { INPUT, TENSORS } from "./kserve.js";
import type { PredictionService } from "./service.js";

/** The description of the HTTP interface (OpenAPI 3.1). `prefix` is where the routes are. */
export function openApi(prefix: string, { limits, models }: PredictionService): object {
  const json = (schema: object) => ({ "application/json": { schema } });
  const answer = (description: string, schema: object) => ({ description, content: json(schema) });
  const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });
  const refused = (codes: readonly (keyof typeof REFUSALS)[], schema: string) =>
    Object.fromEntries(
      codes.map((code) => [
        code,
        {
          ...answer(REFUSALS[code], ref(schema)),
          ...(code === "503" && {
            headers: { "Retry-After": { schema: { type: "integer" }, description: "Seconds" } },
          }),
        },
      ]),
    );
  const get = (summary: string, responses: object, parameters: object[] = []) => ({
    get: { summary, responses, ...(parameters.length > 0 && { parameters }) },
  });
  const name = {
    name: "name",
    in: "path",
    required: true,
    schema: { type: "string", enum: models.map((model) => model.name) },
  };
  const version = { name: "version", in: "path", required: true, schema: { type: "string" } };
  const v2 = (path: string, parameters: object[]) => ({
    [path]: get(
      "What the model takes and gives",
      { 200: answer("Names, types and shapes", { type: "object" }) },
      parameters,
    ),
    [`${path}/ready`]: get("Whether the model answers", { 200: answer("It does", ref("Ready")) }, parameters),
    [`${path}/infer`]: {
      post: {
        summary: "Predict by the Open Inference Protocol",
        description:
          `The input tensor "${INPUT}" holds stored values, N×C×H×W (N×C×D×H×W for volumes). Outputs: ${Object.keys(TENSORS).join(", ")}; ` +
          "without a choice, all. With the binary tensor extension, Inference-Header-Content-Length is the length of the JSON, " +
          "which the tensor's bytes follow (application/octet-stream).",
        parameters: [
          ...parameters,
          { name: "Inference-Header-Content-Length", in: "header", schema: { type: "integer" } },
        ],
        requestBody: {
          required: true,
          content: { ...json(ref("InferRequest")), "application/octet-stream": { schema: {} } },
        },
        responses: {
          200: {
            description: "The tensors",
            content: { ...json(ref("InferAnswer")), "application/octet-stream": { schema: {} } },
          },
          ...refused(["400", "404", "408", "413", "415", "503"], "InferError"),
        },
      },
    },
  });
  const binary = { schema: { type: "string", contentMediaType: "application/octet-stream" } };
  return {
    openapi: "3.1.0",
    info: {
      title: "layer-ensembles",
      version: PACKAGE_VERSION,
      description:
        `Segmentation that says how far to trust each result. Limits: ${round(limits.maxBody / 2 ** 20)} MiB a request, ${round(limits.maxPixels / 1e6)} million pixels ` +
        `an image, ${limits.maxImages} images a request, ${limits.timeout / 1000} s.`,
    },
    servers: [{ url: prefix || "/" }],
    paths: {
      "/v1/predict": {
        post: {
          summary: "Segment images",
          description:
            "One image as the body, or several files as a form. The image's size is that of the answer. The header Accept chooses " +
            `the form of the answer: ${ANSWER_TYPES.join(", ")}.`,
          parameters: [
            { name: "model", in: "query", schema: name.schema, description: "Needed where several are served" },
            {
              name: "outputs",
              in: "query",
              schema: { type: "string", default: "mask,entropy" },
              description: `Some of ${OUTPUTS.join(", ")}, separated by commas`,
            },
            {
              name: "skip",
              in: "query",
              schema: { type: "integer", minimum: 0 },
              description: "First heads to leave out; the run's own by default",
            },
            { name: "fusion", in: "query", schema: { type: "string", enum: PREDICTION_FUSIONS } },
          ],
          requestBody: {
            required: true,
            content: {
              "image/png": binary,
              "image/jpeg": binary,
              "image/tiff": binary,
              "application/x-npy": binary,
              "application/octet-stream": binary,
              "multipart/form-data": {
                schema: {
                  type: "object",
                  properties: { file: { type: "array", items: { type: "string", format: "binary" } } },
                },
              },
            },
          },
          responses: {
            200: {
              description: "An answer for each image, in order",
              content: {
                ...json(ref("Answer")),
                "multipart/form-data": { schema: { type: "object" } },
                "application/x-npz": binary,
              },
            },
            ...refused(["400", "404", "406", "408", "413", "415", "503"], "Error"),
          },
        },
      },
      "/v1/models": get("The models, their classes, gates and queues", {
        200: answer("The models", { type: "object" }),
      }),
      "/livez": get("Whether the process lives", { 200: answer("It does", { type: "object" }) }),
      "/readyz": get("Whether predictions are accepted", {
        200: answer("They are", { type: "object" }),
        503: answer("The server is stopping", { type: "object" }),
      }),
      "/metrics": get("Metrics for Prometheus", {
        200: { description: "Text", content: { "text/plain": { schema: { type: "string" } } } },
      }),
      "/openapi.json": get("This description", { 200: answer("OpenAPI 3.1", { type: "object" }) }),
      "/docs": get("This description, as a page", { 200: { description: "A page", content: { "text/html": {} } } }),
      "/": get("A page to try it", { 200: { description: "A page", content: { "text/html": {} } } }),
      "/v2": get("The server's name, version and extensions", { 200: answer("Metadata", { type: "object" }) }),
      "/v2/health/live": get("Whether the server lives", { 200: answer("It does", { type: "object" }) }),
      "/v2/health/ready": get("Whether every model answers", { 200: answer("They do", { type: "object" }) }),
      ...v2("/v2/models/{name}", [name]),
      ...v2("/v2/models/{name}/versions/{version}", [name, version]),
    },
    components: { schemas: SCHEMAS },
  };
}

const REFUSALS = {
  "400": "No image, a damaged one, or an unknown option",
  "404": "No such model",
  "406": "No such form of answer",
  "408": "The body did not arrive in time",
  "413": "Too many bytes, pixels or images",
  "415": "Another content type, or a compressed body",
  "503": "Too many requests, out of time, or stopping: try again after Retry-After seconds",
} as const;

const number = { type: "number" };
const tensor = {
  type: "object",
  required: ["name", "shape", "datatype"],
  properties: {
    name: { type: "string" },
    shape: { type: "array", items: { type: "integer" } },
    datatype: { type: "string" },
    parameters: { type: "object" },
    data: { type: "array", items: {} },
  },
};

const SCHEMAS = {
  Answer: {
    type: "object",
    properties: {
      model: { type: "string" },
      version: { type: "integer", description: "Counts the loads of the run" },
      images: { type: "array", items: { $ref: "#/components/schemas/ImageAnswer" } },
    },
  },
  ImageAnswer: {
    type: "object",
    properties: {
      name: { type: "string" },
      decision: { type: ["string", "null"], enum: ["accept", "review", null], description: "Null: there is no gate" },
      reasons: {
        type: "array",
        items: {
          type: "object",
          properties: {
            code: { type: "string", enum: ["low-score", "no-score", "empty", "no-threshold"] },
            message: { type: "string" },
          },
        },
      },
      score: {
        type: ["object", "null"],
        properties: { name: { type: "string" }, value: { type: ["number", "null"] }, threshold: number },
      },
      height: { type: "integer" },
      width: { type: "integer" },
      area: { type: "object", description: "Pixels by class", additionalProperties: { type: "integer" } },
      heads: { type: "array", items: { type: "string" } },
      aula: { type: ["object", "null"], properties: { value: number, normalised: number, empty: { type: "boolean" } } },
      pairwiseAgreement: { type: "object", properties: { overall: { type: ["number", "null"] } } },
      softDiceConfidence: { type: "object", properties: { overall: number } },
      summaries: { type: "object", description: "Of each map: sum, mean, and mean over the foreground" },
      files: {
        type: "object",
        additionalProperties: {
          type: "object",
          properties: { type: { type: "string" }, data: { type: "string", contentEncoding: "base64" } },
        },
      },
    },
  },
  Error: {
    type: "object",
    properties: {
      error: { type: "object", properties: { code: { type: "string" }, message: { type: "string" } } },
      requestId: { type: "string" },
    },
  },
  Ready: { type: "object", properties: { name: { type: "string" }, ready: { type: "boolean" } } },
  InferRequest: {
    type: "object",
    required: ["inputs"],
    properties: {
      id: { type: "string" },
      parameters: { type: "object" },
      inputs: { type: "array", items: tensor },
      outputs: {
        type: "array",
        items: { type: "object", properties: { name: { type: "string" }, parameters: { type: "object" } } },
      },
    },
  },
  InferAnswer: {
    type: "object",
    properties: {
      model_name: { type: "string" },
      model_version: { type: "string" },
      id: { type: "string" },
      outputs: { type: "array", items: tensor },
    },
  },
  InferError: { type: "object", properties: { error: { type: "string" } } },
} as const;

/** To three digits. */
function round(value: number): number {
  return Number(value.toPrecision(3));
}
