import type { NdArray } from "../arrays.js";
import type { Picture } from "../data/encode-png.js";
import { LayerEnsemblesError } from "../errors.js";
import { colourMap, predictionColour, truthColour } from "../pictures/colours.js";
import { heatMap, overlay } from "../pictures/render.js";
import { escapeHtml } from "../results/html.js";
import { mean } from "../statistics/spread.js";
import { agreementCurves } from "./figures/agreement.js";
import { type Callout, type Point, placeCallouts, RING } from "./figures/callouts.js";
import { drawChart } from "./figures/chart.js";
import { COLOURS, colourProperties, inline, textWidth } from "./figures/theme.js";

/** One test image of the demo, with what the ensemble made of it. All arrays have the image's H×W. */
export interface DemoImage {
  id: string;
  /** How hard the image is, such as "easy" or "hopeless". */
  difficulty: string;
  /** Dice of the prediction with the truth, in [0, 1]. */
  dice: number;
  /** AULA, in [0, K-2]. */
  aula: number;
  /** Agreement of neighbouring heads, K-1 values in [0, 1]. */
  agreements: readonly number[];
  /** H×W grey values. */
  image: NdArray<Uint8Array>;
  /** H×W labels. */
  truth: NdArray<Uint8Array>;
  /** H×W labels. */
  prediction: NdArray<Uint8Array>;
  /** H×W; needed for the two images that are shown in full. */
  entropy?: NdArray;
  /** K×H×W label map of each head, shallow to deep; needed for the two images that are shown in full. */
  labels?: NdArray<Uint8Array>;
}

/** What the demo's page shows. */
export interface DemoPage {
  images: readonly DemoImage[];
  /** Names of the K kept heads, shallow to deep. */
  heads: readonly string[];
  /** Number of classes, background included. */
  classes: number;
  /** Spearman's correlation of AULA with Dice over the images. */
  spearman: number;
  /** Id of the plain case shown in full. @default the highest AULA, of an "easy" image if there is one */
  easy?: string;
  /** Id of the hard case shown in full. @default the lowest AULA that has a prediction */
  hard?: string;
  /** How the result was made, one line each: network, epochs, time. */
  notes?: readonly string[];
}

/** Difficulties in the order of the legend; any other comes after. Groups are told apart without colour, too. */
const difficultyOrder = ["easy", "medium", "hard", "hopeless"];
const groupColours = [COLOURS.ideal, COLOURS.main, COLOURS.against, COLOURS.ink];
const groupShapes = ["circle", "square", "triangle-up", "cross"];

/** Most images in the gallery. */
const galleryLimit = 24;

/**
 * The ids of the two images that the page shows in full; `entropy` and `labels` are needed for these only.
 * @throws ERR_LE_VALUE for fewer than two images, or an id that is none of them
 */
export function pickCases(page: Omit<DemoPage, "spearman" | "classes" | "heads">): { easy: string; hard: string } {
  const { images } = page;
  if (images.length < 2) {
    throw new LayerEnsemblesError(
      "ERR_LE_VALUE",
      `Expected at least 2 images for the page but received ${images.length}`,
    );
  }
  for (const id of [page.easy, page.hard]) {
    if (id !== undefined && !images.some((image) => image.id === id)) {
      throw new LayerEnsemblesError("ERR_LE_VALUE", `Expected an image's id for the page but received "${id}"`);
    }
  }
  const byAula = [...images].sort((a, b) => b.aula - a.aula);
  const drawn = byAula.filter((image) => image.prediction.data.some((label) => label > 0));
  const plain = drawn.find((image) => image.difficulty === "easy" && image.dice > 0.9);
  const easy = page.easy ?? (plain ?? drawn[0] ?? byAula[0]!).id;
  const hard = page.hard ?? [...byAula, ...drawn].findLast(({ id }) => id !== easy)!.id;
  return { easy, hard };
}

/**
 * The demo's result as one HTML page that needs no other file and no network: an easy and a hard image layer by layer,
 * AULA against Dice, and all test images.
 * @throws ERR_LE_VALUE, ERR_LE_SHAPE for records that do not fit together
 */
export async function demoPage(page: DemoPage): Promise<string> {
  const { images, heads, spearman } = page;
  const { easy, hard } = pickCases(page);
  const find = (id: string) => images.find((image) => image.id === id)!;
  const cases = await Promise.all([
    caseColumn(find(easy), page, "Easy", "The layers agree"),
    caseColumn(find(hard), page, "Hard", "The layers disagree"),
  ]);
  const sorted = [...images].sort((a, b) => a.aula - b.aula);
  const gallery = await Promise.all(evenly(sorted, galleryLimit).map(card));
  const half = Math.floor(sorted.length / 2);
  const low = mean(sorted.slice(0, half).map((image) => image.dice));
  const high = mean(sorted.slice(sorted.length - half).map((image) => image.dice));
  const top = heads.length - 2;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Layer Ensembles: do the layers agree?</title>
<style>${styles}</style>
</head>
<body>
<main>
<header>
<h1>Ask every layer, then see whether they agree</h1>
<p class="lead">A segmentation network passes an image through layer after layer and draws one outline at the end. Here
${words(heads.length)} of its layers draw an outline each, in the same single pass. Where they agree, the result
tends to be right; where they keep changing their mind, it tends to be wrong. So the network can tell, without knowing the
truth, which of its results a person should check.</p>
</header>

<section>
<h2>Two images, layer by layer</h2>
<p class="legend"><span class="key truth">true outline</span> <span class="key prediction">the network’s outline</span></p>
<div class="cases">
${cases.map(({ head, pictures }) => `<article>${head}${pictures}</article>`).join("\n")}
</div>
<h3>What each layer thinks</h3>
<p>Layer 1 sits early in the network, layer ${heads.length} at its end.</p>
<div class="cases">
${cases.map(({ name, layers }) => `<div><h4>${name}</h4>${layers}</div>`).join("\n")}
</div>
<h3>How much neighbouring layers agree</h3>
<p>Each point compares the outlines of two neighbours: 1 means the same, 0 means nothing in common. The shaded area is
AULA, the <em>area under layer agreement</em>: at most ${top} for ${words(heads.length)} layers.</p>
<div class="charts">
${cases.map(({ chart }) => `<div>${chart}</div>`).join("\n")}
</div>
</section>

<section>
<h2>${spearman >= 0.5 ? "Little agreement, poor result" : "Agreement and quality"}</h2>
<div class="finding">
<div class="chart">${await scatter(page, { easy, hard })}</div>
<div>
<p>Each mark is one of ${images.length} test images. AULA comes from the layers alone; Dice needs the truth (1: the outlines
coincide, 0: they do not meet).</p>
<p class="number"><strong>${signed(spearman)}</strong> Spearman’s rank correlation of the two</p>
<p class="number"><strong>${high.toFixed(2)}</strong> mean Dice of the half with the higher AULA</p>
<p class="number"><strong>${low.toFixed(2)}</strong> mean Dice of the half with the lower AULA</p>
</div>
</div>
</section>

<section>
<h2>Which to check first</h2>
<p>${gallery.length < images.length ? `${gallery.length} of the ${images.length} test images` : "All test images"}, least
agreement first.</p>
<div class="gallery">
${gallery.join("\n")}
</div>
</section>

<footer>
<h2>How this was made</h2>
<ul>
<li>The images are made up: tissue layers, speckle, and one lesion each, plain or faint, sharp or blurred. Some are
hopeless on purpose: the lesion is weaker than the speckle. So the truth is known exactly.</li>
${(page.notes ?? []).map((note) => `<li>${escapeHtml(note)}</li>`).join("\n")}
<li>Layers, in the order in which they run: ${heads.map((name, i) => `${i + 1} <code>${escapeHtml(name)}</code>`).join(", ")}.</li>
<li>Dice of two areas is twice what they share, divided by the sum of both. Entropy is that of the mean of all layers’
probabilities. Method: Kushibar et al., “Layer Ensembles”, MICCAI 2022.</li>
</ul>
</footer>
</main>
</body>
</html>
`;
}

/** AULA against Dice: a mark for each image, of its difficulty's colour and shape, and rings around the two that are shown in full. */
async function scatter({ images, heads }: DemoPage, cases: { easy: string; hard: string }): Promise<string> {
  const top = Math.max(1, heads.length - 2);
  const low = Math.max(0, Math.floor(Math.min(...images.map(({ aula }) => aula - 0.2))));
  const known = difficultyOrder.filter((name) => images.some(({ difficulty }) => difficulty === name));
  const groups = [...new Set([...known, ...images.map(({ difficulty }) => difficulty)])];
  const values = images.map(({ id, aula, dice, difficulty }) => ({
    aula,
    dice,
    difficulty,
    title: `${id}: AULA ${aula.toFixed(2)}, Dice ${dice.toFixed(2)}`,
    label: id === cases.easy ? "easy case" : id === cases.hard ? "hard case" : null,
  }));
  const x = {
    field: "aula",
    type: "quantitative",
    title: `AULA (0 to ${heads.length - 2}; higher: the layers agree more)`,
    scale: { domain: [low, top], nice: false },
    axis: { tickCount: 5 },
  };
  const y = { field: "dice", type: "quantitative", title: "Dice with the truth", scale: { domain: [0, 1] } };
  const group = (range: readonly string[]) => ({
    field: "difficulty",
    type: "nominal",
    title: null,
    scale: { domain: groups, range: groups.map((_, i) => range[i % range.length]) },
  });
  const area = { width: 330, height: 270 };
  const at = ({ aula, dice }: { aula: number; dice: number }) => ({
    x: ((aula - low) / (top - low)) * area.width,
    y: (1 - dice) * area.height,
  });
  const labelled = values.flatMap(({ label, ...value }) => (label === null ? [] : [{ ...value, label }]));
  const size = (text: string) => ({ width: textWidth(text, 13), height: 14 });
  const callouts = placeCallouts(
    values.map(at),
    labelled.map((value) => ({ at: at(value), ...size(value.label) })),
    area,
  );
  const shown = labelled.flatMap((value, i) => {
    const { x: left, y: above } = at(value);
    const { centre, from, to } = callouts[i] as Callout;
    // A ring, and a line to the label; a shape's unit is the ring's radius.
    const end = (point: Point) => `${(point.x - left) / RING},${(point.y - above) / RING}`;
    const shape = `M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0M${end(from)}L${end(to)}`;
    const ring = { type: "point", shape, size: (2 * RING) ** 2, color: COLOURS.ink, strokeWidth: 1.4, opacity: 1 };
    const place = { align: "center", baseline: "middle", dx: centre.x - left, dy: centre.y - above };
    const label = { type: "text", text: value.label, fontWeight: "bold", ...place };
    const halo = { ...label, stroke: COLOURS.page, strokeWidth: 4, strokeJoin: "round" };
    return [ring, halo, label].map((mark) => ({ data: { values: [value] }, mark, encoding: { x, y } }));
  });
  const svg = await drawChart(
    {
      ...area,
      data: { values },
      layer: [
        {
          mark: { type: "point", filled: true, opacity: 0.75, size: 60 },
          encoding: { x, y, color: group(groupColours), shape: group(groupShapes), description: { field: "title" } },
        },
        ...shown,
      ],
    },
    `AULA against Dice of ${images.length} test images`,
  );
  // What a mark is is shown when it is pointed at.
  return inline(svg.replace(/<path aria-label="([^"]*)"([^>]*)\/>/g, "<path$2><title>$1</title></path>"), "scatter");
}

async function caseColumn(shown: DemoImage, page: DemoPage, name: string, verdict: string) {
  const { image, truth, prediction, entropy, labels, aula, dice, agreements, id } = shown;
  const [height, width] = image.shape as [number, number];
  const heads = page.heads.length;
  if (labels?.shape[0] !== heads || labels.shape[1] !== height || labels.shape[2] !== width || !entropy) {
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected entropy and ${heads}×${height}×${width} labels for image "${id}" but received ` +
        `${entropy ? "entropy" : "no entropy"} and ${labels ? `labels of shape [${labels.shape}]` : "no labels"}`,
    );
  }
  const top = Math.log(page.classes);
  const scale = Math.max(1, Math.round(384 / Math.max(height, width)));
  const [plain, drawn, unsure] = await Promise.all([
    figure(overlay(image, { scale }), `The image ${id}`, "What the network sees"),
    figure(overlay(image, { truth, prediction, scale, lineWidth: 1.7 }), `Outlines on ${id}`, "What it draws"),
    figure(heatMap(entropy, { range: [0, top], scale }), `Entropy of ${id}`, `Where it is unsure ${colourBar(top)}`),
  ]);
  const panels = await Promise.all(
    page.heads.map((head, k) => {
      const label = {
        data: labels.data.subarray(k * height * width, (k + 1) * height * width),
        shape: [height, width],
      };
      const small = Math.max(1, Math.round(192 / Math.max(height, width)));
      const picture = overlay(image, { truth, prediction: label, scale: small, lineWidth: 1.2, tint: 0.4 });
      return figure(picture, `Outline of layer ${k + 1}, ${head}, on ${id}`, String(k + 1), head);
    }),
  );
  const numbers = `<dl><div><dt>AULA</dt><dd>${aula.toFixed(2)}<small> of ${heads - 2}</small></dd></div>
<div><dt>Dice</dt><dd>${dice.toFixed(2)}</dd></div></dl>`;
  const title = `${name}: AULA ${aula.toFixed(2)}`;
  const chart = await agreementCurves([{ title, agreements }], 330, "layers");
  return {
    name: title,
    head: `<h3>${verdict}</h3>${numbers}`,
    pictures: `<div class="pictures">${plain}${drawn}${unsure}</div>`,
    layers: `<div class="layers" style="--columns:${Math.min(5, Math.ceil(heads / 2))}">${panels.join("")}</div>`,
    chart: inline(chart, name.toLowerCase()),
  };
}

async function card(shown: DemoImage): Promise<string> {
  const { image, truth, prediction, id, aula, dice, difficulty } = shown;
  const scale = Math.max(1, Math.round(256 / Math.max(...image.shape)));
  const caption = `<b>AULA ${aula.toFixed(2)}</b> <span>Dice ${dice.toFixed(2)}</span> <i>${escapeHtml(difficulty)}</i>`;
  return figure(overlay(image, { truth, prediction, scale, lineWidth: 1 }), `Outlines on ${id}`, caption, id);
}

async function figure(picture: Picture, alt: string, caption: string, title = ""): Promise<string> {
  const { width, height } = picture;
  const hint = title && ` title="${escapeHtml(title)}"`;
  const image = `<img src="${await dataUrl(picture)}" width="${width}" height="${height}" alt="${escapeHtml(alt)}">`;
  return `<figure${hint}>${image}<figcaption>${caption}</figcaption></figure>`;
}

async function dataUrl({ data, width, height }: Picture): Promise<string> {
  const { default: sharp } = await import("sharp");
  const bytes = await sharp(data, { raw: { width, height, channels: 3 } })
    .webp({ quality: 88, smartSubsample: true })
    .toBuffer();
  return `data:image/webp;base64,${bytes.toString("base64")}`;
}

function colourBar(top: number): string {
  const table = colourMap("magma");
  const stops = [0, 51, 102, 153, 204, 255].map((i) => `rgb(${table.subarray(i * 3, i * 3 + 3).join(" ")})`);
  const bar = `<span class="bar" style="background:linear-gradient(90deg,${stops.join(",")})"></span>`;
  return `<span class="scale">0 ${bar} ${top.toFixed(2)}</span>`;
}

function evenly<T>(items: readonly T[], most: number): T[] {
  if (items.length <= most) return [...items];
  return Array.from({ length: most }, (_, i) => items[Math.round((i * (items.length - 1)) / (most - 1))]!);
}

function signed(value: number): string {
  return Number.isNaN(value) ? "not defined" : value.toFixed(2).replace("-", "−");
}

function words(n: number): string {
  return ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"][n] ?? String(n);
}

const rgb = (colour: readonly number[]) => `rgb(${colour.join(" ")})`;

const styles = `
:root {
  ${colourProperties("light")}
  --truth: ${rgb(truthColour)}; --prediction: ${rgb(predictionColour)};
}
@media (prefers-color-scheme: dark) {
  :root { ${colourProperties("dark")} }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 17px/1.55 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 2.5rem 1rem 3rem; }
h1 { font-size: clamp(1.7rem, 5vw, 2.6rem); line-height: 1.15; margin: 0 0 .8rem; text-wrap: balance; }
h2 { font-size: 1.45rem; line-height: 1.25; margin: 0 0 .5rem; }
h3 { font-size: 1.1rem; margin: 0 0 .3rem; }
h4 { font-size: 1rem; margin: 0 0 .4rem; font-weight: 600; }
p { margin: 0 0 .9rem; max-width: 66ch; }
.lead { font-size: 1.1rem; }
section, footer { border-top: 1px solid var(--grid); margin-top: 2.2rem; padding-top: 1.6rem; }
section > h3 { margin-top: 2rem; }
.cases { display: grid; grid-template-columns: 1fr 1fr; gap: clamp(.8rem, 3vw, 2rem); }
article { display: grid; grid-template-rows: subgrid; grid-row: span 3; gap: 0; }
.cases > *, .charts > * { min-width: 0; }
dl { display: flex; flex-wrap: wrap; gap: 0 1.6rem; margin: 0 0 .6rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
dd small { font-size: .85rem; color: var(--soft); }
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; height: auto; border-radius: 3px; }
figcaption { font-size: .85rem; line-height: 1.35; color: var(--soft); padding: .25rem 0 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); gap: .7rem; }
.layers { display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: .4rem; }
@media (max-width: 640px) { .layers { grid-template-columns: 1fr 1fr; } .pictures { grid-template-columns: 1fr !important; } }
.layers figcaption { text-align: center; padding: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 1.2rem 2rem; }
.finding { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 1rem 2.5rem; }
.chart { max-width: 560px; }
.number { display: flex; gap: .8rem; align-items: baseline; line-height: 1.3; }
.number strong { font-size: 1.9rem; font-variant-numeric: tabular-nums; min-width: 4.2rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: .9rem .8rem; }
.gallery b { color: var(--ink); } .gallery i { display: block; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; }
.key::before { content: ""; display: inline-block; width: 1.6em; height: 4px; border-radius: 2px; margin-right: .5em;
  vertical-align: middle; outline: 1px solid #0005; }
.truth::before { background: var(--truth); } .prediction::before { background: var(--prediction); }
.scale { white-space: nowrap; } .bar { display: inline-block; width: 3.2em; height: .6em; vertical-align: baseline; }
svg { display: block; width: 100%; height: auto; }
footer { font-size: .95rem; color: var(--soft); } footer h2 { color: var(--ink); font-size: 1.15rem; }
footer ul { padding-left: 1.1rem; margin: 0; } footer li { margin-bottom: .4rem; }
code { font-size: .88em; overflow-wrap: anywhere; }
`;
