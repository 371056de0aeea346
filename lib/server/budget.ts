import { LayerEnsemblesError } from "../errors.js";

/** Memory that is held until it is given back. */
export interface Held {
  /** Bytes, now. */
  readonly bytes: number;
  /** Holds so many bytes from now on. @throws ERR_LE_BUSY where they are more and there is no room */
  resize(bytes: number): void;
  /** Gives it back; again is harmless. */
  release(): void;
}

/** What can be given up so that others have room: bodies and answers whose clients are slow. */
export interface Evictable {
  /** Whether it may be given up now. */
  idle(): boolean;
  /** Gives it up, and its memory back. */
  evict(): void;
}

/**
 * A bound on the bytes that one kind of thing may take together. Nothing is measured: what things will take is known, or
 * estimated from above, before they are made.
 */
export class Budget {
  readonly #evictable = new Map<Held, Evictable>();
  #held = 0;

  constructor(
    /** Names the kind in errors, such as "bodies". */
    readonly what: string,
    /** Most that is held. */
    readonly bytes: number,
  ) {}

  /** Bytes that are held. */
  get held(): number {
    return this.#held;
  }

  /** Whether there is room for so many bytes now. */
  fits(bytes: number): boolean {
    return this.#held + bytes <= this.bytes;
  }

  /**
   * @throws ERR_LE_TOO_LARGE for more than there ever is
   * @param remedy What its sender can do.
   */
  check(bytes: number, what: string, remedy: string): void {
    if (bytes > this.bytes)
      throw new LayerEnsemblesError(
        "ERR_LE_TOO_LARGE",
        `Expected at most ${mebibytes(this.bytes)} MiB for ${what} but received what takes ${mebibytes(bytes)} MiB. ${remedy}`,
      );
  }

  /**
   * Holds bytes. Where there is no room, what is larger and may be given up is, the largest first.
   * @throws ERR_LE_BUSY
   */
  take(bytes: number, evictable?: Evictable): Held {
    this.#makeRoom(bytes, undefined, 0);
    this.#held += bytes;
    let own = bytes;
    const held: Held = {
      get bytes() {
        return own;
      },
      resize: (wanted) => {
        if (!this.#live.has(held)) return;
        if (wanted > own) this.#makeRoom(wanted - own, held, wanted);
        this.#held += wanted - own;
        own = wanted;
      },
      release: () => {
        if (!this.#live.delete(held)) return;
        this.#held -= own;
        own = 0;
        this.#evictable.delete(held);
        this.#admit();
      },
    };
    this.#live.add(held);
    if (evictable) this.#evictable.set(held, evictable);
    return held;
  }

  /**
   * Waits for room, in order of arrival. For what holds nothing else that those before it may need.
   * @throws `signal.reason`
   */
  async wait(bytes: number, signal: AbortSignal): Promise<Held> {
    signal.throwIfAborted();
    if (this.#queue.length === 0 && this.fits(bytes)) return this.take(bytes);
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#queue.splice(this.#queue.indexOf(entry), 1);
        reject(signal.reason);
        this.#admit();
      };
      const entry = {
        bytes,
        start: () => {
          signal.removeEventListener("abort", leave);
          resolve(this.take(bytes));
        },
      };
      signal.addEventListener("abort", leave, { once: true });
      this.#queue.push(entry);
    });
  }

  readonly #live = new Set<Held>();
  readonly #queue: { bytes: number; start(): void }[] = [];

  #admit(): void {
    for (let first = this.#queue[0]; first && this.fits(first.bytes); first = this.#queue[0]) {
      this.#queue.shift();
      first.start();
    }
  }

  #makeRoom(more: number, asking: Held | undefined, total: number): void {
    while (!this.fits(more)) {
      let largest: Held | undefined;
      for (const [held, { idle }] of this.#evictable)
        if (held !== asking && held.bytes > Math.max(more, total, largest?.bytes ?? 0) && idle()) largest = held;
      if (!largest)
        throw new LayerEnsemblesError(
          "ERR_LE_BUSY",
          `Expected at most ${mebibytes(this.bytes)} MiB for ${this.what} at a time but received more. Try again soon.`,
        );
      this.#evictable.get(largest)?.evict();
      largest.release();
    }
  }
}

/** Bytes as people read them. */
export function mebibytes(bytes: number): string {
  const value = bytes / 2 ** 20;
  return value >= 10 ? String(Math.round(value)) : value.toPrecision(2);
}
