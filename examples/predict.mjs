// Segments one image with a run that `layer-ensembles train` made.   node predict.mjs RUN IMAGE
import { LayerEnsemble, preprocess, readImage, restoreLabels } from "layer-ensembles";

const [run, file] = process.argv.slice(2);
const model = await LayerEnsemble.load(run);
const { image, placement } = preprocess(await readImage(file), model.run.notes.preprocessing);
const { mask, aula } = await model.predict(image);
const pixels = restoreLabels(mask, placement).data.filter((label) => label > 0).length;
console.log(`${file}: ${pixels} foreground pixels, AULA ${aula.normalised.toFixed(3)} (1: all layers agree)`);
await model.dispose();
