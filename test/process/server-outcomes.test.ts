// What becomes of served cases, told to a real server: who may, what is taken, and that nothing is lost.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodePng } from "../../lib/data/encode-png.js";
import { decodeImage } from "../../lib/data/image.js";
import { encodeNpy } from "../../lib/data/npy-file.js";
import { readOutcomes } from "../../lib/runs/outcomes.js";
import { cli } from "../support/cli.js";
import { fillDisk } from "../support/disk.js";
import { type RunningServer, startServer, tinyRun } from "../support/serve.js";

const TOKEN = "a-token-of-some-length";
let folder: string;
let trained: string;
let images: Buffer[];
const inside = (...parts: string[]) => path.join(folder, ...parts);
const disk = () => inside("disk");
let mounted = false;

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-outcomes-"));
  let data: string;
  ({ run: trained, data } = await tinyRun(folder));
  images = readdirSync(path.join(data, "images"))
    .sort()
    .map((name) => readFileSync(path.join(data, "images", name)));
  writeFileSync(inside("token"), `${TOKEN}\n`);
  mkdirSync(disk());
  mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", disk()]).status === 0;
}, 120_000);
afterAll(() => {
  if (mounted) spawnSync("umount", [disk()]);
  rmSync(folder, { recursive: true, force: true });
});

let copies = 0;
function copy(): string {
  const run = inside(`copy-${++copies}`, "tiny");
  cpSync(trained, run, { recursive: true });
  return run;
}

const start = (run: string, ...args: string[]) =>
  startServer([run, "--linger", "0", "--outcomes", "--outcomes-token", inside("token"), ...args]);

const ask = fetch as unknown as (
  url: string,
  init?: RequestInit,
) => Promise<Omit<Response, "json"> & { json(): Promise<ReturnType<typeof JSON.parse>> }>;

async function predict({ base }: RunningServer, bytes = images[0] as Buffer, query = "") {
  const response = await ask(`${base}/v1/predict?outputs=mask${query}`, {
    method: "POST",
    body: new Uint8Array(bytes),
    headers: { "content-type": "image/png" },
  });
  expect(response.status).toBe(200);
  return (await response.json()).images[0];
}

const tell = ({ base }: RunningServer, body: unknown, headers: Record<string, string> = {}) =>
  ask(`${base}/v1/outcomes`, {
    method: "POST",
    body: typeof body === "string" ? body : JSON.stringify(body),
    headers: { "content-type": "application/json", authorization: `Bearer ${TOKEN}`, ...headers },
  });
const statusOf = async (...args: Parameters<typeof tell>) => (await tell(...args)).status;

describe("outcomes", () => {
  it("are taken by who asked for it alone, and with a token that others do not see", async () => {
    const run = copy();
    const server = await startServer([run, "--linger", "0"]);
    expect(await predict(server)).not.toHaveProperty("id");
    expect(await statusOf(server, { id: "a", dice: 1 })).toBe(404);
    expect((await (await ask(`${server.base}/openapi.json`)).json()).paths).not.toHaveProperty("/v1/outcomes");
    for (const [args, token, code] of [
      [["--outcomes"], "", 2],
      [["--outcomes-token", inside("token")], "", 2],
      [["--outcomes", "--outcomes-token", inside("nothing")], "", 1],
      [["--outcomes"], "short", 1],
    ] as const) {
      const ended = await cli(["serve", run, "--port", "0", "--device", "cpu", ...args], {
        env: { LAYER_ENSEMBLES_OUTCOMES_TOKEN: token },
      });
      expect(ended.code, ended.stderr).toBe(code);
      expect(ended.stderr).toContain("error");
      if (token) expect(ended.stderr).not.toContain(token);
    }
    server.child.kill("SIGKILL");
  });

  it("come by their id with a Dice, and are in the file when they are answered", async () => {
    const run = copy();
    const server = await start(run);
    const { id, scores } = await predict(server);
    expect(id).toMatch(/^[0-9a-f-]{36}$/);
    expect((await predict(server, images[0], "&fusion=vote")).id).toBeUndefined(); // not the run's own prediction
    const answer = await tell(server, { id, dice: 0.75, group: "patient 7" });
    expect([answer.status, await answer.json()]).toEqual([201, { id, model: "tiny", dice: 0.75 }]);
    const { outcomes } = await readOutcomes(run);
    expect(outcomes).toEqual([
      expect.objectContaining({
        ...{ id, dice: 0.75, group: "patient 7", acceptable: true, content: expect.stringMatching(/^\d:/) },
        score: { name: "aula", value: expect.closeTo(scores.aula, 9) },
      }),
    ]);
    const { paths } = await (await ask(`${server.base}/openapi.json`)).json();
    expect(Object.keys(paths["/v1/outcomes"])).toEqual(["post"]);
    expect(await (await ask(`${server.base}/metrics`)).text()).toContain(
      'layer_ensembles_outcome_dice_count{model="tiny"} 1',
    );
    expect((await ask(`${server.base}/v1/outcomes`)).status).toBe(405);
    expect(server.log.find(({ msg }) => msg === "outcome")).toMatchObject({ id, dice: 0.75 });
    expect(JSON.stringify(server.log)).not.toContain(TOKEN);
    server.child.kill("SIGKILL");
  });

  it("are refused with a reason, and leave the file alone", async () => {
    const run = copy();
    const server = await start(run, "--max-body", "1");
    const { id, files } = await predict(server);
    const valid = { id, dice: 0.5 };
    expect(await statusOf(server, valid, { authorization: "" })).toBe(401);
    expect(await statusOf(server, valid, { authorization: TOKEN })).toBe(401);
    for (const other of [`${TOKEN}x`, TOKEN.slice(1), "x".repeat(2000)])
      expect(await statusOf(server, valid, { authorization: `Bearer ${other}` })).toBe(403);
    expect(await statusOf(server, { id: "unknown", dice: 0.5 })).toBe(404);
    expect(await statusOf(server, valid, { "content-type": "text/plain" })).toBe(415);
    expect(await statusOf(server, "{")).toBe(400);
    expect(await statusOf(server, `{"id":"${id}","dice":NaN}`)).toBe(400);
    expect(await statusOf(server, { id, mask: "A".repeat(2 ** 21) })).toBe(413);
    const { mask } = files;
    const small = Buffer.from(await encodePng({ data: new Uint8Array(100), shape: [10, 10] })).toString("base64");
    const fifth = encodeNpy({ data: new Uint8Array(1600).fill(5), shape: [40, 40] });
    const ignored = encodeNpy({ data: new Uint8Array(1600).fill(7), shape: [40, 40] });
    for (const bad of [
      {},
      { id },
      { id, dice: null },
      { id, dice: "NaN" },
      { id, dice: 1.01 },
      { id, dice: -0.1 },
      { id: 5, dice: 0.5 },
      { id: "", dice: 0.5 },
      { id, dice: 0.5, mask: mask.data },
      { id, dice: 0.5, more: 1 },
      { id, mask: "" },
      { id, mask: "no image" },
      { id, mask: small },
      { id, mask: Buffer.from(fifth).toString("base64") },
      { id, mask: Buffer.from(ignored).toString("base64") },
      [],
      null,
      5,
    ])
      expect(await statusOf(server, bad), JSON.stringify(bad)).toBe(422);
    expect(readdirSync(run)).not.toContain("outcomes.jsonl");
    expect(await statusOf(server, valid)).toBe(201);
    expect(await statusOf(server, valid)).toBe(409);
    expect(await statusOf(server, { id, mask: mask.data })).toBe(409);
    expect((await readOutcomes(run)).outcomes).toHaveLength(1);
    server.child.kill("SIGKILL");
  });

  it("come by the right mask, whose Dice is with the mask that was served", async () => {
    const run = copy();
    const server = await start(run);
    const answers = [await predict(server), await predict(server), await predict(server), await predict(server)];
    const [{ files }] = answers;
    const { data } = await decodeImage(Buffer.from(files.mask.data, "base64"), "mask");
    const served = Uint8Array.from(data, (value) => value / 255);
    // Half of its foreground, and as much that it does not have.
    const truth = served.slice();
    const foreground = [...served.keys()].filter((i) => served[i]);
    const background = [...served.keys()].filter((i) => !served[i]);
    const half = foreground.length >> 1;
    for (const i of foreground.slice(0, half)) truth[i] = 0;
    for (const i of background.slice(0, half)) truth[i] = 1;
    const expected = (2 * (foreground.length - half)) / (2 * foreground.length);
    const png = async (scale: number) =>
      Buffer.from(await encodePng({ data: truth.map((label) => label * scale), shape: [40, 40] })).toString("base64");
    const npy = Buffer.from(encodeNpy({ data: truth, shape: [40, 40] })).toString("base64");
    const masks = [files.mask.data, await png(255), await png(1), npy];
    const found = [];
    for (const [i, mask] of masks.entries())
      found.push((await (await tell(server, { id: answers[i].id, mask })).json()).dice);
    expect(found).toEqual([1, ...[1, 2, 3].map(() => expect.closeTo(expected, 9))]);
    expect((await readOutcomes(run)).outcomes.map(({ dice }) => dice)).toEqual(found);
    server.child.kill("SIGKILL");
  });

  it("of one case at once are one, and of many all", async () => {
    const run = copy();
    const server = await start(run);
    const ids = await Promise.all(images.map(async (bytes) => (await predict(server, bytes)).id));
    const twice = await Promise.all([...ids, ...ids].map((id, i) => statusOf(server, { id, dice: (i % 10) / 10 })));
    expect(twice.filter((status) => status === 201)).toHaveLength(ids.length);
    expect(twice.filter((status) => status === 409)).toHaveLength(ids.length);
    const { outcomes } = await readOutcomes(run);
    expect(outcomes.map(({ id }) => id).sort()).toEqual([...ids].sort());
    server.child.kill("SIGKILL");
  });

  it("that were answered are there after a kill, and the file goes on", async () => {
    const run = copy();
    const answered: string[] = [];
    for (let round = 0; round < 3; round++) {
      const server = await start(run);
      const ids = await Promise.all(images.map(async (bytes) => (await predict(server, bytes)).id));
      const sent = ids.map((id) =>
        statusOf(server, { id, dice: 0.5 }).then((status) => status === 201 && answered.push(id)),
      );
      await Promise.any(sent);
      server.child.kill("SIGKILL");
      await Promise.allSettled(sent);
      await server.ended;
    }
    const { outcomes } = await readOutcomes(run);
    expect(outcomes.map(({ id }) => id)).toEqual(expect.arrayContaining(answered));
    expect(answered.length).toBeGreaterThan(2);
    const server = await start(run);
    const { id } = await predict(server);
    expect(await statusOf(server, { id, dice: 1 })).toBe(201);
    const after = await readOutcomes(run);
    expect([after.torn, after.outcomes.length]).toEqual([0, outcomes.length + 1]);
    server.child.kill("SIGKILL");
  }, 60_000);

  it("find no space on a full disk, and are taken once there is", async () => {
    if (!mounted) return;
    const run = path.join(disk(), "tiny");
    cpSync(trained, run, { recursive: true });
    const server = await start(run);
    const first = await predict(server);
    expect(await statusOf(server, { id: first.id, dice: 0.25 })).toBe(201);
    const before = readFileSync(path.join(run, "outcomes.jsonl"), "utf8");
    fillDisk(path.join(disk(), "filler"));
    // The last block has room for some.
    const { id } = await predict(server, images[1]);
    const long = "g".repeat(5000);
    const full = await tell(server, { id, dice: 0.5, group: long });
    expect([full.status, (await full.json()).error.code]).toEqual([507, "ERR_LE_IO"]);
    expect(readFileSync(path.join(run, "outcomes.jsonl"), "utf8")).toBe(before);
    rmSync(path.join(disk(), "filler"));
    expect(await statusOf(server, { id, dice: 0.5, group: long })).toBe(201);
    expect((await readOutcomes(run)).outcomes.map(({ dice }) => dice)).toEqual([0.25, 0.5]);
    server.child.kill("SIGKILL");
    await server.ended;
    spawnSync("mount", ["-o", "remount,ro", disk()]);
    const refused = await cli([
      "serve",
      run,
      "--port",
      "0",
      "--device",
      "cpu",
      "--outcomes",
      "--outcomes-token",
      inside("token"),
    ]);
    spawnSync("mount", ["-o", "remount,rw", disk()]);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining("ERR_LE_IO")]);
  }, 60_000);

  it("certify the run", async () => {
    const run = copy();
    const server = await start(run);
    for (const bytes of images) {
      const { id } = await predict(server, bytes);
      expect(await statusOf(server, { id, dice: 0.9 })).toBe(201);
    }
    const certified = await cli(["certify", run, "--from-outcomes", "--alpha", "0.5", "--json", "--device", "cpu"]);
    expect(certified.code, certified.stderr + certified.stdout).toBe(0);
    expect(JSON.parse(certified.stdout)).toMatchObject({ cases: images.length, source: { data: null } });
    server.child.kill("SIGHUP");
    await server.line(({ msg }) => msg === "reloaded");
    expect((await predict(server)).certificate.state).toBe("valid");
    server.child.kill("SIGKILL");
  }, 60_000);

  it("of other predictions than those that are certified are left out, and it is said of what they are", async () => {
    const run = copy();
    const CPU = ["--device", "cpu", "--precision", "fp32"];
    const tuned = await cli(["tune", run, ...CPU]);
    expect(tuned.code, tuned.stderr).toBe(0);
    const edit = (file: string, change: (value: ReturnType<typeof JSON.parse>) => void) => {
      const value = JSON.parse(readFileSync(path.join(run, file), "utf8"));
      change(value);
      writeFileSync(path.join(run, file), JSON.stringify(value));
    };
    const audit = async (count: number, ...args: string[]) => {
      const server = await start(run, ...args);
      for (const bytes of images.slice(0, count)) {
        const { id } = await predict(server, bytes);
        expect(await statusOf(server, { id, dice: 0.9 })).toBe(201);
      }
      server.child.kill("SIGKILL");
      await server.ended;
    };
    const certify = async (...args: string[]) => {
      const given = ["--from-outcomes", "--dry-run", "--json", "--alpha", "0.9", "--delta", "0.5", "--device", "cpu"];
      const { stdout, stderr } = await cli(["certify", run, ...given, ...args]);
      return { cases: JSON.parse(stdout).cases, said: /warning: (\d+ of \d+ outcomes.*)/.exec(stderr)?.[1] };
    };
    await audit(4, "--precision", "fp32");
    await audit(3, "--precision", "bf16");
    expect(await certify("--precision", "fp32")).toEqual({
      cases: 4,
      said: "3 of 7 outcomes are left out: 3 of precision bf16",
    });
    expect(await certify("--precision", "bf16")).toEqual({
      cases: 3,
      said: "4 of 7 outcomes are left out: 4 of precision fp32",
    });

    // Bounds decide nothing of a prediction: `certify` makes new ones.
    edit("predicted-dice.json", ({ fit }) => {
      fit.overall.intervals = null;
    });
    await audit(2, "--precision", "fp32");
    expect((await certify("--precision", "fp32")).cases).toBe(6);
    edit("predicted-dice.json", ({ fit }) => {
      fit.perClass[1].isotonic.y = fit.perClass[1].isotonic.y.map((dice: number) => dice / 2);
    });
    await audit(1, "--precision", "fp32");
    expect(await certify("--precision", "fp32")).toEqual({
      cases: 1,
      said: "9 of 10 outcomes are left out: 9 of another fit of predicted Dice",
    });

    // The distance that the run's gate allows: another setting, of which the service's own gate does not make outcomes free.
    edit("run.json", ({ gate }) => {
      gate.distance = { threshold: -1e9 };
    });
    await audit(2, "--precision", "fp32", "--gate", "none");
    expect((await certify("--precision", "fp32")).said).toBe("10 of 12 outcomes are left out: 10 of other settings");
    expect((await readOutcomes(run)).outcomes.map(({ acceptable }) => acceptable)).toEqual([
      ...new Array(10).fill(true),
      false,
      false,
    ]);
  }, 120_000);
});
