import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { FONT } from "./theme.js";

let ready: Promise<Uint8Array[]> | undefined;

/**
 * An SVG as a PNG. Text is set in a font that comes with the package, so the picture is the same on a machine that has no
 * fonts at all.
 * @param width in pixels @default twice the SVG's own
 */
export async function rasterise(svg: string, width?: number): Promise<Uint8Array> {
  const { Resvg } = await import("@resvg/resvg-wasm");
  ready ??= prepare();
  const renderer = new Resvg(svg, {
    font: { fontBuffers: await ready, defaultFontFamily: FONT.split(",")[0]!, sansSerifFamily: FONT.split(",")[0]! },
    fitTo: width === undefined ? { mode: "zoom", value: 2 } : { mode: "width", value: width },
  });
  try {
    const image = renderer.render();
    const png = image.asPng();
    image.free();
    return png;
  } finally {
    renderer.free();
  }
}

/** Starts the renderer, once, and reads the fonts. */
async function prepare(): Promise<Uint8Array[]> {
  const { initWasm } = await import("@resvg/resvg-wasm");
  const require = createRequire(import.meta.url);
  const read = (name: string) => readFile(require.resolve(name));
  await initWasm(await read("@resvg/resvg-wasm/index_bg.wasm"));
  return Promise.all(
    ["400Regular/Arimo_400Regular", "700Bold/Arimo_700Bold"].map((name) =>
      read(`@expo-google-fonts/arimo/${name}.ttf`),
    ),
  );
}
