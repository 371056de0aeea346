// The folder `alarm` of a run in service: where the alarm over its stream stands, and when a person began it anew.
import { rm } from "node:fs/promises";
import path from "node:path";
import { readTextIfAny, writeAtomic } from "../data/files.js";
import { parseJson } from "../data/json.js";
import { LayerEnsemblesError } from "../errors.js";
import { withFolder } from "../native/folder-lock.js";
import { checkFields, checkOptions, describe, type OptionSpecs, option } from "../options.js";
import { StreamAlarm, type StreamAlarmState } from "../statistics/martingale.js";
import { verifyCertificate } from "./certificate.js";
import { RUN_FILES } from "./run.js";

const FILES = { state: "state.json", renewals: "renewals.jsonl" } as const;

/** Where the alarm over the stream of a certificate's cases stands: state.json. */
export interface AlarmRecord {
  /** Version of this layout; 1. */
  format: 1;
  /** Digest of the certificate that it is of. */
  certificate: string;
  /** How often that certificate had been renewed when it began. */
  renewals: number;
  /** When it went off, or was found damaged, which makes the certificate void; ISO 8601, null where it has not. */
  voidSince: string | null;
  /** Of {@link StreamAlarm}. */
  alarm: StreamAlarmState;
}

/** A person's word that a void certificate holds again: a line of renewals.jsonl, which only grows. */
export interface Renewal {
  /** When; ISO 8601. */
  date: string;
  /** Digest of the certificate. */
  certificate: string;
  /** Why. */
  reason: string;
  /** When the alarm had gone off; null where that could not be read. */
  voidSince: string | null;
}

const date = option.date();
const digest = option.sha256();
const RECORD: OptionSpecs = {
  format: option.required(option.oneOf([1])),
  certificate: option.required(digest),
  renewals: option.required(option.integer({ min: 0 })),
  voidSince: option.required(option.orNull(date)),
  alarm: option.required(option.custom("an object", (value) => typeof value === "object" && value !== null)),
};
const RENEWAL: OptionSpecs = {
  date: option.required(date),
  certificate: option.required(digest),
  reason: option.required(option.string()),
  voidSince: option.required(option.orNull(date)),
};

/** The folder of a run's alarm: its own, unless the run cannot be written. */
export function alarmFolder(run: string, state?: string): string {
  return state ?? path.join(run, RUN_FILES.alarm);
}

/**
 * What an alarm's folder says; undefined where no alarm has begun there.
 * @param streams names of what is watched, where they are known
 * @throws ERR_LE_CHECKPOINT for what is damaged
 */
export async function readAlarm(folder: string, streams?: readonly string[]): Promise<AlarmRecord | undefined> {
  const file = path.join(folder, FILES.state);
  return readSound(file, async () => {
    const text = await readTextIfAny(file);
    if (text === undefined) return undefined;
    const record = checkFields("the alarm", parseJson(text) as AlarmRecord, RECORD);
    const alarm = StreamAlarm.from(record.alarm).state();
    if (alarm.firedAt !== null && record.voidSince === null) throw new Error("an alarm that has gone off and has not");
    const names = Object.keys(alarm.streams).sort().join(", ");
    if (streams && names !== [...streams].sort().join(", ")) throw new Error(`other values are watched: ${names}`);
    return { ...record, alarm };
  });
}

/** Writes it, atomically. @throws ERR_LE_IO */
export function writeAlarm(folder: string, record: AlarmRecord): Promise<void> {
  return writeAtomic(path.join(folder, FILES.state), `${JSON.stringify(record)}\n`);
}

/** The renewals of certificates, in order. @throws ERR_LE_CHECKPOINT for what is damaged */
export async function readRenewals(folder: string): Promise<Renewal[]> {
  const file = path.join(folder, FILES.renewals);
  return readSound(file, async () => {
    const lines = ((await readTextIfAny(file)) ?? "").split("\n").slice(0, -1);
    return lines.map((line, i) => checkOptions(`line ${i + 1}`, parseJson(line) as Renewal, RENEWAL));
  });
}

/**
 * Takes a certificate that the alarm has voided for valid again. A server takes it up when it loads the run again; the alarm begins anew.
 * @param run the run
 * @param reason why it may; is kept, with the date
 * @param state folder of the alarm, where it is not in the run
 * @throws ERR_LE_OPTION without a reason; ERR_LE_CHECKPOINT for a certificate that is stale or that no alarm has voided; ERR_LE_BUSY, ERR_LE_IO
 */
export async function renewCertificate(run: string, reason: string, state?: string): Promise<Renewal> {
  if (reason.trim() === "")
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected a reason for the renewal but received ${describe(reason)}.`,
    );
  const folder = alarmFolder(run, state);
  return withFolder(run, async () => {
    const verdict = await verifyCertificate(run);
    if (!verdict.valid)
      throw refused("a certificate that holds but for the alarm", `one that does not: ${verdict.message}`);
    const { digest: certificate } = verdict.certificate;
    const renewals = await readRenewals(folder);
    const before = renewals.filter((one) => one.certificate === certificate).length;
    // One that cannot be read counts as void, in service too.
    const record = await readAlarm(folder).catch((error) => (isDamage(error) ? null : Promise.reject(error)));
    const isVoid =
      record === null ||
      (record?.certificate === certificate && record.renewals === before && record.voidSince !== null);
    if (!isVoid) throw refused("a certificate that the alarm has voided", `one of which ${folder} tells no alarm`);
    const renewal = { date: new Date().toISOString(), certificate, reason, voidSince: record?.voidSince ?? null };
    const lines = [...renewals, renewal].map((one) => `${JSON.stringify(one)}\n`);
    await writeAtomic(path.join(folder, FILES.renewals), lines.join(""));
    if (record === null) await rm(path.join(folder, FILES.state));
    return renewal;
  });
}

/** Whether an error says that a file is damaged. */
export function isDamage(error: unknown): boolean {
  return (error as LayerEnsemblesError).code === "ERR_LE_CHECKPOINT";
}

async function readSound<T>(file: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected ${file} to be as it was written but received one that is damaged: ${(cause as Error).message}`,
      { cause },
    );
  }
}

function refused(expected: string, received: string): LayerEnsemblesError {
  return new LayerEnsemblesError("ERR_LE_CHECKPOINT", `Expected ${expected} for the renewal but received ${received}`);
}
