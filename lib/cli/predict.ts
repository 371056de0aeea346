import path from "node:path";
import type { Command } from "commander";
import type { NdArray } from "../arrays.js";
import { croppedOf } from "../data/cropped.js";
import { writeAtomic } from "../data/files.js";
import { orientBack } from "../data/orientation.js";
import { storedGrid } from "../data/preprocess.js";
import type { VolumeHead } from "../data/stored.js";
import { type Model, PREDICT } from "../ensemble/model.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Result } from "../inference/inference.js";
import {
  type Extent,
  extentOf,
  millilitresOf,
  type PlaceRecord,
  placeRecord,
  predictionRecord,
} from "../inference/record.js";
import { option, type Values } from "../options.js";
import { toText } from "../results/table.js";
import type { Certificate } from "../runs/certificate.js";
import type { Run } from "../runs/run.js";
import { STRUCTURES, type Structure, type StructuresOptions, structures } from "../scores/structures.js";
import { checkThresholds, type PixelSets, SETS, type SetThresholds, setsOf, thresholdsOf } from "../sets/index.js";
import { imageColumn } from "../study/tables.js";
import type { MapName } from "../uncertainty/index.js";
import { MAPS } from "../uncertainty/index.js";
import type { PixelMap } from "../uncertainty/maps.js";
import { VOLUME_FORMATS } from "../volumes/formats.js";
import { givenOf, withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson, UsageError } from "./command.js";
import { noteCropped } from "./cropped-note.js";
import { DEVICE } from "./device-options.js";
import { labelSpecs, labelsOf, noteUnclear, noteWarnings } from "./label-options.js";
import { counter, StatusLine } from "./progress.js";
import { atOwnSize, noteTiles, TILE_PARSERS, TILING, tilesOf } from "./tile-options.js";
import { SERIES_OPTIONS, seriesOf } from "./volume-options.js";

const { skip, fusion, maps, batchSize } = PREDICT;

/** A format that says where voxels lie, and its files' ending. */
interface Writable {
  name: string;
  /** The format of images whose results are written so. */
  of: string;
  ending: string;
}
const WRITABLE: readonly Writable[] = [
  ...VOLUME_FORMATS.flatMap(({ name, placeless, write = {} }) => {
    const [ending] = Object.keys(write);
    return ending === undefined || placeless ? [] : [{ name, of: name, ending }];
  }),
  // Segmentations and parametric maps, which refer to the series that they were made of.
  { name: "seg", of: "dicom", ending: ".dcm" },
];

/** What volumes are written as: see `--format`. */
const FORMATS = ["same", "npy", ...WRITABLE.map(({ name }) => name)];
type Format = (typeof FORMATS)[number];

const OPTIONS = {
  run: option.required(option.string({ text: "run folder", arg: "dir" })),
  data: option.string({ text: "data folder; masks in it are drawn in the overlays", arg: "dir" }),
  split: option.string({ otherwise: "all", text: "which of its images", arg: "name" }),
  out: option.required(option.string({ text: "folder to write to", arg: "dir" })),
  skip,
  fusion,
  maps: option.with(maps, { default: ["entropy"], text: "heat maps to write, or none" }),
  sets: option.with(SETS, {
    otherwise: "as certified, else no such masks",
    text: "thresholds of inner and outer masks to write, as 0.4,0.98, or none,0.98",
    arg: "list",
  }),
  structures: option.with(option.anyOf(STRUCTURES.minVoxels, option.oneOf([true])), {
    text: "scores of each connected part of more than n pixels (voxels), largest first; without n of every part",
    ...{ otherwise: "none", arg: "n" },
  }),
  format: option.oneOf(FORMATS, {
    default: "same",
    text: "of volumes: the format to write; seg: DICOM that refers to the image's series; same: as the image, else NIfTI",
    arg: "name",
  }),
  limit: option.integer({ min: 1, otherwise: "all", text: "at most so many images" }),
  batchSize,
  ...TILING,
  ...labelSpecs({ labels: "as the run's", ignore: "the run's" }),
  ...SERIES_OPTIONS,
  ...DEVICE,
};

interface Flags extends Values<typeof OPTIONS> {
  json?: boolean;
}

/** `predict`: masks, probabilities, heat maps, overlays, and how far to trust each. */
export function predictCommand(): Command {
  const command = newCommand(
    "predict",
    "segment images with a run, and say how far to trust each result",
    "layer-ensembles predict --run runs/busi --data data/busi --split test --out predictions\n" +
      "layer-ensembles predict --run runs/busi --out predictions image1.png image2.png",
    "For each image: mask, probability, heat-map and overlay PNGs at its stored size, and a line in predictions.jsonl. " +
      "For each volume: the same in its own grid and format, with an overlay in three planes (without a grid: of its middle slice).",
  ).argument("[images...]", "image files, or folders of DICOM files, instead of --data");
  return withOptions(command, OPTIONS, TILE_PARSERS).action((images: string[], flags: Flags) =>
    runSession(flags.json ?? false, (session) => predict(images, flags, session)),
  );
}

async function predict(images: string[], flags: Flags, session: Session): Promise<void> {
  if (images.length > 0 && flags.data !== undefined) throw new UsageError("expected image files or --data, not both");
  if (images.length === 0 && flags.data === undefined) throw new UsageError("expected image files or --data <dir>");
  if (flags.split !== undefined && flags.data === undefined) throw new UsageError("--split needs --data <dir>");
  const { checkOutput, writeTogether } = await import("./output.js");
  const { fileItems, folderItems, infer, notesAtOwnSize, openRun } = await import("../inference/inference.js");
  checkOutput(flags.out, "--out");
  const { model, run, notes: ofRun } = await openRun(flags.run, flags);
  const line = new StatusLine(process.stderr);
  const dicom = { ...ofRun.data.dicom, ...seriesOf(flags) };
  try {
    const notes = atOwnSize(flags) ? notesAtOwnSize(ofRun) : ofRun;
    noteTiles(session, model, run, flags);
    const all =
      flags.data === undefined
        ? await fileItems(images, notes, { dicom })
        : await folderItems(flags.data, flags.split ?? "all", notes, {
            masks: "optional",
            labels: labelsOf(flags),
            allowDuplicates: true,
            dicom,
            onUnclear: (mask) => noteUnclear(session, mask),
          });
    const thresholds = await thresholdsFor(run, model.precision, flags, session);
    const format = flags.format ?? OPTIONS.format.default;
    const writing = await checkedFor(format, notes.classNames, thresholds);
    const items = all.slice(0, flags.limit ?? all.length).map((item) => ({
      ...item,
      // What cannot be written is not predicted first.
      load: async () => {
        const loaded = await item.load();
        if ("grid" in loaded.placement) writing(item.id, loaded.volume);
        return loaded;
      },
    }));
    const { structures: parts } = flags;
    const options = {
      signal: session.signal,
      ...givenOf(flags, { skip, fusion, batchSize }),
      ...tilesOf(flags),
      ...(parts !== undefined && { labels: true }),
    };
    const { stale } = model.predictedDice;
    if (stale) session.note(`warning: ${stale}`);
    const records: PredictionRecord[] = [];
    const tell = counter(line, "predicting", items.length);
    await writeTogether(flags.out, "predictions.jsonl", async (folder) => {
      for await (const result of infer(model, items, options)) {
        const shown = { ...result, sets: thresholds && setsOf(result.probabilities, thresholds) };
        const how = {
          folder,
          classNames: notes.classNames,
          wanted: flags.maps ?? OPTIONS.maps.default,
          ignoreIndex: notes.ignoreIndex,
          format,
        };
        const files = await (result.mask.shape.length === 3 ? writeVolumes : writePictures)(shown, how);
        const extent = extentOfShown(shown, notes.classNames.length);
        const place = placeRecord(result.placement, extent.areas, notes);
        for (const unlike of place?.unlikeTraining ?? []) session.note(`warning: ${result.id}: ${unlike}`);
        noteWarnings(
          session,
          (result.volume?.warnings ?? []).map((warning) => `${result.id}: ${warning}`),
        );
        records.push({
          ...recordOf(shown, extent, notes.classNames, files),
          ...(place && { place }),
          ...(parts !== undefined && {
            structures: await structuresOf(result, notes.classNames, {
              minVoxels: parts === true ? 0 : parts,
              ordered: model.method === "le",
            }),
          }),
        });
        tell(records.length);
      }
      await writeAtomic(path.join(folder, "predictions.jsonl"), records.map((record) => toJson(record)).join(""));
    });
    line.clear();
    const cropped = croppedOf(records.map(({ cropped = 0 }) => cropped));
    noteCropped(session, cropped, records.length, notes.preprocessing.size);
    if (session.json) for (const record of records) await session.print(toJson(record));
    else await session.print(`${describe(records)}\nWritten to ${flags.out}: predictions.jsonl and pictures\n`);
  } finally {
    line.clear();
    await model.dispose();
  }
}

/** Thresholds of inner and outer masks by class: as given, else of the run's certificate; undefined where neither has any. */
async function thresholdsFor(
  run: Run,
  precision: Model["precision"],
  { run: folder, sets, skip, fusion, ...flags }: Flags,
  session: Session,
): Promise<Record<number, SetThresholds> | undefined> {
  if (sets) return checkThresholds(thresholdsOf(sets), run.ensemble.classes);
  const { certifiedSets, inPrecision, readCertificate, verifyCertificate } = await import("../runs/certificate.js");
  const certificate = await readCertificate(folder).catch((error: Error) => error);
  // Of one that is damaged nobody knows whether it had any.
  if (!(certificate instanceof Error) && !(certificate as Partial<Certificate> | undefined)?.sets) return undefined;
  const found = certifiedSets(inPrecision(await verifyCertificate(folder), precision), run, {
    skip,
    fusion,
    ...tilesOf(flags),
  });
  if (!found.thresholds) session.note(`No inner and outer masks: ${found.message}`);
  return found.thresholds;
}

/** With its inner and outer masks, where they were asked for. */
interface Shown extends Result {
  sets: Record<number, PixelSets> | undefined;
}

/** What one line of predictions.jsonl says. */
type PredictionRecord = ReturnType<typeof recordOf> & {
  place?: PlaceRecord;
  structures?: StructureRecord[];
};

/** How one image's files are written. */
interface Writing {
  folder: string;
  classNames: readonly string[];
  /** Maps to write. */
  wanted: readonly MapName[];
  ignoreIndex: number;
  /** Of volumes. */
  format: Format;
}

/** In the order of the file's pixels. */
function extentOfShown({ mask, orientation, cropped, sets }: Shown, classes: number): Extent {
  return extentOf(orientBack(mask, orientation), classes, { cropped, orientation }, sets);
}

function recordOf(
  { id, prediction }: Shown,
  extent: Extent,
  classNames: readonly string[],
  files: Record<string, string>,
) {
  return { id, ...predictionRecord(prediction, extent, classNames), files };
}

type StructureRecord = Omit<Structure, "class"> & { class: string };

/** In the order of the file's pixels, classes by name. */
async function structuresOf(
  { mask, labels, probabilities, orientation, placement }: Result,
  classNames: readonly string[],
  options: StructuresOptions,
): Promise<StructureRecord[]> {
  const input = {
    mask: orientBack(mask, orientation),
    labels: orientBack(labels as NdArray<Uint8Array>, orientation),
    probabilities: orientBack(probabilities, orientation),
  };
  const grid = storedGrid(placement);
  return structures(input, options).map((one) => ({
    ...{ ...one, class: classNames[one.class] as string },
    ...(grid && { volume: one.voxels * millilitresOf(grid) }),
  }));
}

/**
 * Writes one image's pictures and gives their paths below the folder. What is laid on the file, pixel on pixel, is in the
 * file's own order, with its EXIF orientation; the overlay is upright.
 */
async function writePictures(
  { id, image, truth, mask, probabilities, maps, orientation, sets = {} }: Shown,
  { folder, classNames, wanted, ignoreIndex }: Writing,
): Promise<Record<string, string>> {
  const { probabilityToGrey, writePng } = await import("../data/encode-png.js");
  const { heatMap, overlay } = await import("../pictures/render.js");
  const files: Record<string, string> = {};
  const write = async (what: string, file: string, picture: Parameters<typeof writePng>[1]) => {
    await writePng(path.join(folder, file), picture, what === "overlay" ? 1 : orientation);
    files[what] = file;
  };
  const binary = classNames.length === 2;
  const stored = binary ? { data: mask.data.map((label) => label * 255), shape: mask.shape } : mask;
  await write("mask", `masks/${id}.png`, orientBack(stored, orientation));
  for (const { what, file, mask } of setFiles(id, sets, classNames))
    await write(
      what,
      `${file}.png`,
      orientBack({ data: mask.data.map((one) => one * 255), shape: mask.shape }, orientation),
    );
  const pixels = mask.data.length;
  for (const [c, name] of classNames.entries()) {
    if (c === 0) continue;
    const map = { data: probabilities.data.subarray(c * pixels, (c + 1) * pixels), shape: mask.shape };
    const what = binary ? "probability" : `probability.${name}`;
    const file = binary ? `${id}.png` : `${id}.${fileName(name)}.png`;
    await write(what, `probabilities/${file}`, probabilityToGrey(orientBack(map, orientation)));
  }
  for (const name of wanted) {
    const map = maps[name];
    if (map)
      await write(
        name,
        `${name}/${id}.png`,
        heatMap(orientBack(map, orientation), { range: [0, MAPS[name].most.of(classNames.length)] }),
      );
  }
  await write(
    "overlay",
    `overlays/${id}.png`,
    overlay(image, { prediction: mask, ...(truth && { truth }), sets: Object.values(sets), ignoreIndex }),
  );
  return files;
}

/** Writes one volume's arrays in its grid, and an overlay in three planes, and gives their paths below the folder. */
async function writeVolumes(
  { id, image, truth, mask, probabilities, maps, sets = {}, volume, placement }: Shown,
  { folder, classNames, wanted, ignoreIndex, format }: Writing,
): Promise<Record<string, string>> {
  const { writePng } = await import("../data/encode-png.js");
  const { volumeOverlay } = await import("../pictures/volume.js");
  const files: Record<string, string> = {};
  const write = await volumeWriter(format, volume, id);
  const put = async (what: string, file: string, array: NdArray<Float32Array | Uint8Array>, content: Content) => {
    files[what] = `${file}${write.ending}`;
    await write.to(path.join(folder, files[what]), array, content);
  };
  const classes = classNames.slice(1);
  await put("mask", `masks/${id}`, mask, { title: "mask", classes });
  await put("probabilities", `probabilities/${id}`, probabilities, { title: "probabilities", classes });
  for (const { what, file, mask, of } of setFiles(id, sets, classNames))
    await put(what, file, mask, { title: what, classes: [what], first: of });
  for (const name of wanted) {
    const map = maps[name];
    if (!map) continue;
    const { title, most, unit }: PixelMap = MAPS[name];
    await put(name, `${name}/${id}`, map, { title, unit, most: most.of(classNames.length) });
  }
  const picture = volumeOverlay(image, storedGrid(placement), {
    prediction: mask,
    ...(truth && { truth }),
    sets: Object.values(sets),
    ignoreIndex,
  });
  await writePng(path.join(folder, `overlays/${id}.png`), picture);
  return { ...files, overlay: `overlays/${id}.png` };
}

/** What an array of a volume holds: labels or probabilities of classes, or a map. */
type Content = { title: string } & (
  | {
      /** Those of label (channel) 1 and on. */
      classes: readonly string[];
      /** Which class the first of them is, as its colour tells. @default 1 */
      first?: number;
    }
  | {
      classes?: undefined;
      unit: PixelMap["unit"];
      /** The greatest value there can be. */
      most: number;
    }
);

/** How arrays of a volume are written: labels where they are bytes. */
interface VolumeWriter {
  ending: string;
  to(file: string, array: NdArray<Float32Array | Uint8Array>, content: Content): Promise<unknown>;
}

/**
 * What checks, of a volume that was read and not yet predicted, whether its results can be written.
 * @throws ERR_LE_OPTION at once where the format is `seg` and the names are none of segments
 */
async function checkedFor(
  format: Format,
  classNames: readonly string[],
  thresholds: Record<number, SetThresholds> | undefined,
): Promise<(id: string, volume: VolumeHead | undefined) => void> {
  const { checkSegmentNames, checkSource } = await import("../volumes/dicom/index.js");
  const names = classNames.slice(1);
  const sets = Object.entries(thresholds ?? {}).flatMap(([c, of]) =>
    Object.keys(of).map((set) => setTitle(set, Number(c), classNames)),
  );
  const check = () => {
    checkSegmentNames("the class names (--format nifti takes any)", names);
    checkSegmentNames("the class names with inner and outer before them (--format nifti takes any)", sets);
  };
  if (format === "seg") check();
  return (id, volume) => {
    const writable = formatOf(format, volume, id);
    if (writable?.name !== "seg" || !volume) return;
    check();
    checkSource(id, volume, [...names, ...sets]);
  };
}

/** The format in which results of a volume are written; undefined for arrays without a place. @throws ERR_LE_OPTION as {@link volumeWriter} */
function formatOf(format: Format, volume: VolumeHead | undefined, id: string): Writable | undefined {
  const own = WRITABLE.find(({ of }) => of === volume?.format)?.name ?? "nifti";
  const name = format !== "same" ? format : volume?.grid ? own : "npy";
  if (name === "npy") return undefined;
  const refused = (expected: string, received: string) =>
    new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected ${expected} for --format ${name} but received ${id}, ${received}: leave the option out, or give npy.`,
    );
  if (!volume?.grid) throw refused("a volume that says where it lies", "which does not");
  if (name === "seg" && volume.format !== "dicom") throw refused("a DICOM series", `which is ${volume.format}`);
  return WRITABLE.find((one) => one.name === name);
}

/** @throws ERR_LE_OPTION for a format that says where voxels lie, of a volume that does not */
async function volumeWriter(format: Format, volume: VolumeHead | undefined, id: string): Promise<VolumeWriter> {
  const writable = formatOf(format, volume, id);
  if (!writable || !volume) {
    const { encodeNpy } = await import("../data/npy-file.js");
    return { ending: ".npy", to: (file, array) => writeAtomic(file, encodeNpy(array)) };
  }
  const { name, ending } = writable;
  if (name === "seg") return { ending, to: await seriesWriter(volume) };
  const { writeVolume } = await import("../volumes/index.js");
  return {
    ending,
    to: (file, array) => writeVolume(file, array, { like: volume, label: array.data instanceof Uint8Array }),
  };
}

/** Writes what is made of a DICOM series as files of the same study, each a series of its own. */
async function seriesWriter(source: VolumeHead): Promise<VolumeWriter["to"]> {
  const { writeParametricMap, writeSegmentation } = await import("../volumes/index.js");
  const { classColour } = await import("../pictures/colours.js");
  let seriesNumber = 300;
  return (file, { data, shape }, content) => {
    const options = { source, seriesNumber: seriesNumber++, seriesDescription: content.title };
    if (content.classes) {
      const { first = 1 } = content;
      const segments = content.classes.map((name, i) => ({ label: i + 1, name, colour: classColour(first + i) }));
      const array = data instanceof Float32Array ? { probabilities: { data, shape } } : { labels: { data, shape } };
      return writeSegmentation(file, array, { ...options, segments });
    }
    const { title: name, unit, most } = content;
    const map = { data: data as Float32Array, shape };
    return writeParametricMap(file, map, { ...options, name, range: [0, most], ...(unit && { unit: NATS }) });
  };
}

const NATS = { value: "{nat}", scheme: "UCUM", meaning: "nats" };

/** Inner and outer masks, as files without an ending: of one foreground class by the image, of several by the class too. */
function setFiles(id: string, sets: Readonly<Record<number, PixelSets>>, classNames: readonly string[]) {
  return Object.entries(sets).flatMap(([c, masks]) =>
    Object.entries(masks).map(([set, mask]) => {
      const of = Number(c);
      const what = setTitle(set, of, classNames);
      const file = classNames.length === 2 ? `${set}/${id}` : `${set}/${id}.${fileName(classNames[of] as string)}`;
      return { what, file, mask, of };
    }),
  );
}

/** What an inner or outer mask is called: where there are several classes, with that it is of. */
function setTitle(set: string, of: number, classNames: readonly string[]): string {
  return classNames.length === 2 ? set : `${set}.${classNames[of]}`;
}

/** A class name as part of a file name. */
function fileName(name: string): string {
  return name.replace(/[^\p{L}\p{N}_-]+/gu, "_");
}

const predictedColumns = [
  imageColumn<PredictionRecord>("predictedDice", ({ predictedDice }) => predictedDice?.overall.dice, true),
  {
    ...imageColumn<PredictionRecord>("predictedDice", ({ predictedDice }) => predictedDice?.overall.lower, true),
    head: "at least",
  },
];

/** The images in their order; of many only the first and last ten. */
function describe(rows: readonly PredictionRecord[]): string {
  const names = ["aula", "aulaNormalised", "pairwiseAgreement", "softDiceConfidence"] as const;
  const columns = [
    ...names.map((name) => imageColumn<PredictionRecord>(name, ({ scores }) => scores[name], true)),
    imageColumn<PredictionRecord>("entropy.sum", ({ summaries }) => summaries.entropy?.sum, true),
    ...(rows.some(({ predictedDice }) => predictedDice) ? predictedColumns : []),
  ];
  const table = toText({ caption: "Images", name: { head: "image", of: ({ id }) => id }, columns, rows }, 10);
  const [first, ...others] = rows;
  const sentence = others.length === 0 ? first?.predictedDice?.sentence : undefined;
  return sentence ? `${table}${sentence}.\n` : table;
}
