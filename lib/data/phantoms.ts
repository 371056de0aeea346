import { join } from "node:path";
import type { NdArray } from "../arrays.js";
import { checkOptions, option } from "../options.js";
import { Random } from "../random.js";
import { csvLine } from "./csv.js";
import type { MemorySample } from "./dataset.js";
import { writePng } from "./encode-png.js";
import { writeAtomic } from "./files.js";
import { resizeBilinear } from "./resample.js";

/** How well a phantom's lesion can be seen: from plain to not at all. */
export type Difficulty = "easy" | "medium" | "hard" | "hopeless";

/** A made-up ultrasound-like image with one lesion, whose true outline is known. */
export interface Phantom extends MemorySample {
  image: NdArray<Uint8Array>;
  mask: NdArray<Uint8Array>;
  split: string;
  difficulty: Difficulty;
  /** Echo of the lesion against the tissue around it, in decibels: negative is darker. Speckle alone varies by about 3. */
  contrast: number;
  /** Width of the lesion's border as a share of its radius. */
  blur: number;
}

/** Options of {@link makePhantoms}. */
export interface PhantomOptions {
  /** Number of images. */
  count: number;
  /** Height and width in pixels. @default 128 */
  size?: number;
  /** @default 0 */
  seed?: number;
  /** Share of images in the split "val". @default 0.15 */
  valFraction?: number;
  /** Share of images in the split "test". @default 0.25 */
  testFraction?: number;
}

interface Tier {
  /** Decibels, darker lesions. */
  dark: [number, number];
  /** Decibels, brighter lesions. */
  bright: [number, number];
  blur: [number, number];
}

const tiers: Record<Difficulty, Tier> = {
  easy: { dark: [-17, -12], bright: [10, 13], blur: [0.03, 0.1] },
  medium: { dark: [-11, -7.5], bright: [7, 9], blur: [0.1, 0.3] },
  hard: { dark: [-6, -3.5], bright: [3.5, 5.5], blur: [0.25, 0.6] },
  hopeless: { dark: [-1.2, -0.2], bright: [0.2, 1], blur: [0.3, 0.8] },
};

/** Every twenty phantoms hold 8 easy, 5 medium, 4 hard and 3 hopeless ones. */
const order: Difficulty[] = [..."emehmephemehmepehemp"].map(
  (letter) => ({ e: "easy", m: "medium", h: "hard", p: "hopeless" })[letter] as Difficulty,
);

/**
 * Makes ultrasound-like images: layered tissue, fully developed speckle, depth attenuation, shadows, and one lesion
 * that is bright or dark, plain or faint, sharp or blurred, and in some images below what speckle lets through. The same
 * options give the same images; image i does not depend on `count`. Each split holds its share of every difficulty.
 * @throws ERR_LE_OPTION
 */
export function makePhantoms(options: PhantomOptions): Phantom[] {
  checkOptions("makePhantoms", options, {
    count: option.required(option.integer({ min: 1, max: 100_000 })),
    size: option.integer({ min: 16, max: 2048 }),
    seed: option.integer(),
    valFraction: option.number({ min: 0, below: 1 }),
    testFraction: option.number({ min: 0, below: 1 }),
  });
  const { count, size = 128, seed = 0, valFraction = 0.15, testFraction = 0.25 } = options;
  const seen = new Map<Difficulty, number>();
  return Array.from({ length: count }, (_, i) => {
    const difficulty = order[i % order.length]!;
    const before = seen.get(difficulty) ?? 0;
    seen.set(difficulty, before + 1);
    const reaches = (share: number) => Math.floor((before + 1) * share + 0.5) > Math.floor(before * share + 0.5);
    const split = reaches(testFraction) ? "test" : reaches(valFraction) ? "val" : "train";
    const random = new Random(Math.imul(seed, 0x9e3779b1) ^ Math.imul(i + 1, 0x85ebca6b));
    const id = `phantom_${String(i + 1).padStart(4, "0")}`;
    return { id, split, difficulty, ...makePhantom(size, tiers[difficulty], random) };
  });
}

/**
 * Writes phantoms as a data folder: images/, masks/ (0 and 255) and split.csv with the columns id, split, difficulty,
 * contrast_db and blur.
 * @throws ERR_LE_OPTION, ERR_LE_IO
 */
export async function writePhantoms(folder: string, options: PhantomOptions): Promise<Phantom[]> {
  const phantoms = makePhantoms(options);
  for (const { id, image, mask } of phantoms) {
    await writePng(join(folder, "images", `${id}.png`), image);
    await writePng(join(folder, "masks", `${id}.png`), {
      data: mask.data.map((label) => label * 255),
      shape: mask.shape,
    });
  }
  const rows = phantoms.map((p) => [p.id, p.split, p.difficulty, p.contrast.toFixed(2), p.blur.toFixed(3)]);
  const lines = [["id", "split", "difficulty", "contrast_db", "blur"], ...rows].map(csvLine);
  await writeAtomic(join(folder, "split.csv"), `${lines.join("\n")}\n`);
  return phantoms;
}

function makePhantom(size: number, tier: Tier, random: Random) {
  const dark = random.uniform() < 0.75;
  const contrast = random.uniform(...(dark ? tier.dark : tier.bright));
  const blur = random.uniform(...tier.blur);
  const lesion = makeLesion(random, blur);
  const tissue = makeTissue(random);
  const texture = makeTexture(size, random);
  const speckle = makeSpeckle(size, random);

  const data = new Uint8Array(size * size);
  const labels = new Uint8Array(size * size);
  for (let column = 0; column < size; column++) {
    const x = (column + 0.5) / size;
    const echoAt = tissue(x);
    for (let row = 0; row < size; row++) {
      const i = row * size + column;
      const y = (row + 0.5) / size;
      const { distance, below } = lesion(x, y);
      const inside = 1 / (1 + Math.exp((4 * distance) / blur));
      // Sound is weakened less by a dark (fluid) lesion than by tissue, so what lies below it looks brighter.
      const behind = dark ? -0.3 * contrast * below : 0;
      const echo = echoAt(y) + texture[i]! + contrast * inside + behind + speckle[i]!;
      data[i] = Math.round(Math.min(255, Math.max(0, 118 + 6 * echo)));
      labels[i] = distance < 0 ? 1 : 0;
    }
  }
  const shape = [size, size];
  return { image: { data, shape }, mask: { data: labels, shape }, contrast, blur };
}

/**
 * An ellipse with an uneven outline. The result tells the distance from the outline, in radii (negative inside), and how
 * far a point lies in the lesion's wake, from 0 to 1.
 */
function makeLesion(random: Random, blur: number) {
  const radius = random.uniform(0.1, 0.21);
  const flatness = random.uniform(0.6, 0.95);
  const tilt = random.uniform(-0.5, 0.5);
  const [cx, cy] = [random.uniform(0.27, 0.73), random.uniform(0.36, 0.66)];
  const roughness = random.uniform(0.01, 0.07);
  const waves = [2, 3, 4, 5].map((n) => ({ n, size: roughness * random.normal(), phase: random.uniform(0, 6.28) }));
  const [cos, sin] = [Math.cos(tilt), Math.sin(tilt)];
  return (x: number, y: number) => {
    const [dx, dy] = [x - cx, y - cy];
    const [u, v] = [(cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / (radius * flatness)];
    const angle = Math.atan2(v, u);
    let outline = 1;
    for (const { n, size, phase } of waves) outline += size * Math.sin(n * angle + phase);
    const across = Math.max(0, 1 - (dx / (0.9 * radius)) ** 2);
    const depth = Math.min(1, Math.max(0, (dy - 0.6 * radius * flatness) / (0.35 * radius + 0.1 * blur)));
    return { distance: Math.hypot(u, v) / outline - 1, below: across * depth * Math.exp(-Math.max(0, dy) / 0.5) };
  };
}

/** Echo of the tissue in decibels, at x and then y: skin, fat, gland and muscle in wavy layers, attenuation with depth, a few shadows. */
function makeTissue(random: Random) {
  const wavy = (depth: number, size: number) => {
    const waves = [1, 2, 3].map((n) => ({ n, size: (size * random.normal()) / n, phase: random.uniform(0, 6.28) }));
    return (x: number) => depth + waves.reduce((sum, w) => sum + w.size * Math.sin(3 * w.n * x + w.phase), 0);
  };
  const skin = wavy(random.uniform(0.035, 0.05), 0.003);
  const fat = wavy(random.uniform(0.14, 0.22), 0.025);
  const muscle = wavy(random.uniform(0.86, 0.93), 0.02);
  const fatEcho = random.uniform(-6, -3.5);
  const shadows = Array.from({ length: random.integer(3) }, () => ({
    at: random.uniform(0.05, 0.95),
    width: random.uniform(0.03, 0.07),
    from: random.uniform(0.15, 0.6),
    size: random.uniform(2, 5),
  }));
  const step = (value: number, width: number) => 1 / (1 + Math.exp(-value / width));
  const line = (value: number, width: number) => Math.exp(-((value / width) ** 2));
  return (x: number) => {
    const [skinEnd, fatEnd, muscleStart] = [skin(x), fat(x), muscle(x)];
    return (y: number) => {
      const inFat = step(y - skinEnd, 0.006) * step(fatEnd - y, 0.012);
      let echo = 7 * step(skinEnd - y, 0.006) + fatEcho * inFat - 5 * step(y - muscleStart, 0.01);
      echo += 4 * line(y - fatEnd, 0.012) + 6 * line(y - muscleStart, 0.012) - 5 * (y - 0.3);
      for (const { at, width, from, size } of shadows) {
        echo -= size * line(x - at, width * (0.5 + y)) * step(y - from, 0.03);
      }
      return echo;
    };
  };
}

/** Slow changes of echo in decibels, standard deviation about 1.5, wider than high as tissue is; size×size. */
function makeTexture(size: number, random: Random): Float32Array {
  const [rows, columns] = [11, 7];
  const coarse = Float32Array.from({ length: rows * columns }, () => 2.2 * random.normal());
  return resizeBilinear(coarse, 1, [rows, columns], [size, size]);
}

/**
 * Speckle in decibels, mean about 0: the logarithm of three averaged intensities ("looks"), each the squared magnitude
 * of a complex normal field as wide as the probe's beam; size×size.
 */
function makeSpeckle(size: number, random: Random): Float32Array {
  const looks = 3;
  const grain = Math.max(0.6, size / 140);
  const intensity = new Float32Array(size * size);
  for (let part = 0; part < 2 * looks; part++) {
    const noise = Float32Array.from({ length: size * size }, () => random.normal());
    const field = smoothRows(smoothRows(noise, size, 1.5 * grain), size, 0.8 * grain);
    for (let i = 0; i < field.length; i++) intensity[i]! += (field[i]! * field[i]!) / (2 * looks);
  }
  return intensity.map((value) => 10 * Math.log10(value + 1e-3) + 0.75);
}

/** Smooths each row by a Gaussian that keeps the variance of white noise, and transposes; size×size. */
function smoothRows(data: Float32Array, size: number, sigma: number): Float32Array {
  const reach = Math.ceil(3 * sigma);
  const kernel = Float64Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-0.5 * ((i - reach) / sigma) ** 2));
  const norm = Math.sqrt(kernel.reduce((sum, weight) => sum + weight * weight, 0));
  const line = new Float64Array(size + 2 * reach);
  const out = new Float32Array(size * size);
  for (let row = 0; row < size; row++) {
    // Rows wrap around, so that the variance is the same everywhere.
    for (let j = 0; j < line.length; j++) line[j] = data[row * size + ((j - reach + size * reach) % size)]!;
    for (let column = 0; column < size; column++) {
      let sum = 0;
      for (let j = 0; j < kernel.length; j++) sum += kernel[j]! * line[column + j]!;
      out[column * size + row] = sum / norm;
    }
  }
  return out;
}
