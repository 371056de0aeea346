import { PAGE_STYLE } from "./page-style.js";

/** The page at /: choose an image, see its mask, heat map, AULA and decision. */
export function uploadPage(prefix: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>layer-ensembles</title>
<style>${PAGE_STYLE}
  #drop { border: 2px dashed var(--line); border-radius: .6rem; padding: 1.5rem; text-align: center; display: block; cursor: pointer; }
  #drop.over, #drop:focus-within { border-color: var(--accent); background: var(--soft); }
  #drop input { display: block; margin: .6rem auto 0; }
  #verdict { font-size: 1.25rem; font-weight: 600; margin: 1.2rem 0 .2rem; }
  #certificate { border-left: .25rem solid var(--good); padding: .1rem .8rem; margin: 1rem 0; }
  #certificate[data-state=stale], #certificate[data-state=void] { border-color: var(--bad); }
  #certificate b { display: block; }
  .accept { color: var(--good); } .review, .failed { color: var(--bad); }
  #pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem; margin: 1rem 0; }
  figure { margin: 0; }
  figure img { width: 100%; image-rendering: pixelated; background: #000; border-radius: .3rem; display: block; }
  .swatch { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .5em; }
  figcaption { font-size: .85rem; opacity: .8; margin-top: .3rem; }
</style>
<header><h1>layer-ensembles</h1><select id="model" aria-label="Model"></select>
<nav><a href="${prefix}/docs">API</a><a href="${prefix}/v1/models">models</a><a href="${prefix}/metrics">metrics</a></nav></header>
<p id="certificate" hidden></p>
<label id="drop">Drop an image here, or choose one (PNG, JPEG, TIFF)
<input type="file" id="file" accept=".png,.jpg,.jpeg,.tif,.tiff,.npy,.nii,.gz,.nrrd,.mha"></label>
<p id="verdict" role="status"></p>
<ul id="reasons"></ul>
<div id="pictures"></div>
<table id="numbers"></table>
<script>
const base = ${JSON.stringify(prefix)};
const at = (id) => document.getElementById(id);
const element = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
const fixed = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : "not defined");

const CERTIFIED = { valid: "Certified", stale: "Not certified: stale", void: "Not certified: void" };

/** Whether the chosen model is certified to say what is surely of a class, and what perhaps. */
let sets = false;

/** What is promised by the chosen model, or why nothing is. */
function showCertificate({ state, claim, message, alarm } = { state: "none" }) {
  const shown = at("certificate");
  shown.hidden = !CERTIFIED[state];
  shown.dataset.state = state;
  const most = alarm && Math.max(...Object.values(alarm.values));
  const watched = most === undefined ? "" : " " + alarm.cases + (alarm.cases === 1 ? " case" : " cases") + " watched since; alarm at " +
    Math.min(100, 100 * most / alarm.limit).toFixed(most < alarm.limit / 100 ? 1 : 0) + " % of its limit.";
  shown.replaceChildren(element("b", CERTIFIED[state] ?? ""), (state === "valid" ? claim + watched : message) ?? "");
}

async function readModels() {
  const { models } = await (await fetch(base + "/v1/models")).json();
  if (at("model").options.length === 0) for (const { name } of models) at("model").append(element("option", name));
  const certificate = models.find(({ name }) => name === at("model").value)?.certificate;
  sets = certificate?.sets !== undefined;
  showCertificate(certificate);
}
readModels();
at("model").addEventListener("change", readModels);

function colours(count) {
  const palette = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2"];
  return Array.from({ length: count }, (_, i) => palette[i % palette.length]);
}

/** The mask holds class numbers, which are too dark to see: paint them. */
async function paint(source, classes) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const shades = colours(classes).map((colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
  for (let i = 0; i < pixels.data.length; i += 4) {
    const label = classes === 1 ? Math.sign(pixels.data[i]) : pixels.data[i];
    pixels.data.set(label === 0 ? [0, 0, 0] : shades[label - 1], i);
  }
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

/** How much of it is surely of its class, and how much perhaps. */
function between({ inner, outer } = {}) {
  const parts = [inner !== undefined && "surely " + inner, outer !== undefined && "at most " + outer].filter(Boolean);
  return parts.length > 0 ? " (" + parts.join(", ") + ")" : "";
}

function show(answer) {
  const verdict = at("verdict");
  verdict.className = answer.decision ?? "";
  const words = { accept: "Accepted", review: "A person should look at this one" };
  verdict.textContent = words[answer.decision] ?? "No decision";
  at("reasons").replaceChildren(...answer.reasons.map(({ message }) => element("li", message)));
  const { aula, pairwiseAgreement, softDiceConfidence, summaries, area, score } = answer;
  const rows = [
    ["AULA", aula ? fixed(aula.value) + " of " + (answer.heads.length - 2) + (aula.empty ? " (empty)" : "") : "not defined"],
    ["AULA, normalised", fixed(aula?.normalised)],
    ["Pairwise agreement", fixed(pairwiseAgreement.overall)],
    ["Soft Dice confidence", fixed(softDiceConfidence.overall)],
    ["Entropy, mean", fixed(summaries.entropy?.mean)],
    ...(answer.predictedDice?.sentence ? [["Predicted Dice", answer.predictedDice.sentence]] : []),
    ...(score ? [["Gate", score.name + " at least " + Number(score.threshold.toPrecision(4))]] : []),
    ...Object.entries(area).map(([name, pixels], label, all) => [
      "Area of " + name, pixels + " pixels" + between(answer.sets?.[name]), label === 0 ? "#000" : colours(all.length - 1)[label - 1],
    ]),
  ];
  at("numbers").replaceChildren(...rows.map(([name, value, colour]) => {
    const row = element("tr", "");
    row.append(element("th", name), element("td", value));
    if (colour) {
      const swatch = Object.assign(element("span", ""), { className: "swatch" });
      swatch.style.background = colour;
      row.firstChild.prepend(swatch);
    }
    return row;
  }));
}

async function showPictures({ files, area, sets }) {
  const captions = {
    overlay: "Outline of the prediction" + (sets ? "; under the veil nobody can be sure" : ""), mask: "Mask", entropy: "Entropy: bright where the layers are unsure",
  };
  at("pictures").replaceChildren();
  for (const [name, caption] of Object.entries(captions)) {
    const file = files[name];
    if (file?.type !== "image/png") continue;
    const source = "data:image/png;base64," + file.data;
    const figure = element("figure", "");
    const image = Object.assign(new Image(), { src: name === "mask" ? await paint(source, Object.keys(area).length - 1) : source, alt: caption });
    figure.append(image, element("figcaption", caption));
    at("pictures").append(figure);
  }
}

async function predict(file) {
  const verdict = at("verdict");
  verdict.className = "";
  verdict.textContent = "…";
  for (const id of ["reasons", "pictures", "numbers"]) at(id).replaceChildren();
  const query = new URLSearchParams({ model: at("model").value, outputs: "mask,entropy,overlay" + (sets ? ",inner,outer" : "") });
  const body = new FormData();
  body.append("file", file);
  try {
    const response = await fetch(base + "/v1/predict?" + query, { method: "POST", body, headers: { accept: "application/json" } });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error.message);
    show(answer.images[0]);
    void readModels();
    await showPictures(answer.images[0]);
  } catch (error) {
    verdict.className = "failed";
    verdict.textContent = error.message;
  }
}

at("file").addEventListener("change", (event) => event.target.files[0] && predict(event.target.files[0]));
for (const [type, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
  at("drop").addEventListener(type, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", over);
    if (type === "drop" && event.dataTransfer.files[0]) predict(event.dataTransfer.files[0]);
  });
</script>
</html>
`;
}
