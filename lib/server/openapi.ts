// The description of the HTTP interface (OpenAPI 3.1). Each route declares its part where it is registered.

import type { OptionSpec } from "../options.js";
import { PACKAGE_VERSION } from "../package.js";
import { GATE_REASONS } from "../scores/gate.js";
import { IMAGE_SCORE_NAMES, SCORES } from "../scores/scores.js";
import { ANSWER_TYPES } from "./answers.js";
import { CERTIFICATE_STATES } from "./certificate.js";
import { INPUT, TENSORS } from "./kserve.js";
import { CHOICES, type PredictionService } from "./service.js";

type Schema = keyof typeof SCHEMAS;

/** What a route takes and gives, as a setting of the route: an operation of OpenAPI. */
export interface Described {
  config: { operation: { summary: string; description?: string; responses: object; [more: string]: unknown } };
}

/** The description of what is below `prefix`. @param paths operations by path and method */
export function openApi(prefix: string, { limits }: PredictionService, paths: object): object {
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
    paths,
    components: { schemas: SCHEMAS },
  };
}

/** Of a route that only tells something. */
export function telling(summary: string, responses: object, parameters?: readonly object[]): Described {
  return { config: { operation: { summary, responses, ...(parameters && { parameters }) } } };
}

/** An answer in JSON, by its status. */
export function answer(description: string, schema?: Schema, status = 200): object {
  return { [status]: { description, content: json(schema) } };
}

/** The parameter that names a model. */
export function modelParameter({ models }: PredictionService, place: "path" | "query"): object {
  const schema = { type: "string", enum: models.map(({ name }) => name) };
  if (place === "path") return { name: "name", in: place, required: true, schema };
  return { name: "model", in: place, schema, description: "Needed where several are served" };
}

/** An option that stands in the query. */
function queryParameter([name, spec]: [string, OptionSpec]): object {
  const description = spec.otherwise ? `${spec.text}; ${spec.otherwise} by default` : spec.text;
  // Several values have commas between them.
  return { name, in: "query", schema: schemaOf(spec), description, ...(spec.element && { explode: false }) };
}

function schemaOf({ kind, values, min: minimum, max: maximum, element, default: value }: OptionSpec): object {
  return {
    ...(values ? { enum: values } : { type: kind }),
    ...(minimum !== undefined && { minimum }),
    ...(maximum !== undefined && { maximum }),
    ...(element && { items: schemaOf(element) }),
    ...(value !== undefined && { default: value }),
  };
}

const BINARY = { schema: { type: "string", contentMediaType: "application/octet-stream" } };
const FILE = { type: "string", format: "binary" };

/** Of POST /v1/predict. */
export function describePredict(service: PredictionService): Described {
  const operation = {
    summary: "Segment images",
    description:
      "One image as the body, or several files as a form. The image's size is that of the answer. The header Accept chooses " +
      `the form of the answer: ${ANSWER_TYPES.join(", ")}.`,
    parameters: [modelParameter(service, "query"), ...Object.entries<OptionSpec>(CHOICES).map(queryParameter)],
    requestBody: {
      required: true,
      content: {
        "image/png": BINARY,
        "image/jpeg": BINARY,
        "image/tiff": BINARY,
        "application/x-npy": BINARY,
        "application/x-nifti": BINARY,
        "application/octet-stream": BINARY,
        "multipart/form-data": { schema: { type: "object", properties: { file: { type: "array", items: FILE } } } },
      },
    },
    responses: {
      200: {
        description: "An answer for each image, in order",
        content: {
          ...json("Answer"),
          "multipart/form-data": { schema: { type: "object" } },
          "application/x-npz": BINARY,
        },
      },
      ...refusals("Error", [400, 404, 406, 408, 413, 415, 503]),
    },
  };
  return { config: { operation } };
}

/** Of POST …/infer, of the Open Inference Protocol. */
export function describeInfer(parameters: readonly object[]): Described {
  const either = (schema: Schema) => ({ ...json(schema), "application/octet-stream": { schema: {} } });
  const operation = {
    summary: "Predict by the Open Inference Protocol",
    description:
      `The input tensor "${INPUT}" holds stored values, N×C×H×W (N×C×D×H×W for volumes). Outputs: ${Object.keys(TENSORS).join(", ")}; ` +
      "without a choice, all. With the binary tensor extension, Inference-Header-Content-Length is the length of the JSON, " +
      "which the tensor's bytes follow (application/octet-stream).",
    parameters: [...parameters, { name: "Inference-Header-Content-Length", in: "header", schema: { type: "integer" } }],
    requestBody: { required: true, content: either("InferRequest") },
    responses: {
      200: { description: "The tensors", content: either("InferAnswer") },
      ...refusals("InferError", [400, 404, 408, 413, 415, 503]),
    },
  };
  return { config: { operation } };
}

/** Of POST /v1/outcomes. */
export function describeOutcomes(): Described {
  const operation = {
    summary: "Tell what an audited case came to",
    description:
      "Its Dice, or the right mask: a PNG or .npy file in base64, of the image's size, of class indices; of two classes also of 0 and 255, as the " +
      "answer's. Cases that are audited must be a fair draw of what was served. The header Authorization is Bearer and the server's token.",
    requestBody: { required: true, content: json("Outcome") },
    responses: {
      ...answer("It is on the disk", "OutcomeAnswer", 201),
      ...refusals("Error", [400, 401, 403, 404, 408, 409, 413, 415, 422, 503, 507]),
    },
  };
  return { config: { operation } };
}

function json(schema?: Schema): object {
  return { "application/json": { schema: schema ? { $ref: `#/components/schemas/${schema}` } : { type: "object" } } };
}

function refusals(schema: Schema, statuses: readonly (keyof typeof REFUSALS)[]): object {
  const headers = { "Retry-After": { schema: { type: "integer" }, description: "Seconds" } };
  const refusal = (status: keyof typeof REFUSALS) => ({
    description: REFUSALS[status],
    content: json(schema),
    ...(status === 503 && { headers }),
  });
  return Object.fromEntries(statuses.map((status) => [status, refusal(status)]));
}

const REFUSALS = {
  400: "No image, a damaged one, or an unknown option",
  401: "No token",
  403: "Another token",
  404: "No such model, or no case of this id",
  406: "No such form of answer",
  409: "A case that has its outcome",
  408: "The body did not arrive in time",
  413: "Too many bytes, pixels or images",
  415: "Another content type, or a compressed body",
  422: "No Dice or mask",
  507: "No space on the disk: nothing has changed",
  503: "Too many requests, out of time, or stopping: try again after Retry-After seconds",
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

const estimate = {
  type: "object",
  properties: {
    dice: { type: ["number", "null"] },
    lower: { type: ["number", "null"], description: "The Dice is at least this" },
    interval: { type: ["array", "null"], description: "The Dice is between these", items: { type: "number" } },
  },
};
const scores = Object.fromEntries(
  IMAGE_SCORE_NAMES.map((name) => [name, { type: ["number", "null"], description: SCORES[name].text }]),
);

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
      id: { type: "string", description: "By which its outcome may be told; only where these are taken" },
      decision: { type: ["string", "null"], enum: ["accept", "review", null], description: "Null: there is no gate" },
      reasons: {
        type: "array",
        items: {
          type: "object",
          properties: {
            code: { type: "string", enum: GATE_REASONS },
            message: { type: "string" },
          },
        },
      },
      score: {
        type: ["object", "null"],
        properties: { name: { type: "string" }, value: { type: ["number", "null"] }, threshold: number },
      },
      certificate: {
        type: "object",
        description: "What is promised of the decision; nothing is said of it where the run has no certificate",
        properties: {
          state: { type: "string", enum: CERTIFICATE_STATES.filter((state) => state !== "none") },
          message: { type: "string", description: "Why it does not hold" },
          claim: { type: "string" },
          ...{ alpha: number, delta: number, tau: number },
        },
      },
      height: { type: "integer" },
      width: { type: "integer" },
      area: { type: "object", description: "Pixels by class", additionalProperties: { type: "integer" } },
      sets: {
        type: "object",
        description:
          "By class, pixels that surely are of it, and that perhaps are; where inner or outer masks are asked for",
        additionalProperties: {
          type: "object",
          properties: { inner: { type: "integer" }, outer: { type: "integer" } },
        },
      },
      heads: { type: "array", items: { type: "string" } },
      aula: { type: ["object", "null"], properties: { value: number, normalised: number, empty: { type: "boolean" } } },
      pairwiseAgreement: { type: "object", properties: { overall: { type: ["number", "null"] } } },
      softDiceConfidence: { type: "object", properties: { overall: number } },
      predictedDice: {
        type: ["object", "null"],
        description: "The Dice that the mask probably has; null without a fit for it in the run",
        properties: {
          overall: estimate,
          perClass: { type: "object", additionalProperties: estimate },
          alpha: { type: ["number", "null"], description: "The bounds hold in 1 - alpha of cases" },
          from: {
            enum: ["calibration", "out-of-fold", null],
            description: "Of which images the bounds are: of a calibration split, or of the fit's, each left out of it",
          },
          sentence: { type: ["string", "null"] },
        },
      },
      empty: { type: "boolean", description: "No head finds any foreground" },
      scores: { type: "object", properties: scores },
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
  Outcome: {
    type: "object",
    required: ["id"],
    properties: {
      id: { type: "string", description: "Of the answer" },
      dice: { type: "number", minimum: 0, maximum: 1 },
      mask: { type: "string", contentEncoding: "base64" },
      group: { type: "string", description: "The patient, say" },
    },
  },
  OutcomeAnswer: {
    type: "object",
    properties: { id: { type: "string" }, model: { type: "string" }, dice: number },
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
