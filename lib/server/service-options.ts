import type { FastifyServerOptions } from "fastify";
import { PLACEMENT } from "../ensemble/model.js";
import { CONFIGURE } from "../native/configure.js";
import { option, type Values } from "../options.js";
import type { Gate } from "../scores/gate.js";
import type { AlarmEvent } from "./certificates.js";
import { OUTCOME_OPTIONS, type OutcomeOptions } from "./outcomes.js";
import { QUEUE } from "./queue.js";

const MIB = 2 ** 20;

export const SERVICE = {
  /** Run folders; a name is the folder's own, or given as a key. */
  runs: option.required(option.anyOf(option.array(option.string(), { min: 1 }), option.record(option.string()))),
  /** Images of one shape that share a pass. @default 8 */
  maxBatch: QUEUE.maxBatch,
  /** Milliseconds that an image waits, at most, for others to share its pass while the model is idle. @default 4 */
  maxDelay: QUEUE.maxDelay,
  /** Images of one model that are accepted and not yet answered; one more is refused. @default 64 */
  maxQueue: QUEUE.maxQueue,
  /** Milliseconds from a request's head to its answer. @default 30000 */
  timeout: QUEUE.timeout,
  /** Bytes of a request's body. @default 33554432 */
  maxBody: option.integer({
    ...{ min: MIB / 64, max: 2047 * MIB, default: 32 * MIB, arg: "MiB", unit: MIB },
    text: "largest request",
  }),
  /** Pixels (voxels) of one image, as stored. @default 16777216 */
  maxPixels: option.integer({
    ...{ min: 1, default: 2 ** 24 },
    text: "pixels (voxels) of an image as stored, read from its header before it is decoded",
  }),
  /** Pixels of each side of an image, as stored. @default 32768 */
  maxSide: option.integer({ min: 1, default: 2 ** 15, text: "pixels of each side of an image as stored" }),
  /**
   * Bytes that requests may take together, beside the models and their passes: see {@link MEMORY_SHARES}. What has no room waits or
   * is refused. @default a quarter of the machine's memory, at least 1 GiB and at most 4 GiB
   */
  maxMemory: option.integer({
    ...{ min: 64 * MIB, max: 2 ** 42, otherwise: "a quarter of the machine's, 1024 to 4096", arg: "MiB", unit: MIB },
    text: "what requests may take together, beside the models and their passes",
  }),
  /** Images in one request, at most `maxQueue`. @default 16 */
  maxImages: option.integer({ min: 1, max: 1024, default: 16, text: "images in one request" }),
  /** Passes of the network for one image that a request may have by tiles, mirrored ones too; 1 for no tiles. @default 256 */
  maxPasses: option.integer({
    ...{ min: 1, max: 2 ** 24, default: 256 },
    text: "passes of the network for an image that is predicted by tiles, mirrored ones too; 1: no tiles",
  }),
  /** Threads that decode and encode images; 0 does it on the event loop. @default half of the cores, 1 to 4 */
  workers: option.integer({
    ...{ min: 0, max: 256, otherwise: "half of the cores, 1 to 4" },
    text: "threads that decode, prepare, restore and encode images; 0 does it on the event loop",
  }),
  /** The gate of every run, in place of its certificate and of the one in its run.json; null for none. @default the run's */
  gate: option.with(
    option.custom<Gate | null>("a gate or null", (value) => typeof value === "object"),
    {
      otherwise: "each run's",
      text: "results whose score is below it are for review, whatever a certificate says; none for no gate",
      arg: "score:threshold",
    },
  ),
  /** Folder of the alarms over the served cases, in which each run has one of its name. @default `alarm` in each run */
  state: option.string({
    ...{ otherwise: "in each run", arg: "dir" },
    text: "keep the alarms over the served cases of certified runs there, by name",
  }),
  /** Takes outcomes of audited cases, for their runs' outcomes.jsonl. @default none */
  outcomes: option.object<OutcomeOptions>(OUTCOME_OPTIONS),
  /** Called where an alarm goes off, or cannot be kept. */
  onAlarm: option.callback<(event: AlarmEvent) => void>(),
  ...PLACEMENT,
  /** CPU threads of libtorch, for the whole process. @default one for each core */
  threads: CONFIGURE.threads,
};

/** What is served, and how much of it at a time. */
export interface ServiceOptions extends Values<typeof SERVICE> {}

export const SERVER = {
  /** Options of fastify's logger (pino); false for none. @default { level: "info" } */
  logger: option.custom<FastifyServerOptions["logger"]>(
    "a boolean or options of a logger",
    (value) => typeof value === "boolean" || (typeof value === "object" && value !== null),
  ),
  /**
   * Milliseconds for which a server that is closing still answers, predictions by 503, before it stops to listen: clients with
   * open connections and load balancers learn of it in order.
   * @default 1000
   */
  linger: option.number({
    ...{ min: 0, max: 600_000, default: 1000, arg: "s", unit: 1000 },
    text: "go on answering so long when told to stop (503)",
  }),
  /**
   * Names in the header Host that are answered, beside localhost and addresses, so that a page that was loaded from elsewhere cannot
   * ask a server that only listens on this machine (DNS rebinding).
   * @default any
   */
  hosts: option.array(option.string(), {
    text: "names in the header Host that are answered beside localhost, addresses and names without a dot; others get 421",
    arg: "names...",
  }),
};

/** How a server listens and logs. */
export interface ServerOptions extends Values<typeof SERVER> {}
