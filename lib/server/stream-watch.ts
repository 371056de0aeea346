// The alarm over the stream of a run's cases, kept in a folder that no other process has meanwhile.
import { LayerEnsemblesError } from "../errors.js";
import { holdFolder } from "../native/folder-lock.js";
import { type AlarmRecord, isDamage, readAlarm, readRenewals, writeAlarm } from "../runs/alarm.js";
import type { Certificate } from "../runs/certificate.js";
import { StreamAlarm } from "../statistics/martingale.js";

/** Milliseconds between two writes of an alarm that has not gone off. */
const PACE = 1000;

/** Who is told what becomes of an alarm. */
export interface WatchListener {
  /** It goes off. */
  onVoid(): void;
  /** Where it stands could not be read, which makes it void, or written, which is tried again. */
  onTrouble(error: unknown): void;
}

/** An alarm from its beginning, by a certificate or its renewal, to its end by the next. */
export interface Watched {
  readonly alarm: StreamAlarm;
  readonly record: Omit<AlarmRecord, "alarm" | "voidSince">;
  /** When it went off, ISO 8601; null where it has not. */
  voidSince: string | null;
}

/** Keeps where an alarm stands: at most every second, and before anything is answered where it goes off. */
export class StreamWatch {
  readonly #folder: string;
  readonly #release: () => Promise<void>;
  readonly #listener: WatchListener;
  #current: Watched | undefined;
  #unsaved = false;
  #timer: NodeJS.Timeout | undefined;
  #saving: Promise<void> | undefined;

  private constructor(folder: string, release: () => Promise<void>, listener: WatchListener) {
    this.#folder = folder;
    this.#release = release;
    this.#listener = listener;
  }

  /**
   * Takes the folder until {@link StreamWatch.close}.
   * @throws ERR_LE_BUSY where another process watches; ERR_LE_IO where nothing can be written
   */
  static async open(folder: string, listener: WatchListener): Promise<StreamWatch> {
    const release = await holdFolder(folder).catch((error) => {
      throw explained(error, folder);
    });
    return new StreamWatch(folder, release, listener);
  }

  /**
   * Goes on with the alarm of a certificate, or begins it where it is new or was renewed.
   * @throws ERR_LE_IO where it cannot be kept; ERR_LE_CHECKPOINT for damaged renewals. What was watched before goes on then.
   */
  async begin(certificate: Certificate): Promise<Watched> {
    const { digest, calibration } = certificate;
    const renewals = (await readRenewals(this.#folder)).filter((one) => one.certificate === digest).length;
    const isOf = ({ certificate, renewals: before }: Watched["record"]) =>
      certificate === digest && before === renewals;
    if (this.#current && isOf(this.#current.record)) return this.#current;
    const record = { format: 1, certificate: digest, renewals } as const;
    const fresh = () => new StreamAlarm(calibration, { seed: renewals });
    const found = await readAlarm(this.#folder, Object.keys(calibration)).catch((error) => {
      if (!isDamage(error)) throw error;
      // Whether it had gone off nobody knows.
      this.#listener.onTrouble(error);
      return null;
    });
    const watched: Watched =
      found && isOf(found)
        ? { record, alarm: StreamAlarm.from(found.alarm), voidSince: found.voidSince }
        : { record, alarm: fresh(), voidSince: found === null ? new Date().toISOString() : null };
    await this.#write(watched);
    this.#current = watched;
    return watched;
  }

  /** Takes in a case. */
  observe(watched: Watched, values: Readonly<Record<string, number | null>>): void {
    // Of a model that was loaded again meanwhile: its last cases belong to no alarm.
    if (watched !== this.#current) return;
    const { alarm } = watched.alarm.observe(values);
    this.#unsaved = true;
    if (alarm && watched.voidSince === null) {
      watched.voidSince = new Date().toISOString();
      this.#listener.onVoid();
      void this.#save();
      return;
    }
    this.#timer ??= setTimeout(() => void this.#save(), PACE).unref();
  }

  /** Returns when what is being written is: whoever is told that a certificate is void knows that it stays so. */
  async settled(): Promise<void> {
    await this.#saving;
  }

  /** Writes what is left, and gives the folder back. */
  async close(): Promise<void> {
    await this.#saving;
    if (this.#unsaved) await this.#save();
    clearTimeout(this.#timer);
    await this.#release();
  }

  /** Never fails: what could not be written is tried again. */
  async #save(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const before = this.#saving ?? Promise.resolve();
    const saving = before.then(async () => {
      const watched = this.#current;
      if (!watched || !this.#unsaved) return;
      this.#unsaved = false;
      await this.#write(watched).catch((error) => {
        this.#unsaved = true;
        this.#timer ??= setTimeout(() => void this.#save(), PACE).unref();
        this.#listener.onTrouble(error);
      });
    });
    this.#saving = saving;
    await saving;
    if (this.#saving === saving) this.#saving = undefined;
  }

  async #write({ record, alarm, voidSince }: Watched): Promise<void> {
    await writeAlarm(this.#folder, { ...record, voidSince, alarm: alarm.state() }).catch((error) => {
      throw explained(error, this.#folder);
    });
  }
}

function explained(error: unknown, folder: string): unknown {
  const { code, message } = error as LayerEnsemblesError;
  if (code === "ERR_LE_IO")
    return new LayerEnsemblesError(
      code,
      `${message.replace(/\.$/, "")}. The alarm over the served cases is kept there: choose another folder by --state DIR.`,
      { cause: error },
    );
  if (code !== "ERR_LE_BUSY") return error;
  return new LayerEnsemblesError(
    code,
    `Expected the alarm in ${folder} to be kept by one server but received another one that has it: end that, or give each a --state DIR of its own.`,
    { cause: error },
  );
}
