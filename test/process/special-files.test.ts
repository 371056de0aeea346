// Pipes, devices and links where the command line takes a path, and in place of every file of a run:
// an error of one line within seconds, never a wait.
import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeNpy } from "../../lib/data/npy-file.js";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { cli } from "../support/cli.js";
import { noise } from "../support/model.js";

const SMALL = ["--backbone", "plain-unet", "--width", "4", "--depth", "2", "--size", "24", "--device", "cpu"];
const CPU = ["--device", "cpu"];
let folder: string;
let image: string;
const inside = (...names: string[]) => path.join(folder, ...names);
let made = 0;
const fresh = (name = "") => inside(`${made++}`, name);

/** What stands at a path, by name. */
const KINDS: Record<string, (at: string) => void> = {
  "a pipe": (at) => spawnSync("mkfifo", [at]),
  "a link to an endless device": (at) => symlinkSync("/dev/zero", at),
  "a link that leads nowhere": (at) => symlinkSync(inside("nothing"), at),
  "a link to itself": (at) => symlinkSync(at, at),
};
const put = (kind: string, at: string) => {
  mkdirSync(path.dirname(at), { recursive: true });
  rmSync(at, { recursive: true, force: true });
  KINDS[kind]?.(at);
  return at;
};
const copy = (of: string) => {
  const to = fresh();
  cpSync(inside(of), to, { recursive: true });
  return to;
};

/** The command ends by itself and soon, with one typed line. */
async function refused(what: string, args: readonly string[], env = {}): Promise<string[]> {
  const start = Date.now();
  const { code, signal, stderr } = await cli(args, { env });
  const errors = stderr.split("\n").filter((line) => line.startsWith("error"));
  const typed = errors.length === 1 && /^error \[ERR_LE_(?!INTERNAL)\w+\]: |^error: expected/.test(errors[0] as string);
  const soon = Date.now() - start < 30_000;
  return typed && soon && signal === null && (code === 1 || code === 2) ? [] : [`${what}: ${code} ${signal} ${stderr}`];
}

/** Two at a time. */
async function all(cases: readonly (() => Promise<string[]>)[]): Promise<string[]> {
  const wrong: string[] = [];
  const left = [...cases];
  const work = async () => {
    for (let next = left.shift(); next; next = left.shift()) wrong.push(...(await next()));
  };
  await Promise.all([work(), work()]);
  return wrong;
}

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "le-special-cli-"));
  await writePhantoms(inside("data"), { count: 16, size: 24, seed: 1 });
  image = inside("data", "images", "phantom_0001.png");
  writeFileSync(inside("heads.npy"), encodeNpy(noise([4, 2, 6, 6])));
  for (const [name, ...more] of [["le"], ["de", "--method", "de", "--members", "2"]] as const)
    expect(
      await cli(["train", "--data", inside("data"), "--run", inside(name), ...SMALL, "--epochs", "1", ...more]),
    ).toMatchObject({ code: 0 });
  expect(await cli(["predict", "--run", inside("le"), "--out", inside("predictions"), image, ...CPU])).toMatchObject({
    code: 0,
  });
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** What is to hold once the commands have ended. */
const afterwards: (() => void)[] = [];

describe.each(Object.keys(KINDS))("%s", (kind) => {
  const leadsNowhere = /nowhere|itself/.test(kind);

  it("is refused by every option that takes a path", { timeout: 300_000 }, async () => {
    const at = (name: string) => put(kind, fresh(name));
    const run = inside("le");
    const train = ["train", "--data", inside("data"), ...SMALL];
    const cases: string[][] = [
      ["layers", at("x.pt")],
      ["train", "--data", at("data"), "--run", fresh(), ...SMALL],
      [...train.slice(0, 3), "--run", fresh(), "--size", "32", "--model", at("x.pt2")],
      [...train.slice(0, 3), "--run", fresh(), "--backbone", "unet", "--size", "32", "--encoder-weights", at("x.pth")],
      ["predict", "--run", at("run"), "--out", fresh(), image],
      ["predict", "--run", run, "--out", fresh(), at("x.png"), ...CPU],
      ["predict", "--run", run, "--out", fresh(), at("x.npy"), ...CPU],
      ["predict", "--run", run, "--out", at("out"), image, ...CPU],
      ["evaluate", "--run", run, "--data", at("data"), ...CPU],
      ["evaluate", "--run", run, "--out", at("out"), ...CPU],
      ["score", at("x.npz")],
      ["score", at("x.npy")],
      ["tune", at("run")],
      ["compare", at("run"), "--out", fresh()],
      ["compare", run, "--ood", at("data"), "--out", fresh(), ...CPU],
      ["report", at("comparison")],
      ["study", at("study.json")],
      ["serve", at("run"), "--port", "0"],
      ["install-libtorch", "--from", at("x.zip"), "--sha256", "0".repeat(64), "--dir", fresh()],
    ];
    // What is written replaces a link that leads nowhere.
    if (!leadsNowhere) cases.push(["score", inside("heads.npy"), "--csv", at("x.csv")], ["demo", "--out", at("demo")]);
    const wrong = await all(cases.map((args) => () => refused(args.join(" "), args)));
    expect(wrong).toEqual([]);
  });

  it("is refused in place of every file of a data folder, a run, a libtorch and earlier output", {
    timeout: 300_000,
  }, async () => {
    const cases: [what: string, args: string[], env?: object][] = [];
    for (const name of ["images/phantom_0001.png", "masks/phantom_0001.png", "split.csv", "images", "masks"]) {
      const data = copy("data");
      put(kind, path.join(data, name));
      cases.push([name, ["train", "--data", data, "--run", fresh(), ...SMALL, "--epochs", "1"]]);
    }
    const members = {
      le: ["run.json", "weights.safetensors", "state.safetensors"],
      de: ["run.json", "members/1/run.json", "members/2/weights.safetensors"],
    };
    for (const [of, names] of Object.entries(members))
      for (const name of names) {
        const run = copy(of);
        put(kind, path.join(run, name));
        if (name === "state.safetensors") {
          if (!leadsNowhere)
            cases.push([`${of}/${name}`, ["train", "--run", run, "--resume", "--epochs", "2", ...CPU]]);
          continue;
        }
        cases.push([`${of}/${name}`, ["predict", "--run", run, "--out", fresh(), image, ...CPU]]);
        cases.push([`${of}/${name}`, ["serve", run, "--port", "0", ...CPU]]);
      }
    for (const name of ["history.csv", "events"]) {
      const run = copy("le");
      put(
        kind,
        path.join(run, name === "events" ? (readdirSync(run).find((one) => one.includes("tfevents")) as string) : name),
      );
      if (!leadsNowhere) cases.push([name, ["train", "--run", run, "--resume", "--epochs", "2", ...CPU]]);
    }
    for (const name of ["lib/libc10.so", "lib/libtorch_cpu.so", "build-version", "version.py"]) {
      const libtorch = fresh();
      for (const one of ["lib/libc10.so", "lib/libtorch_cpu.so"]) {
        mkdirSync(path.join(libtorch, "lib"), { recursive: true });
        writeFileSync(path.join(libtorch, one), "");
      }
      put(kind, path.join(libtorch, name));
      cases.push([name, ["layers", "plain-unet"], { LAYER_ENSEMBLES_LIBTORCH: libtorch }]);
    }
    if (!leadsNowhere)
      for (const name of ["predictions.jsonl", ".layer-ensembles-files.json", "masks", "masks/phantom_0001.png"]) {
        const out = copy("predictions");
        const special = put(kind, path.join(out, name));
        const kept = lstatSync(special).ino;
        cases.push([`out/${name}`, ["predict", "--run", inside("le"), "--out", out, image, ...CPU]]);
        afterwards.push(() => expect(lstatSync(special).ino).toBe(kept));
      }
    const tuning = copy("le");
    put(kind, path.join(tuning, "tuning"));
    cases.push(["tuning", ["tune", tuning, ...CPU]]);
    const wrong = await all(
      cases.map(
        ([what, args, env]) =>
          () =>
            refused(`${what}: ${args.join(" ")}`, args, env),
      ),
    );
    expect(wrong).toEqual([]);
    for (const check of afterwards.splice(0)) check();
  });
});

it("tune neither removes nor writes files where a linked folder of the run leads", async () => {
  const [run, elsewhere] = [copy("le"), fresh()];
  mkdirSync(elsewhere, { recursive: true });
  writeFileSync(path.join(elsewhere, "skip-curve.csv"), "precious");
  symlinkSync(elsewhere, path.join(run, "tuning"));
  expect(await refused("tune", ["tune", run, ...CPU])).toEqual([]);
  expect(existsSync(path.join(elsewhere, "skip-curve.csv"))).toBe(true);
  expect(readdirSync(elsewhere)).toHaveLength(1);
});
