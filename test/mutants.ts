// Small mistakes in definitions of the core, each of which some test must notice: `npm run mutants` makes them, one at a time.

/** A mistake. */
export interface Mutant {
  /** What is wrong, in a few words. */
  name: string;
  file: string;
  /** Occurs once in the file. */
  text: string;
  /** What takes its place. */
  by: string;
  /** Who should notice, one after another: test files, or the beginnings of C++ tests' names. */
  tests: readonly string[];
}

export const MUTANTS: readonly Mutant[] = [
  {
    name: "a threshold does not accept the case at it",
    file: "lib/certificate/rules.ts",
    text: "if ((confidence[i] as number) < threshold) continue;",
    by: "if ((confidence[i] as number) <= threshold) continue;",
    tests: ["test/unit/certificate.test.ts"],
  },
  {
    name: "tests go on after a threshold that fails",
    file: "lib/certificate/certify.ts",
    text: "open = value <= limit;\n    if (open) last = j;",
    by: "if (value <= limit) last = j;",
    tests: ["test/unit/certificate.test.ts"],
  },
  {
    name: "an empty result is as acceptable as its score says",
    file: "lib/scores/gate.ts",
    text: 'return decision === "accept" ? (asked?.value as number) : Number.NEGATIVE_INFINITY;',
    by: "return asked?.value ?? Number.NEGATIVE_INFINITY;",
    tests: ["test/unit/scores.test.ts"],
  },
  {
    name: "a certificate that does not hold decides by the gate",
    file: "lib/scores/gate.ts",
    text: 'if (state !== "valid") reasons.push(',
    by: 'if (state === "void") reasons.push(',
    tests: ["test/native/certificate.test.ts"],
  },
  {
    name: "the joint rule without the case to come",
    file: "lib/certificate/rules.ts",
    text: "risk, 0) + 1) / (risks.length + 1)",
    by: "risk, 0)) / risks.length",
    tests: ["test/unit/certificate.test.ts"],
  },
  {
    name: "a bet that knows the case that it is laid on",
    file: "lib/certificate/rules.ts",
    text: "    squares += (value - sum / (i + 2)) ** 2;",
    by: "    squares += (w(i + 1 < n ? i + 1 : i) - sum / (i + 2)) ** 2;",
    tests: ["test/unit/certificate.test.ts"],
  },
  {
    name: "served cases are ranked among the calibration's alone",
    file: "lib/statistics/martingale.ts",
    text: "if (reference.length < MOST_REFERENCE) reference",
    by: "if (reference.length < 0) reference",
    tests: ["test/unit/martingale.test.ts"],
  },
  {
    name: "AULA without its last trapezoid",
    file: "lib/agreement/measures.ts",
    text: "for (let j = 1; j < values.length; j++) area +=",
    by: "for (let j = 1; j < values.length - 1; j++) area +=",
    tests: ["test/unit/agreement.test.ts"],
  },
  {
    name: "a bound on Dice one case too low",
    file: "lib/tuning/predicted-dice.ts",
    text: "Math.ceil((values.length + 1) * (1 - alpha) - 1e-9)",
    by: "Math.ceil(values.length * (1 - alpha) - 1e-9)",
    tests: ["test/unit/predicted-dice.test.ts"],
  },
  {
    name: "all features whenever they do better at all",
    file: "lib/tuning/predicted-dice.ts",
    text: "error.features > (error.se ?? 0)",
    by: "error.features > 0",
    tests: ["test/unit/predicted-dice.test.ts"],
  },
  {
    name: "the score of least AURC though a simpler one ties",
    file: "lib/tuning/choose-score.ts",
    text: "above <= se",
    by: "above <= 0",
    tests: ["test/unit/choose-score.test.ts"],
  },
  {
    name: "a structure's scores without what heads find around it",
    file: "lib/scores/structures.ts",
    text: "nearestComponent(components, c, shape)",
    by: "components.of",
    tests: ["test/unit/structures.test.ts"],
  },
  {
    name: "soft Dice confidence of the first head, not the last",
    file: "lib/scores/register.ts",
    text: "softDiceConfidence.heads.at(-1)",
    by: "softDiceConfidence.heads.at(0)",
    tests: ["test/unit/scores.test.ts"],
  },
  {
    name: "the kernel's sums of a head's sure pixels, of the other class",
    file: "native/core/prediction/reduce.cpp",
    text: "sums[0] = sure_0 + minor_1;",
    by: "sums[0] = sure_0 + minor_0;",
    tests: ["reduce equals the definitions in 2D"],
  },
  {
    name: "agreement 0 of heads that both find nothing",
    file: "lib/agreement/counts.ts",
    text: "return either === 0 ? 1 :",
    by: "return either === 0 ? 0 :",
    tests: ["test/unit/agreement.test.ts"],
  },
  {
    name: "the gate refuses at its threshold",
    file: "lib/scores/gate.ts",
    text: "else if (value < threshold)",
    by: "else if (value <= threshold)",
    tests: ["test/unit/scores.test.ts"],
  },
  {
    name: "much uncertainty is high confidence",
    file: "lib/scores/scores.ts",
    text: 'return SCORES[name].surer === "low" ? -value : value;',
    by: "return value;",
    tests: ["test/unit/scores.test.ts"],
  },
  {
    name: "the gate lets pass what nobody knows to be like the training",
    file: "lib/scores/gate.ts",
    text: 'if (!tapDistance) return "Nothing',
    by: 'if (tapDistance === 0) return "Nothing',
    tests: ["test/unit/scores.test.ts"],
  },
  {
    name: "distances without shrinkage",
    file: "lib/shift/space.ts",
    text: "const rho = error > 0 ? error / spread : 0;",
    by: "const rho = 0 * error;",
    tests: ["test/unit/shift.test.ts"],
  },
  {
    name: "the rank of a distance among the training's",
    file: "lib/shift/fit.ts",
    text: 'of(validation, "validation")',
    by: 'of(training, "training")',
    tests: ["test/unit/shift.test.ts"],
  },
  {
    name: "a threshold that its promise does not reach",
    file: "lib/tuning/distance-threshold.ts",
    text: "while (above + 1 < n && binomialCdf(above + 1, n, SHARE) <= 1 - CONFIDENCE) above++;",
    by: "while (above + 1 < n && binomialCdf(above, n, SHARE) <= 1 - CONFIDENCE) above++;",
    tests: ["test/unit/distance-threshold.test.ts"],
  },
  {
    name: "a tap's deviation without what the mean takes off",
    file: "native/core/taps/statistics.cpp",
    text: "variance = all.squares[at] / static_cast<double>(places) - mean * mean;",
    by: "variance = all.squares[at] / static_cast<double>(places);",
    tests: ["statistics: the kernel"],
  },
  {
    name: "the mean of heads without their weights",
    file: "lib/fusion/fuse.ts",
    text: "addScaled(sum, p, weights[k] as number);",
    by: "addScaled(sum, p, 1);",
    tests: ["test/unit/fusion.test.ts"],
  },
  {
    name: "one head too many is skipped",
    file: "lib/fusion/fuse.ts",
    text: "return views.slice(skip).map(",
    by: "return views.slice(skip + 1).map(",
    tests: ["test/unit/fusion.test.ts"],
  },
  {
    name: "STAPLE without the prior",
    file: "lib/fusion/staple.ts",
    text: "of(half, within, width, h === 0 ? prior : ones, ",
    by: "of(half, within, width, ones, ",
    tests: ["test/unit/staple.test.ts"],
  },
  {
    name: "0 ln 0 is not 0",
    file: "lib/uncertainty/maps.ts",
    text: "if (value > 0) h[i] =",
    by: "h[i] =",
    tests: ["test/unit/uncertainty.test.ts"],
  },
  {
    name: "disagreement counts a head with itself",
    file: "lib/uncertainty/maps.ts",
    text: "return 1 - pairs / (heads * (heads - 1));",
    by: "return 1 - pairs / (heads * heads);",
    tests: ["test/unit/uncertainty.test.ts"],
  },
  {
    name: "soft Dice confidence divided by probabilities alone",
    file: "lib/uncertainty/summary.ts",
    text: "(2 * within) / (probability + predicted)",
    by: "(2 * within) / (probability + probability)",
    tests: ["test/unit/uncertainty.test.ts"],
  },
  {
    name: "hd95 without interpolation",
    file: "lib/statistics/spread.ts",
    text: "return low + (at - below) *",
    by: "return low + 0 *",
    tests: ["test/unit/surface.test.ts"],
  },
  {
    name: "ignored pixels count in Dice",
    file: "lib/quality/overlap.ts",
    text: "if (y === ignoreIndex) continue;",
    by: "",
    tests: ["test/unit/metrics.test.ts"],
  },
  {
    name: "a confidence on a border falls into the upper bin",
    file: "lib/quality/calibration.ts",
    text: "if (b > 0 && confidence <= (ends[b - 1] as number)) b--;",
    by: "if (b > 0 && confidence < (ends[b - 1] as number)) b--;",
    tests: ["test/unit/calibration.test.ts"],
  },
  {
    name: "nll with another epsilon",
    file: "lib/quality/likelihood.ts",
    text: "export const NLL_EPSILON = 1e-5;",
    by: "export const NLL_EPSILON = 1e-6;",
    tests: ["test/unit/metrics.test.ts"],
  },
  {
    name: "AURC by steps in the place of trapezoids",
    file: "lib/statistics/failures.ts",
    text: "((y[i - 1] as number) + (y[i] as number))) / 2;",
    by: "(2 * (y[i] as number))) / 2;",
    tests: ["test/unit/statistics.test.ts"],
  },
  {
    name: "ties have the lowest of their ranks",
    file: "lib/statistics/correlation.ts",
    text: "result[order[i] as number] = (start + end + 1) / 2;",
    by: "result[order[i] as number] = start + 1;",
    tests: ["test/unit/statistics.test.ts"],
  },
  {
    name: "Wilcoxon's variance without the ties",
    file: "lib/statistics/paired.ts",
    text: " - ties / 48;",
    by: ";",
    tests: ["test/unit/statistics.test.ts"],
  },
  {
    name: "the bootstrap does not look at its seed",
    file: "lib/statistics/bootstrap.ts",
    text: "new Random(seed)",
    by: "new Random(0)",
    tests: ["test/unit/statistics.test.ts"],
  },
  {
    name: "T at the margin is left out",
    file: "lib/tuning/skip.ts",
    text: "dice >= best - margin",
    by: "dice > best - margin",
    tests: ["test/unit/calibration.test.ts"],
  },
  {
    name: "as many masks of 0 and 255 as others leave 255 open",
    file: "lib/quality/ignored.ts",
    text: "(!both || apart > indices)",
    by: "(!both || apart >= indices)",
    tests: ["test/unit/labels.test.ts"],
  },
  {
    name: "a picture that lies on its side is turned on",
    file: "lib/data/orientation.ts",
    text: "orientation === 6 ? 8 : orientation === 8 ? 6 : orientation",
    by: "orientation",
    tests: ["test/unit/orientation.test.ts"],
  },
  {
    name: "pixel centres at whole numbers in resampling",
    file: "lib/data/resample.ts",
    text: "const centreOf = (i: number) => (i + 0.5) * scale;",
    by: "const centreOf = (i: number) => i * scale + 0.5;",
    tests: ["test/unit/preprocess.test.ts"],
  },
  {
    name: "the first of the labels that cover the same, not the lower one",
    file: "lib/data/resample.ts",
    text: " || (lead > -1e-9 && label < best)",
    by: "",
    tests: ["test/unit/preprocess.test.ts"],
  },
  {
    name: "the nearest pixel to a corner, not to a centre",
    file: "lib/data/resample.ts",
    text: "Math.floor(((i + 0.5) * size) / newSize)",
    by: "Math.floor((i * size) / newSize)",
    tests: ["test/unit/preprocess.test.ts"],
  },
  {
    name: "a volume's odd slice in front",
    file: "lib/data/volume.ts",
    text: "Math.abs(side - other) >> 1",
    by: "(Math.abs(side - other) + 1) >> 1",
    tests: ["test/unit/volume.test.ts"],
  },
  {
    name: "a tap is not copied though it is overwritten",
    file: "native/core/taps/hooks.cpp",
    text: "const bool shared = fates_[module.index()] == Fate::kKept;",
    by: "const bool shared = fates_[module.index()] != Fate::kUnknown;",
    tests: ["test/native/taps.test.ts", "taps: every layer's tap"],
  },
  {
    name: "heads from the deepest to the first",
    file: "native/core/ensemble.cpp",
    text: "return last[a.name] < last[b.name];",
    by: "return last[a.name] > last[b.name];",
    tests: ["ensemble: taps are ordered by execution"],
  },
  {
    name: "predictions leave out the last heads in the place of those chosen",
    file: "native/core/prediction/predict.cpp",
    text: "std::move(all[kept[k]])",
    by: "std::move(all[k])",
    tests: ["test/native/definitions.test.ts"],
  },
  {
    name: "STAPLE's native twin without the prior",
    file: "native/core/prediction/staple.cpp",
    text: "std::log(prior_[t]);",
    by: "0;",
    tests: ["test/native/definitions.test.ts"],
  },
  {
    name: "the worst epoch's weights are kept",
    file: "native/core/training/train.cpp",
    text: "|| monitored < best_loss_;",
    by: "|| monitored > best_loss_;",
    tests: ["test/native/training.test.ts"],
  },
  {
    name: "early heads send their whole gradient whatever their share",
    file: "native/core/ensemble.cpp",
    text: "k + 1 < heads_.size() ? head_gradient : 1",
    by: "1",
    tests: ["methods: a share of the early heads' gradient"],
  },
  {
    name: "batch norm is folded without its epsilon",
    file: "native/core/backbones/folded_conv.cpp",
    text: "(norm->var + norm->eps).rsqrt()",
    by: "norm->var.rsqrt()",
    tests: ["zoo: derived weights have the norm's epsilon"],
  },
  {
    name: "Dice loss smooths below alone",
    file: "native/core/training/losses.cpp",
    text: "1 - (numerator + settings.smooth) / below",
    by: "1 - numerator / below",
    tests: ["losses: values and gradients equal PyTorch's"],
  },
  {
    name: "Adam's second moment is corrected without its root",
    file: "native/core/training/optim.cpp",
    text: "std::sqrt(correction2)",
    by: "correction2",
    tests: ["optim: every step equals PyTorch's"],
  },
  {
    name: "one-cycle rises a step longer",
    file: "native/core/training/schedule.cpp",
    text: "rise_ * static_cast<double>(total) - 1, end",
    by: "rise_ * static_cast<double>(total), end",
    tests: ["schedule: cosine and one-cycle equal PyTorch's"],
  },
  {
    name: "scores without what lies in higher buckets",
    file: "lib/sets/levels.ts",
    text: "higher = above[bucket] as number;",
    by: "higher = 0;",
    tests: ["test/unit/sets.test.ts"],
  },
  {
    name: "thresholds of masks without the one case to come",
    file: "lib/sets/fit.ts",
    text: "return (cases * loss + 1) / (cases + 1);",
    by: "return loss;",
    tests: ["test/unit/sets.test.ts"],
  },
  {
    name: "an inner mask's loss that may fall again",
    file: "lib/sets/risk.ts",
    text: "worst = Math.max(worst, ",
    by: "worst = Math.max(0, ",
    tests: ["test/unit/sets.test.ts"],
  },
  {
    name: "scores that are not held against the best of the same resamples",
    file: "lib/study/score-ranks.ts",
    text: "drawn: minus(a.drawn, b.drawn)",
    by: "drawn: minus(a.drawn, b.drawn.toReversed())",
    tests: ["test/unit/score-ranks.test.ts"],
  },
];

/**
 * A file's text with the mistake.
 * @throws where what it replaces does not occur exactly once
 */
export function mutate(source: string, { name, file, text, by }: Mutant): string {
  const parts = source.split(text);
  if (parts.length !== 2)
    throw new Error(
      `Expected ${JSON.stringify(text)} once in ${file} for "${name}" but received it ${parts.length - 1} times.`,
    );
  return parts.join(by);
}
