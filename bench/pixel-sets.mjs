// Do inner and outer masks keep their promise? Over random halves of a split, by group: thresholds from one half, the loss on the
// other.
//
//     node bench/pixel-sets.mjs RUN [SPLIT …] [--alpha 0.05,0.1,0.2] [--splits 100] [--data FOLDER] [--skip T]
import { parseArgs } from "node:util";
import { folderItems, infer, openRun } from "../dist/inference/inference.js";
import { fitPixelSets, pixelSetRisk } from "../dist/metrics/index.js";
import { Random } from "../dist/random.js";
import { SHARES } from "../dist/sets/risk.js";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    alpha: { type: "string", default: "0.05,0.1,0.2" },
    splits: { type: "string", default: "100" },
    data: { type: "string" },
    skip: { type: "string" },
  },
});
const [folder, ...splits] = positionals;
if (!folder) throw new Error("Expected a run folder.");

const images = await imagesOf(folder, splits.length > 0 ? splits : ["test"]);
const groups = [...new Set(images.map(({ group }) => group))];
console.log(`${folder}: ${images.length} images in ${groups.length} groups`);
console.log("class  set    α      loss ± se        sd of splits  λ (mean)  size of image  truth  no mask");
for (const alpha of values.alpha.split(",").map(Number))
  for (const row of measure(alpha, Number(values.splits))) console.log(row);

async function imagesOf(run, splits) {
  const { model, notes } = await openRun(run, {});
  const found = [];
  try {
    for (const split of splits) {
      const data = values.data ?? notes.data.folder;
      const items = await folderItems(data, split, notes, { masks: "required", allowDuplicates: true });
      for await (const { id, group, probabilities, truth } of infer(model, items, {
        ...(values.skip && { skip: Number(values.skip) }),
        signal: new AbortController().signal,
      })) {
        const risk = pixelSetRisk(probabilities, truth, { ignoreIndex: notes.ignoreIndex });
        const area = truth.data.reduce((sum, label) => sum + (label === 1 ? 1 : 0), 0) / truth.data.length;
        found.push({ group: group ?? id, risk, area });
      }
    }
  } finally {
    await model.dispose();
  }
  return found;
}

function* measure(alpha, rounds) {
  const random = new Random(0);
  const classes = Object.keys(images[0].risk.perClass);
  const found = Object.fromEntries(classes.flatMap((c) => ["inner", "outer"].map((set) => [`${c} ${set}`, []])));
  for (let round = 0; round < rounds; round++) {
    const half = new Set(random.shuffled(groups).slice(0, groups.length >> 1));
    const [calibration, test] = [true, false].map((own) => images.filter(({ group }) => half.has(group) === own));
    const { perClass } = fitPixelSets(
      calibration.map(({ risk }) => risk),
      { inner: alpha, outer: alpha, groups: calibration.map(({ group }) => group) },
    );
    for (const c of classes)
      for (const set of ["inner", "outer"]) {
        const { share } = perClass[c][set];
        const j = share === null ? -1 : SHARES.indexOf(share);
        const curves = test.map(({ group, risk }) => ({ group, ...risk.perClass[c][set] })).filter(({ loss }) => loss);
        const at = (key) => (j < 0 ? 0 : meanByGroup(curves.map((curve) => [curve.group, curve[key][j]])));
        found[`${c} ${set}`].push({ loss: at("loss"), size: at("size"), share });
      }
  }
  const area = mean(images.map((image) => image.area));
  for (const [name, rows] of Object.entries(found)) {
    const some = rows.filter(({ share }) => share !== null);
    const losses = rows.map(({ loss }) => loss);
    const sd = Math.sqrt(mean(losses.map((loss) => (loss - mean(losses)) ** 2)));
    const text = [
      mean(losses),
      sd / Math.sqrt(rows.length),
      sd,
      mean(some.map(({ share }) => share)),
      mean(some.map(({ size }) => size)),
      area,
    ];
    yield [name.padEnd(12), alpha, ...text.map((value) => value.toFixed(4)), rows.length - some.length].join("  ");
  }
}

function meanByGroup(pairs) {
  const groups = Map.groupBy ? Map.groupBy(pairs, ([group]) => group) : groupBy(pairs);
  return mean([...groups.values()].map((of) => mean(of.map(([, value]) => value))));
}

function groupBy(pairs) {
  const groups = new Map();
  for (const pair of pairs) groups.set(pair[0], [...(groups.get(pair[0]) ?? []), pair]);
  return groups;
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
