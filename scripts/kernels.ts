// Compiles wasm/kernels.ts to lib/fusion/kernels.wasm.ts, which is committed: so that building, installing and testing need
// no compiler for it. A test compares the two.
//   npx tsx scripts/kernels.ts
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { main as asc } from "assemblyscript/asc";
import { PACKAGE_ROOT } from "../lib/native/package.js";

const SOURCE = "wasm/kernels.ts";
export const COMPILED = path.join(PACKAGE_ROOT, "lib", "fusion", "kernels.wasm.ts");

/** The module in WebAssembly's binary format. */
export async function compileKernels(): Promise<Uint8Array> {
  let binary = new Uint8Array();
  const options = ["-O3", "--runtime", "stub", "--enable", "simd", "--initialMemory", "4", "--outFile", "kernels.wasm"];
  const { error, stderr } = await asc([SOURCE, ...options], {
    readFile: (name, base) => {
      try {
        return readFileSync(path.resolve(PACKAGE_ROOT, base, name), "utf8");
      } catch {
        return null; // not in this place: the compiler looks in others
      }
    },
    writeFile: (_, contents) => {
      if (typeof contents !== "string") binary = new Uint8Array(contents);
    },
    listFiles: () => [],
  });
  if (error) throw new Error(`${SOURCE} does not compile: ${error.message}\n${stderr.toString()}`);
  return binary;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const binary = await compileKernels();
  const lines =
    Buffer.from(binary)
      .toString("base64")
      .match(/.{1,112}/g) ?? [];
  const text = `// Made by scripts/kernels.ts of wasm/kernels.ts; not to be edited.

/** The WebAssembly module, in base64. */
export const KERNELS = [
${lines.map((line) => `  "${line}",`).join("\n")}
].join("");
`;
  writeFileSync(COMPILED, text);
  process.stdout.write(`${path.relative(PACKAGE_ROOT, COMPILED)}: ${binary.length} bytes\n`);
}
