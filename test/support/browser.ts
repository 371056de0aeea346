// A headless Chromium for tests of pages.
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BrowserContext, chromium } from "playwright-core";

/** Path of a Chromium: LAYER_ENSEMBLES_CHROMIUM, else where Debian puts it; undefined where there is none. */
export const CHROMIUM = [process.env.LAYER_ENSEMBLES_CHROMIUM, "/usr/bin/chromium"].find((path) => {
  if (!path) return false;
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
});

/** A running browser with a profile of its own, which goes when it is closed. */
export interface Browser {
  context: BrowserContext;
  close(): Promise<void>;
}

/** Starts {@link CHROMIUM}. */
export async function openBrowser(): Promise<Browser> {
  const profile = mkdtempSync(join(tmpdir(), "le-chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM!,
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  return {
    context,
    async close() {
      await context.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}
