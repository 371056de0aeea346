// What is checked of samples as a whole, while they are read for a training.
import { Dataset } from "../data/dataset.js";
import { bothNames } from "../data/names.js";
import { LayerEnsemblesError } from "../errors.js";
import { UNSAID_CURE, UnsaidLabels } from "../quality/ignored.js";
import type { FitOptions } from "./fit-options.js";
import type { TrainingSample } from "./training.js";

/** What a sample of a dataset has beside image and mask. */
interface Known {
  id: unknown;
  group: unknown;
  content: unknown;
}

/** Reads it, once. */
export function knownOf(sample: TrainingSample): Known {
  const { id, group, content } = sample as TrainingSample & Partial<Known>;
  return { id, group, content };
}

/** Looks at the samples of a training and its validation. */
export class SampleGuard {
  /** The label that does not count: as asked for, else as the training's dataset has it. */
  readonly ignoreIndex: number | undefined;
  /** Whether what images show matters: whether there is a validation, which must have none of the training's. */
  readonly compares: boolean;
  /** Whether only the caller knows what 255 means. */
  readonly #unsaid: Readonly<Record<string, boolean>>;
  readonly #labels = new UnsaidLabels();
  /** Whether some pixel counts. */
  #counted = false;
  readonly #groups = new Set<string>();
  readonly #contents = new Map<string, string>();
  /** The same of samples that are no dataset's, and which of the validation are in the training. */
  readonly #shown = new Map<string, string>();
  readonly #twins: string[] = [];

  /** @throws ERR_LE_OPTION for a validation dataset with another ignored label */
  constructor(
    training: unknown,
    {
      validation,
      ignoreIndex,
      allowDuplicates = false,
    }: Pick<FitOptions, "ignoreIndex" | "allowDuplicates"> & { validation?: unknown },
  ) {
    const own = (source: unknown) =>
      source instanceof Dataset && source.labels.ignore !== null ? source.ignoreIndex : undefined;
    const [trained, held] = [own(training), own(validation)];
    if (ignoreIndex === undefined && trained !== undefined && held !== undefined && trained !== held)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected one ignored label for training and validation but received ${trained} and ${held}: say it by option 'ignoreIndex'.`,
      );
    this.ignoreIndex = ignoreIndex ?? trained ?? held;
    this.#unsaid = {
      training: ignoreIndex === undefined && !(training instanceof Dataset),
      validation: ignoreIndex === undefined && trained === undefined && !(validation instanceof Dataset),
    };
    // Who gives one and the same for both wants it so.
    this.compares = Boolean(validation) && !allowDuplicates && !isSame(training, validation);
  }

  /**
   * @param what `training` before `validation`
   * @param shown of a sample that is no dataset's, a hash of its image
   * @throws ERR_LE_DATA for an image or a group that the training has, too
   */
  see(what: string, index: number, { id, group, content }: Known, labels: Uint8Array, shown?: string): void {
    if (index === 0) this.#counted = false;
    const ignored = this.ignoreIndex ?? 255;
    this.#counted ||= labels.some((label) => label !== ignored);
    if (this.#unsaid[what]) this.#labels.see(`${what}[${index}].mask`, labels);
    const name = typeof id === "string" ? id : `${what}[${index}]`;
    if (what === "training") {
      if (typeof group === "string") this.#groups.add(group);
      if (typeof content === "string") this.#contents.set(content, name);
      if (shown !== undefined) this.#shown.set(shown, name);
      return;
    }
    if (!this.compares) return;
    const twin = shown === undefined ? undefined : this.#shown.get(shown);
    if (twin !== undefined) this.#twins.push(`${name} as ${twin}`);
    const same = typeof content === "string" ? this.#contents.get(content) : undefined;
    if (same !== undefined)
      throw leak(
        "different images",
        `the same image as ${bothNames(same, name)} in both (allowDuplicates: true takes it all the same)`,
      );
    if (typeof group === "string" && this.#groups.has(group))
      throw leak(
        "different groups",
        `images of group "${group}" in both (images of one group in two splits make results look too good)`,
      );
  }

  /**
   * Once all samples of training, or of validation, are seen.
   * @throws ERR_LE_DATA where no pixel counts; for masks in which 255 may mean either: see {@link UnsaidLabels}
   */
  check(what: string): void {
    if (!this.#counted)
      throw new LayerEnsemblesError(
        "ERR_LE_DATA",
        `Expected a pixel that counts in the masks of ${what} but received the ignored label ${this.ignoreIndex ?? 255} alone.`,
      );
    // Who makes samples may mean it so: no error, as of a dataset's.
    if (what === "validation" && this.#twins.length > 0)
      process.emitWarning(
        `${this.#twins.length} samples of the validation show the same image as one of the training (${this.#twins[0]}): results look too good; allowDuplicates: true says that this is meant.`,
        "LayerEnsemblesWarning",
      );
    const { unclear } = this.#labels;
    if (unclear === undefined) return;
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      `Expected class indices for the masks of ${what} but received 0 and 255 alone, as in ${unclear}: ${UNSAID_CURE}.`,
    );
  }
}

/** Whether both are one object, or lists of the same objects: options are copied. */
function isSame(training: unknown, validation: unknown): boolean {
  if (training === validation) return true;
  if (!Array.isArray(training) || !Array.isArray(validation) || training.length !== validation.length) return false;
  return training.length > 0 && training.every((sample, i) => sample === validation[i]);
}

function leak(expected: string, received: string): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected ${expected} for training and validation but received ${received}.`,
  );
}
