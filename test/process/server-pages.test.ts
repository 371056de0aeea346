// The pages in a real browser; skipped where there is none. LAYER_ENSEMBLES_SCREENSHOTS=FOLDER keeps pictures of them.
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Browser, CHROMIUM, openBrowser } from "../support/browser.js";
import { type RunningServer, startServer, tinyRun } from "../support/serve.js";

describe.skipIf(!CHROMIUM)("the pages", () => {
  let folder: string;
  let data: string;
  let server: RunningServer;
  let browser: Browser;

  beforeAll(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-pages-"));
    let run: string;
    ({ run, data } = await tinyRun(folder));
    server = await startServer([process.env.LAYER_ENSEMBLES_RUN ?? run, "--gate", "pairwiseAgreement:0.999"], true);
    browser = await openBrowser();
  }, 90_000);
  afterAll(async () => {
    await browser?.close();
    server?.child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  });

  /** Opens a page; anything that it asks of another host, or that goes wrong in it, fails the test. */
  async function open(url: string): Promise<{ page: Page; problems: string[] }> {
    const page = await browser.context.newPage();
    await page.setViewportSize({ width: 1000, height: 900 });
    const problems: string[] = [];
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    page.on("request", (request) => {
      if (!request.url().startsWith(server.base) && !/^(data|blob):/.test(request.url())) problems.push(request.url());
    });
    await page.goto(`${server.base}${url}`);
    return { page, problems };
  }

  async function keep(page: Page, name: string) {
    const target = process.env.LAYER_ENSEMBLES_SCREENSHOTS;
    if (target) await page.screenshot({ path: path.join(target, `${name}.png`), fullPage: true });
  }

  it("uploads an image and shows mask, heat map, AULA and decision", async () => {
    const { page, problems } = await open("/");
    const [name] = readdirSync(path.join(data, "images"));
    const image = process.env.LAYER_ENSEMBLES_IMAGE ?? path.join(data, "images", name as string);
    await page.setInputFiles("#file", image);
    await page.waitForSelector("#pictures figure:nth-child(3) img");
    expect(await page.textContent("#verdict")).toBe("A person should look at this one");
    expect(await page.textContent("#reasons")).toContain("pairwiseAgreement is");
    expect(await page.textContent("#numbers")).toMatch(/AULA\d/);
    await page.waitForFunction("[...document.images].every((image) => image.complete && image.naturalWidth > 0)");
    const sizes = (await page.evaluate("[...document.images].map((image) => image.naturalWidth)")) as number[];
    const [overlay = 0, mask = 0, entropy] = sizes;
    expect(mask).toBeGreaterThan(30);
    expect(entropy).toBe(mask);
    expect(overlay % mask).toBe(0); // small images are enlarged, so that the outline is thin
    await keep(page, "upload");
    await page.setInputFiles("#file", { name: "no.png", mimeType: "image/png", buffer: Buffer.from("no image") });
    await page.waitForSelector("#verdict.failed");
    expect(await page.textContent("#verdict")).toContain("Expected a PNG");
    // The browser itself reports the refusal.
    expect(problems.filter((problem) => !problem.includes("400"))).toEqual([]);
    await page.close();
  });

  it("shows the API, and tries a route", async () => {
    const { page, problems } = await open("/docs");
    await page.waitForSelector("#routes details");
    const routes = await page.$$eval("#routes summary code", (codes) => codes.map(({ textContent }) => textContent));
    const { paths } = JSON.parse(await (await fetch(`${server.base}/openapi.json`)).text());
    expect(routes).toEqual(Object.keys(paths));
    await page.click("#routes details:has(code:text-is('/v1/predict')) summary");
    await page.click("#routes details:has(code:text-is('/readyz')) summary");
    await page.click("#routes details:has(code:text-is('/readyz')) button");
    await page.waitForSelector("#routes pre");
    expect(await page.textContent("#routes pre")).toContain('{"status":"ready"}');
    await keep(page, "docs");
    expect(problems).toEqual([]);
    await page.close();
  });
});
