// One child process of `npm run fuzz -- --volumes`: damaged files of every format of volumes through readVolume. Each must be read as
// a volume that is one, or refused by a typed error, in time and without more memory than its limit leaves.
//   node --import tsx scripts/fuzz-volumes.ts SEED INPUTS
// LAYER_ENSEMBLES_GEOMETRY names a folder of more examples (../shared/fixtures/geometry/make.py).
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { encodeNpy } from "../lib/data/npy-file.js";
import { LayerEnsemblesError } from "../lib/errors.js";
import { Random } from "../lib/random.js";
import { readVolume, type Volume, writeSegmentation, writeVolume } from "../lib/volumes/index.js";
import { niftiFile } from "../test/support/volume-files.js";
import { dicomFile, enhanced, slice, syntaxes } from "../test/unit/support/dicom.js";

/** An example: the files that belong together, by name, and what is opened: one of them, or their folder. */
interface Example {
  files: Record<string, Buffer>;
  open: string;
}

/** Milliseconds in which a file of a few thousand bytes is read or refused, on a machine that has other work. */
const SLOW = 10_000;
/** Most values that a volume may have here, so that a header cannot make the process hold much. */
const MOST_VALUES = 2 ** 22;
/** Bytes of a process that has never held two such volumes at a time. */
const MOST_MEMORY = 2 ** 30;
/** Numbers that break arithmetic. */
const EDGES = [
  0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fc00000, 0x7f800000,
];

const folder = mkdtempSync(path.join(os.tmpdir(), "le-fuzz-volumes-"));

async function examples(): Promise<Example[]> {
  const shape = [2, 3, 4] as const;
  const grid = {
    shape,
    affine: [
      [-1, 0, 0, 5],
      [0, 0.9, 0.1, 6],
      [0, -0.1, 2, 7],
      [0, 0, 0, 1],
    ],
  } as const;
  const data = Int16Array.from({ length: 24 }, (_, i) => 100 * i - 500);
  const made: Example[] = [];
  const one = (name: string, bytes: Buffer) => made.push({ files: { [name]: bytes }, open: name });
  for (const ending of [".nii", ".nii.gz", ".nrrd", ".mha"]) {
    const file = path.join(folder, `x${ending}`);
    await writeVolume(file, { data, shape, grid });
    one(`x${ending}`, readFileSync(file));
  }
  for (const fields of [{ version: 2 }, { big: true }, { qform: 1, slope: 2, intercept: 1 }] as const)
    one("x.nii", niftiFile({ dim: [3, 4, 3, 2], ...fields }));
  one("x.nii.gz", gzipSync(niftiFile({ sform: 1 })));
  const pair = { "x.hdr": niftiFile({ pair: true }), "x.img": Buffer.from(data.buffer.slice(0)) };
  made.push({ files: pair, open: "x.hdr" });
  one("x.npy", encodeNpy({ data: Float32Array.from(data), shape }));
  const study = { "00100020": ["LO", "P7"], "0020000d": ["UI", "1.2.9"], "00200052": ["UI", "1.2.8"] } as const;
  const slices = (syntax?: string) =>
    Object.fromEntries([0, 2, 4, 6].map((z) => [`${z}.dcm`, dicomFile(slice(z, z, study as never), syntax)]));
  for (const syntax of [syntaxes.explicit, syntaxes.implicit, syntaxes.big, syntaxes.deflated])
    made.push({ files: slices(syntax), open: "." });
  one("x.dcm", dicomFile(enhanced([0, 1, 2])));
  const series = path.join(folder, "series");
  mkdirSync(series);
  for (const [name, bytes] of Object.entries(slices())) writeFileSync(path.join(series, name), bytes);
  const source = await readVolume(series);
  const file = path.join(folder, "seg.dcm");
  const labels = Uint8Array.from({ length: 24 }, (_, i) => i % 3);
  const segments = [1, 2].map((label) => ({ label, name: `part ${label}` }));
  await writeSegmentation(file, { labels: { data: labels, shape: source.shape } }, { source, segments });
  one("seg.dcm", readFileSync(file));
  return [...made, ...given(process.env.LAYER_ENSEMBLES_GEOMETRY)];
}

/** Every small case of a folder of cases. */
function given(cases: string | undefined): Example[] {
  if (cases === undefined) return [];
  return readdirSync(cases).flatMap((name) => {
    const described = path.join(cases, name, "expect.json");
    if (!existsSync(described)) return [];
    const { input } = JSON.parse(readFileSync(described, "utf8"));
    const at = path.join(cases, name, input);
    const isFolder = statSync(at).isDirectory();
    const home = isFolder ? at : path.dirname(at);
    const files = readdirSync(home).filter((file) => statSync(path.join(home, file)).isFile());
    return [
      {
        files: Object.fromEntries(files.map((file) => [file, readFileSync(path.join(home, file))])),
        open: isFolder ? "." : path.basename(at),
      },
    ];
  });
}

/** A damaged copy: bits turned, numbers at the edges, a part cut out, doubled, or taken from another file. */
function damaged(bytes: Buffer, other: Buffer, random: Random): Buffer {
  let out = Buffer.from(bytes);
  for (let times = 1 + random.integer(6); times > 0 && out.length > 0; times--) {
    // Headers decide most: half of the damage is there.
    const at = random.integer(random.integer(2) ? out.length : Math.min(out.length, 600));
    const length = 1 + random.integer(Math.min(64, out.length - at));
    switch (random.integer(6)) {
      case 0:
        out[at] = (out[at] as number) ^ (1 << random.integer(8));
        break;
      case 1: {
        const size = [1, 2, 4][random.integer(3)] as number;
        const value = EDGES[random.integer(EDGES.length)] as number;
        if (at + size <= out.length) out.writeUIntLE(value % 256 ** size, at, size);
        break;
      }
      case 2:
        out = out.subarray(0, at);
        break;
      case 3:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at + length)]);
        break;
      case 4:
        out = Buffer.concat([out.subarray(0, at + length), out.subarray(at)]);
        break;
      default: {
        const from = random.integer(Math.max(1, other.length));
        out = Buffer.concat([out.subarray(0, at), other.subarray(from, from + length), out.subarray(at + length)]);
      }
    }
  }
  return out;
}

/** What is wrong with a volume; undefined where it is one. */
function wrongOf({ data, shape, grid, nonFinite }: Volume): string | undefined {
  const count = shape.reduce((product, side) => product * side, 1);
  if (data.length !== count || shape.length < 3 || !shape.every((side) => Number.isSafeInteger(side) && side > 0))
    return `${data.length} values of shape ${shape.join("×")}`;
  if (grid && !grid.affine.flat().every(Number.isFinite)) return `an affine of ${JSON.stringify(grid.affine)}`;
  if (grid && grid.shape.join() !== shape.slice(-3).join()) return `a grid of ${grid.shape.join("×")}`;
  const lost = Array.from(data).filter((value) => !Number.isFinite(value)).length;
  return lost === nonFinite ? undefined : `${lost} values that are not finite, but said of ${nonFinite}`;
}

const [seed = 1, inputs = 500] = process.argv.slice(2).map(Number);
const random = new Random(seed);
const told = { read: 0, refused: 0, wrong: 0 };
try {
  const corpus = await examples();
  const pick = () => corpus[random.integer(corpus.length)] as Example;
  for (let i = 0; i < inputs; i++) {
    const { files, open } = pick();
    const others = Object.values(pick().files);
    const home = path.join(folder, "input");
    rmSync(home, { recursive: true, force: true });
    mkdirSync(home);
    const names = Object.keys(files);
    const hit = names[random.integer(names.length)];
    for (const [name, bytes] of Object.entries(files)) {
      const own = name === hit ? damaged(bytes, others[random.integer(others.length)] as Buffer, random) : bytes;
      writeFileSync(path.join(home, name), own);
    }
    const started = performance.now();
    let problem: string | undefined;
    let refused = false;
    try {
      const kind = random.integer(4) ? "image" : "label";
      const channels = random.integer(2) === 0;
      problem = wrongOf(await readVolume(path.join(home, open), { kind, channels, maxValues: MOST_VALUES }));
    } catch (error) {
      refused = error instanceof LayerEnsemblesError;
      if (!refused) problem = `${error instanceof Error ? error.stack : error}`;
    }
    const took = performance.now() - started;
    if (took > SLOW) problem ??= `${Math.round(took)} ms`;
    if (process.memoryUsage.rss() > MOST_MEMORY) problem ??= `${process.memoryUsage.rss()} bytes of memory`;
    told[problem !== undefined ? "wrong" : refused ? "refused" : "read"]++;
    if (problem === undefined) continue;
    process.stdout.write(`WRONG input ${i}, ${names.join(", ")}: ${problem}\n`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = told.wrong > 0 ? 1 : 0;
process.stdout.write(`${told.read} read, ${told.refused} refused\n`);
process.stdout.write(`end with ${process.exitCode}\n`);
