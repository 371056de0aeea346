/** The methods that are compared (SPEC §3), in the order of the tables. */
export const METHODS = ["plain", "mh", "de", "mcd", "le"] as const;

/** One of {@link METHODS}. */
export type MethodName = (typeof METHODS)[number];

/** What a method is called in tables, and in full. */
export const METHOD_TITLES: Readonly<
  Record<
    MethodName,
    {
      /** As in tables: `LE`. */
      short: string;
      /** In full, as in a sentence: `Layer Ensemble`. */
      long: string;
    }
  >
> = {
  plain: { short: "Plain", long: "plain network" },
  mh: { short: "MH", long: "multi-head" },
  de: { short: "DE", long: "deep ensemble" },
  mcd: { short: "MCD", long: "Monte Carlo dropout" },
  le: { short: "LE", long: "Layer Ensemble" },
};

/** Most passes of Monte Carlo dropout. */
export const MOST_PASSES = 10_000;
