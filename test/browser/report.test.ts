// The report in a real browser. Skipped where there is none: see CHROMIUM.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeReport } from "../../lib/report/comparison/index.js";
import { type Browser, CHROMIUM, openBrowser } from "../support/browser.js";
import { makeComparison } from "../support/comparison.js";

const pages = {
  whole: { title: "A title with averyveryveryveryveryveryveryveryveryverylongword in it" },
  small: { methods: ["plain"], seeds: 1, images: 4, shift: false },
  empty: { nulls: true, classes: 3 },
} as const;

describe.skipIf(!CHROMIUM)("report.html", () => {
  let folder: string;
  let browser: Browser;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "le-report-"));
    for (const [name, options] of Object.entries(pages)) await writeReport(makeComparison(options), join(folder, name));
    browser = await openBrowser();
  }, 300_000);

  afterAll(async () => {
    await browser?.close();
    await rm(folder, { recursive: true, force: true });
  });

  /** Opens a report, and looks at it with what runs inside the page. */
  async function open(name: string, width: number, colorScheme: "light" | "dark") {
    const page = await browser.context.newPage();
    const problems: string[] = [];
    const requests: string[] = [];
    page.on("console", (message) => problems.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("requestfailed", (request) => problems.push(`${request.url()}: ${request.failure()?.errorText}`));
    page.on("request", (request) => requests.push(request.url().slice(0, 5)));
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 844 });
    await page.goto(pathToFileURL(join(folder, name, "report.html")).href);
    const seen = (await page.evaluate(`({
      width: document.scrollingElement.scrollWidth,
      page: getComputedStyle(document.body).backgroundColor,
      text: getComputedStyle(document.body).color,
      figures: [...document.querySelectorAll("figure > .scroll > svg")].map((svg) => {
        const { width, height } = svg.getBoundingClientRect();
        return { width, height, paper: getComputedStyle(svg.querySelector("rect")).fill };
      }),
      images: [...document.querySelectorAll("figure svg image")].map((image) => image.getBoundingClientRect().width),
      wide: [...document.querySelectorAll("main > *, section > *, header > *")]
        .filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5).map((element) => element.outerHTML.slice(0, 80)),
    })`)) as {
      width: number;
      page: string;
      text: string;
      figures: { width: number; height: number; paper: string }[];
      images: number[];
      wide: string[];
    };
    await page.close();
    return { ...seen, problems, requests };
  }

  const brightness = (colour: string) =>
    colour
      .match(/\d+/g)!
      .slice(0, 3)
      .reduce((sum, value) => sum + Number(value), 0);

  for (const [name, count] of [
    ["whole", 12],
    ["small", 4],
    ["empty", 5],
  ] as const) {
    test.each([
      [390, "light"],
      [390, "dark"],
      [1200, "light"],
      [1200, "dark"],
    ] as const)(`${name}: fits into %i pixels, ${count} figures, no complaint, %s`, async (width, scheme) => {
      const seen = await open(name, width, scheme);
      expect(seen.problems).toEqual([]);
      for (const request of seen.requests) expect(["file:", "data:"]).toContain(request);
      expect(seen.width).toBeLessThanOrEqual(width);
      expect(seen.wide).toEqual([]);
      expect(seen.figures.length).toBe(count);
      for (const figure of seen.figures) {
        expect(figure.width).toBeGreaterThan(300);
        expect(figure.height).toBeGreaterThan(80);
        // The figures' paper is the page's: they follow its colour scheme.
        expect(figure.paper).toBe(seen.page);
      }
      for (const image of seen.images) expect(image).toBeGreaterThan(10);
      expect(brightness(seen.text) > brightness(seen.page)).toBe(scheme === "dark");
    });
  }
});
