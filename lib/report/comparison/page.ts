import type { Comparison } from "../../results/comparison.js";
import { escapeHtml } from "../../results/html.js";
import { COMPARED_MEASURES, FAILURE_NAMES, MEASURES, RANKINGS } from "../../results/measures.js";
import { toHtml } from "../../results/table.js";
import {
  alarmTable,
  calibrationTable,
  correlationTable,
  costTable,
  failureTable,
  qualityTable,
  runCoverageTable,
  runLesionsTable,
  runsTable,
  scoresTable,
  shiftTable,
  sizesTable,
  testsTable,
} from "../../results/tables.js";
import { METHOD_TITLES } from "../../runs/methods.js";
import { CONFIDENCES, confidenceText, confidenceTitle } from "../../scores/scores.js";
import type { Figure } from "../figures/index.js";
import { inline } from "../figures/theme.js";
import { styles } from "./styles.js";
import { summarise } from "./summary.js";

/** What each column means, in a line. */
const definitions: readonly [term: string, meaning: string][] = [
  ...(Object.values(COMPARED_MEASURES).map((name) => [MEASURES[name].title, MEASURES[name].text]) as [
    string,
    string,
  ][]),
  [MEASURES.ece.title, MEASURES.ece.text],
  ...CONFIDENCES.map((name): [string, string] => [confidenceTitle(name), confidenceText(name)]),
  ...FAILURE_NAMES.map((name): [string, string] => [RANKINGS[name].title, RANKINGS[name].text]),
  ["AUROC in/out", "chance that a shifted image gets the lower confidence than one in distribution"],
  ["flagged", "share of images with a confidence below the threshold, which was set in distribution"],
];

/**
 * A comparison as one HTML page that needs no other file, no script and no network.
 * @param figures those of {@link comparisonFigures}
 */
export function comparisonPage(comparison: Comparison, figures: readonly Figure[]): string {
  const { data, shift, bootstrap } = comparison;
  const draw = (...names: readonly string[]) =>
    figures
      .filter((figure) => names.some((name) => figure.name.startsWith(name)))
      .map(figureHtml)
      .join("\n");
  const heads = draw("figure-3", "figure-4", "figure-5");
  const acceptance = draw("figure-8");
  const unit = bootstrap.unit === "group" ? "groups (patients)" : "images";
  const scored = comparison.scored.map((index) => comparison.classNames[index] ?? String(index));
  const facts: [string, string][] = [
    [
      "Images",
      `${data.images}${data.groups > 0 ? ` (${data.groups} groups)` : ""}, split ${data.split} of ${data.folder}`,
    ],
    ["Classes scored", scored.join(", ")],
    ["Spacing", comparison.spacing ? `${comparison.spacing.join(" × ")} per pixel` : "each volume’s own, in mm"],
    ["Failed", `Dice below ${comparison.tau}`],
    ["Seeds", seeds(comparison)],
    ["Intervals", `95 % bootstrap over ${unit}, ${bootstrap.resamples} resamples, seed ${bootstrap.seed}`],
    ...(shift
      ? [["Shifted images", `${shift.images}, split ${shift.split} of ${shift.folder}`] as [string, string]]
      : []),
  ];
  const methods = comparison.methods.map(({ method }) => {
    const { short, long } = METHOD_TITLES[method];
    return `<b>${escapeHtml(short)}</b> ${escapeHtml(long)}`;
  });
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${escapeHtml(comparison.title)}</title>
<style>${styles}</style>
</head>
<body>
<main>
<header>
<h1>${escapeHtml(comparison.title)}</h1>
<dl class="facts">
${facts.map(([term, fact]) => `<div><dt>${escapeHtml(term)}</dt><dd>${escapeHtml(fact)}</dd></div>`).join("\n")}
</dl>
<p>Methods: ${methods.join(", ")}.</p>
</header>

<section>
<h2>In words</h2>
<ul>
${summarise(comparison)
  .map((sentence) => `<li>${escapeHtml(sentence)}</li>`)
  .join("\n")}
</ul>
<p class="note">${note(comparison)}</p>
</section>

<section>
<h2>Quality</h2>
${toHtml(qualityTable(comparison))}
${toHtml(sizesTable(comparison))}
${toHtml(runLesionsTable(comparison))}
${toHtml(testsTable(comparison))}
${draw("figure-1")}
</section>

<section>
<h2>Does uncertainty find the failures?</h2>
${toHtml(correlationTable(comparison))}
${toHtml(failureTable(comparison))}
${draw("figure-2")}
${toHtml(scoresTable(comparison))}
${toHtml(runCoverageTable(comparison))}
${draw("figure-9")}
</section>
${heads ? `\n<section>\n<h2>The heads of the Layer Ensemble</h2>\n${heads}\n</section>\n` : ""}
${acceptance ? `\n<section>\n<h2>What a certificate would accept</h2>\n${acceptance}\n</section>\n` : ""}
<section>
<h2>Calibration</h2>
${toHtml(calibrationTable(comparison))}
${draw("figure-6")}
</section>

<section>
<h2>Cost</h2>
${toHtml(costTable(comparison))}
</section>
${
  shift
    ? `
<section>
<h2>Out of distribution</h2>
${toHtml(shiftTable(comparison))}
${toHtml(alarmTable(comparison))}
${draw("figure-7")}
</section>
`
    : ""
}
<section>
<h2>What the columns mean</h2>
<dl class="definitions">
${definitions.map(([term, meaning]) => `<div><dt>${escapeHtml(term)}</dt><dd>${escapeHtml(meaning)}</dd></div>`).join("\n")}
</dl>
<p>Formulas, ranges, sources and example values: <code>docs/metrics.md</code> of layer-ensembles.</p>
</section>

<section>
<h2>How this was made</h2>
${toHtml(runsTable(comparison))}
<dl class="facts">
${Object.entries(comparison.made)
  .map(([term, fact]) => `<div><dt>${escapeHtml(term)}</dt><dd>${escapeHtml(fact)}</dd></div>`)
  .join("\n")}
</dl>
</section>
</main>
</body>
</html>
`;
}

function note({ methods }: Comparison): string {
  const several = methods.some((method) => method.runs.length > 1);
  return `${several ? "A value is the mean over the seeds. " : ""}Brackets hold the 95 % interval. <b>★</b> marks the best of a column by its value alone, whether or not the difference is more than chance. – stands where a value is not defined: a method without layers has no AULA, one head has no agreement, a distance to an empty mask is left out of the mean (the number of images that are left is then given).`;
}

function seeds({ methods, runs }: Comparison): string {
  const all = methods.map((method) => method.runs.map((index) => runs[index]?.seed).join(", "));
  if (new Set(all).size === 1) return all[0]!;
  return methods.map((method, i) => `${METHOD_TITLES[method.method].short} ${all[i]}`).join("; ");
}

function figureHtml({ name, title, caption, svg }: Figure): string {
  const heading = /^figure-(\d\w?)/.exec(name)?.[1];
  return `<figure id="${escapeHtml(name)}">
<div class="scroll" role="region" tabindex="0" aria-label="${escapeHtml(title)}">${inline(svg, name)}</div>
<figcaption><b>${heading ? `Figure ${heading}. ` : ""}${escapeHtml(title)}.</b> ${escapeHtml(caption)}</figcaption>
</figure>`;
}
