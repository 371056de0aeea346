// A certificate in service: a real run, a certificate that `certify` proved, a server that keeps what it promises or says that it does not.
import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { encodePng } from "../../lib/data/encode-png.js";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { CHROMIUM, openBrowser } from "../support/browser.js";
import { cli } from "../support/cli.js";
import { fillDisk } from "../support/disk.js";
import { type RunningServer, startServer, tinyRun } from "../support/serve.js";

let folder: string;
let certified: string;
let alike: Buffer[];
let shifted: Buffer[];
const inside = (...parts: string[]) => path.join(folder, ...parts);

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-certificate-"));
  ({ run: certified } = await tinyRun(folder));
  await writePhantoms(inside("calibration"), { count: 80, size: 40, seed: 2 });
  await writePhantoms(inside("alike"), { count: 40, size: 40, seed: 3 });
  const images = (name: string) => {
    const files = readdirSync(inside(name, "images")).sort();
    return files.map((file) => readFileSync(inside(name, "images", file)));
  };
  alike = images("alike");
  const noise = (i: number) =>
    Uint8Array.from({ length: 1600 }, (_, k) => (Math.imul(k + 1, 2654435761 + 40503 * i) >>> 9) % 256);
  shifted = await Promise.all(
    Array.from({ length: 50 }, async (_, i) => Buffer.from(await encodePng({ data: noise(i), shape: [40, 40] }))),
  );
  const proved = await certify(certified);
  expect(proved.code, proved.stderr + proved.stdout).toBe(0);
}, 180_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const certify = (run: string) =>
  cli([
    ...["certify", run, "--data", inside("calibration"), "--split", "all", "--score", "softDiceConfidence"],
    ...["--alpha", "0.9", "--tau", "0.01", "--delta", "0.5", "--sets", "0.3", "--device", "cpu"],
  ]);

let copies = 0;
/** A run of its own. */
function copy(): string {
  const run = inside(`copy-${++copies}`, "tiny");
  cpSync(certified, run, { recursive: true });
  return run;
}

const ask = fetch as unknown as (
  url: string,
  init?: RequestInit,
) => Promise<Omit<Response, "json"> & { json(): Promise<ReturnType<typeof JSON.parse>> }>;

async function predict({ base }: RunningServer, bytes: Buffer, query = "") {
  const response = await ask(`${base}/v1/predict?outputs=mask${query}`, {
    method: "POST",
    body: new Uint8Array(bytes),
    headers: { "content-type": "image/png" },
  });
  expect(response.status).toBe(200);
  return (await response.json()).images[0];
}

const get = async ({ base }: RunningServer, url: string) => (await ask(`${base}${url}`)).json();
const certificateOf = async (server: RunningServer) => (await get(server, "/v1/models")).models[0].certificate;
const codes = ({ reasons }: { reasons: { code: string }[] }) => reasons.map(({ code }) => code);

/** The values of a metric by its labels but the model. */
async function metric({ base }: RunningServer, name: string): Promise<Record<string, number>> {
  const text = await (await ask(`${base}/metrics`)).text();
  const lines = text.matchAll(
    new RegExp(`^layer_ensembles_${name}\\{model="tiny"(?:,\\w+="(\\w+)")?\\} (\\S+)$`, "gm"),
  );
  return Object.fromEntries([...lines].map(([, label = "", value]) => [label, Number(value)]));
}

async function end(server: RunningServer) {
  server.child.kill("SIGTERM");
  expect(await server.ended).toBe(0);
}

async function reload(server: RunningServer, version: number) {
  server.child.kill("SIGHUP");
  await server.line(({ msg, version: now }) => msg === "reloaded" && now === version);
}

describe("a certificate in service", () => {
  it("that there is none of changes nothing", async () => {
    const run = copy();
    rmSync(path.join(run, "certificate.json"));
    const server = await startServer([run, "--linger", "0"]);
    const answer = await predict(server, alike[0] as Buffer);
    expect(answer).not.toHaveProperty("certificate");
    expect(answer.decision).toBe(null);
    expect(await certificateOf(server)).toMatchObject({ state: "none" });
    expect(await get(server, "/readyz")).toEqual({ status: "ready" });
    expect(await metric(server, "certificate_state")).toEqual({ none: 1, valid: 0, stale: 0, void: 0 });
    expect(readdirSync(run)).not.toContain("alarm");
    await end(server);
  });

  it("has thresholds of inner and outer masks, as long as it is in force", async () => {
    const run = copy();
    const server = await startServer([run, "--linger", "0"]);
    const { sets } = JSON.parse(readFileSync(path.join(run, "certificate.json"), "utf8"));
    expect((await certificateOf(server)).sets).toEqual(sets.thresholds);
    const files = async (query: string) => Object.keys((await predict(server, alike[0] as Buffer, query)).files);
    const { inner, outer } = sets.thresholds[1];
    const certified = await predict(server, alike[0] as Buffer, ",outer,inner");
    const given = await predict(server, alike[0] as Buffer, `,outer,inner&sets=${inner ?? "none"},${outer}`);
    expect(certified.files).toHaveProperty("outer");
    expect([certified.sets, certified.files]).toEqual([given.sets, given.files]);
    expect(await files(",outer&skip=1")).toEqual(["mask"]);
    appendFileSync(path.join(run, "certificate.json"), "{");
    await reload(server, 2);
    expect(await files(",outer")).toEqual(["mask"]);
    expect(await files(",outer&sets=none,0.5")).toEqual(["mask", "outer"]);
    await end(server);
  });

  it("is stale where the network runs in other numbers than those that were certified", async () => {
    const run = copy();
    const { precision, claim } = JSON.parse(readFileSync(path.join(run, "certificate.json"), "utf8"));
    for (const other of ["fp32", "bf16"]) {
      const server = await startServer([run, "--linger", "0", "--precision", other]);
      const answer = await predict(server, alike[0] as Buffer);
      if (other === precision) expect(answer.certificate).toMatchObject({ state: "valid", claim });
      else {
        expect(answer.certificate).toMatchObject({ state: "stale", message: expect.stringContaining(precision) });
        expect(answer.decision).toBe("review");
      }
      await end(server);
    }
  });

  it("that is valid decides, and stands in every answer", async () => {
    const run = copy();
    const server = await startServer([run, "--linger", "0"]);
    const { claim, score, threshold } = JSON.parse(readFileSync(path.join(run, "certificate.json"), "utf8"));
    expect(await certificateOf(server)).toMatchObject({ state: "valid", claim, score, threshold, alarm: { cases: 0 } });
    expect(await get(server, "/readyz")).toEqual({ status: "ready", certificates: { tiny: { state: "valid" } } });
    for (const bytes of alike.slice(0, 3)) {
      const answer = await predict(server, bytes);
      expect(answer.certificate).toEqual({ state: "valid", claim, alpha: 0.9, delta: 0.5, tau: 0.01 });
      expect(answer.score).toMatchObject({ name: score, threshold });
      const sure = !answer.empty && answer.score.value >= threshold;
      expect(answer.decision).toBe(sure ? "accept" : "review");
    }
    expect(await metric(server, "certificate_state")).toEqual({ none: 0, valid: 1, stale: 0, void: 0 });
    expect(await metric(server, "martingale_limit")).toEqual({ "": 100 });
    const { soft_dice_confidence: value } = await metric(server, "martingale");
    expect(value).toBeGreaterThan(0);
    expect(value).not.toBe(1);
    await end(server);
  });

  it("promises nothing of settings that a request chose, nor where the service has a gate of its own", async () => {
    const run = copy();
    const server = await startServer([run, "--linger", "0"]);
    const { skip } = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8"));
    const other = await predict(server, alike[0] as Buffer, `&skip=${skip + 1}`);
    expect([other.decision, codes(other)[0], other.certificate.state]).toEqual([
      "review",
      "certificate-stale",
      "stale",
    ]);
    expect(codes(await predict(server, alike[0] as Buffer, "&fusion=vote"))).toContain("certificate-stale");
    const own = await predict(server, alike[0] as Buffer, `&skip=${skip}&fusion=mean`);
    expect(own.certificate.state).toBe("valid");
    expect((await certificateOf(server)).alarm.cases).toBe(1);
    await end(server);
    const aside = await startServer([run, "--linger", "0", "--gate", "softDiceConfidence:0"]);
    const answer = await predict(aside, alike[0] as Buffer);
    expect(answer).not.toHaveProperty("certificate");
    expect(answer.score.threshold).toBe(0);
    expect(aside.log.find(({ state }) => state === "none")?.msg).toContain("set aside");
    await end(aside);
  });

  it("is stale once the weights are others, until the run is certified again", async () => {
    const run = copy();
    const server = await startServer([run, "--linger", "0"]);
    // As a training would end: other weights, of the same network.
    const weights = readFileSync(path.join(run, "weights.safetensors"));
    weights.writeUInt8(weights.readUInt8(weights.length - 4) ^ 1, weights.length - 4);
    writeFileSync(path.join(run, "weights.safetensors"), weights);
    expect((await predict(server, alike[0] as Buffer)).certificate.state).toBe("valid"); // what is loaded is as certified
    await reload(server, 2);
    const answer = await predict(server, alike[0] as Buffer);
    expect(answer.decision).toBe("review");
    expect(codes(answer)).toContain("certificate-stale");
    expect(answer.certificate).toEqual({ state: "stale", message: expect.stringContaining("weights") });
    expect(await certificateOf(server)).toMatchObject({ state: "stale", reason: "stale-weights" });
    expect((await get(server, "/readyz")).certificates.tiny.state).toBe("stale");
    expect(await metric(server, "certificate_state")).toEqual({ none: 0, valid: 0, stale: 1, void: 0 });
    expect((await cli(["certify", run, "--renew", "it is fine"])).stderr).toContain("ERR_LE_CHECKPOINT");
    expect((await certify(run)).code).toBe(0);
    await reload(server, 3);
    expect((await predict(server, alike[0] as Buffer)).certificate.state).toBe("valid");
    await end(server);
  });

  it.each<[string, (text: string) => string, string]>([
    ["edited", (text) => text.replace(/"threshold": [^,]+/, '"threshold": 0'), "edited"],
    ["no JSON", (text) => text.slice(0, -10), "damaged"],
    ["of a later version", (text) => text.replace('"format": 1', '"format": 2'), "another-version"],
  ])("is stale where it is %s", async (_, change, reason) => {
    const run = copy();
    const file = path.join(run, "certificate.json");
    writeFileSync(file, change(readFileSync(file, "utf8")));
    const server = await startServer([run, "--linger", "0"]);
    expect(await certificateOf(server)).toMatchObject({ state: "stale", reason });
    expect(await predict(server, alike[0] as Buffer)).toMatchObject({
      decision: "review",
      certificate: { state: "stale" },
    });
    await end(server);
  });
});

describe("the alarm over the stream", () => {
  it("stays quiet for cases like the calibration's, voids the certificate within 50 others, and is not forgotten", async () => {
    const run = copy();
    let server = await startServer([run, "--linger", "0"]);
    for (const bytes of alike) expect((await predict(server, bytes)).certificate.state).toBe("valid");
    await end(server);
    server = await startServer([run, "--linger", "0"]);
    expect((await certificateOf(server)).alarm.cases).toBe(alike.length);
    let first = -1;
    for (const [i, bytes] of shifted.entries()) {
      const answer = await predict(server, bytes);
      if (answer.certificate.state !== "void") continue;
      first = i;
      expect(answer.decision).toBe("review");
      expect(codes(answer)).toContain("certificate-void");
      // It is on the disk before the answer is here.
      const state = JSON.parse(readFileSync(path.join(run, "alarm", "state.json"), "utf8"));
      expect(state.voidSince).toMatch(/^\d{4}-/);
      expect(state.alarm.firedAt).toBe(alike.length + i + 1);
      break;
    }
    expect(first).toBeGreaterThan(0);
    await server.line(({ msg }) => msg.startsWith("certificate void"));
    server.child.kill("SIGKILL");
    await server.ended;
    server = await startServer([run, "--linger", "0"]);
    expect(await predict(server, alike[0] as Buffer)).toMatchObject({
      decision: "review",
      certificate: { state: "void", message: expect.stringContaining("renews") },
    });
    expect(await metric(server, "certificate_state")).toEqual({ none: 0, valid: 0, stale: 0, void: 1 });
    expect((await metric(server, "martingale")).soft_dice_confidence).toBeGreaterThan(10);
    expect((await get(server, "/readyz")).certificates.tiny).toMatchObject({ state: "void" });

    // A reload alone is no renewal; a person's word is, once.
    await reload(server, 2);
    expect((await certificateOf(server)).state).toBe("void");
    expect((await cli(["certify", run, "--renew", " "])).code).not.toBe(0);
    const renewed = await cli(["certify", run, "--renew", "the new probe was audited", "--json"]);
    expect(renewed.code, renewed.stderr).toBe(0);
    expect(JSON.parse(renewed.stdout)).toMatchObject({
      reason: "the new probe was audited",
      voidSince: expect.any(String),
    });
    await reload(server, 3);
    expect(await certificateOf(server)).toMatchObject({ state: "valid", alarm: { cases: 0 } });
    expect((await cli(["certify", run, "--renew", "again"])).stderr).toContain("ERR_LE_CHECKPOINT");
    const log = readFileSync(path.join(run, "alarm", "renewals.jsonl"), "utf8")
      .trimEnd()
      .split("\n");
    expect(log.map((line) => JSON.parse(line).reason)).toEqual(["the new probe was audited"]);
    await end(server);
  }, 90_000);

  it("goes off with many cases at once, and everything after it is for a person", async () => {
    const run = copy();
    const server = await startServer([run, "--linger", "0", "--max-queue", "200"]);
    const answers = await Promise.all([...shifted, ...shifted].map((bytes) => predict(server, bytes)));
    expect(answers.some(({ certificate }) => certificate.state === "void")).toBe(true);
    for (const { decision, certificate } of answers) if (certificate.state === "void") expect(decision).toBe("review");
    expect(await predict(server, alike[0] as Buffer)).toMatchObject({ decision: "review" });
    // A new certificate is a new beginning.
    expect((await certify(run)).code).toBe(0);
    await reload(server, 2);
    expect(await certificateOf(server)).toMatchObject({ state: "valid", alarm: { cases: 0 } });
    await end(server);
  }, 60_000);

  it("counts as gone off where what was kept is damaged, until a person renews it", async () => {
    const run = copy();
    await end(await startServer([run, "--linger", "0"]));
    appendFileSync(path.join(run, "alarm", "state.json"), "}");
    const server = await startServer([run, "--linger", "0"]);
    expect((await certificateOf(server)).state).toBe("void");
    expect((await cli(["certify", run, "--renew", "the disk was mended"])).code).toBe(0);
    await reload(server, 2);
    expect((await certificateOf(server)).state).toBe("valid");
    await end(server);
  });

  it("is kept by one server alone, in the run or where --state says", async () => {
    const run = copy();
    const first = await startServer([run, "--linger", "0"]);
    const refused = await cli(["serve", run, "--port", "0", "--device", "cpu"]);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/ERR_LE_BUSY.*--state/)]);
    const state = inside("state");
    const second = await startServer([run, "--linger", "0", "--state", state]);
    await predict(second, alike[0] as Buffer);
    await end(second);
    expect(JSON.parse(readFileSync(path.join(state, "tiny", "state.json"), "utf8")).alarm.cases).toBe(1);
    expect((await certificateOf(first)).alarm.cases).toBe(0);
    await end(first);
  });
});

describe("a disk that takes nothing", () => {
  const disk = () => inside("disk");
  const mount = (...args: string[]) => spawnSync("mount", args).status === 0;

  it("keeps a server from starting, unless --state says another; a void certificate stays so, and is told again to the disk", async () => {
    mkdirSync(disk());
    if (!mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", disk())) return;
    try {
      const run = path.join(disk(), "tiny");
      cpSync(certified, run, { recursive: true });
      mount("-o", "remount,ro", disk());
      const refused = await cli(["serve", run, "--port", "0", "--device", "cpu"]);
      expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/ERR_LE_IO.*--state DIR/)]);
      await end(await startServer([run, "--linger", "0", "--state", inside("elsewhere")]));
      mount("-o", "remount,rw", disk());
      const server = await startServer([run, "--linger", "0"]);
      fillDisk(path.join(disk(), "filler"));
      let state = "";
      for (const bytes of shifted) state = (await predict(server, bytes)).certificate.state;
      expect(state).toBe("void");
      await server.line(({ msg }) => msg.includes("cannot be kept"));
      const file = path.join(run, "alarm", "state.json");
      expect(JSON.parse(readFileSync(file, "utf8")).voidSince).toBe(null);
      rmSync(path.join(disk(), "filler"));
      await vi.waitFor(() => expect(JSON.parse(readFileSync(file, "utf8")).voidSince).not.toBe(null), 10_000);
      await end(server);
    } finally {
      spawnSync("umount", [disk()]);
    }
  }, 60_000);
});

describe.skipIf(!CHROMIUM)("the page", () => {
  it("says what is promised, and when it is no more", async () => {
    const run = copy();
    const server = await startServer([run, "--linger", "0"]);
    const browser = await openBrowser();
    const page = await browser.context.newPage();
    await page.setViewportSize({ width: 1000, height: 900 });
    const keep = async (name: string) => {
      const target = process.env.LAYER_ENSEMBLES_SCREENSHOTS;
      if (target) await page.screenshot({ path: path.join(target, `certificate-${name}.png`), fullPage: true });
    };
    try {
      await page.goto(server.base);
      await page.waitForSelector("#certificate[data-state=valid]");
      const { claim } = JSON.parse(readFileSync(path.join(run, "certificate.json"), "utf8"));
      expect(await page.textContent("#certificate")).toContain(claim);
      const upload = { name: "image.png", mimeType: "image/png", buffer: alike[0] as Buffer };
      await page.setInputFiles("#file", upload);
      await page.waitForSelector("#pictures figure:nth-child(3) img");
      await page.waitForFunction("document.querySelector('#certificate').textContent.includes(' 1 case')");
      await keep("valid");
      await Promise.all(shifted.map((bytes) => predict(server, bytes)));
      await page.setInputFiles("#file", { ...upload, buffer: shifted[0] as Buffer });
      await page.waitForSelector("#certificate[data-state=void]");
      await page.waitForSelector("#pictures figure:nth-child(3) img");
      expect(await page.textContent("#certificate")).toContain("void");
      expect(await page.textContent("#verdict")).toBe("A person should look at this one");
      await keep("void");
    } finally {
      await browser.close();
      server.child.kill("SIGKILL");
    }
  }, 60_000);
});
