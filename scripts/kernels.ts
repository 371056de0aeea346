// Compiles the files of wasm to *.wasm.ts in lib, which are committed: so that building, installing and testing need no
// compiler for them. A test compares the two.
//   npx tsx scripts/kernels.ts
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { main as asc } from "assemblyscript/asc";
import { PACKAGE_ROOT } from "../lib/package.js";

/** A WebAssembly module of this package. */
export interface WasmModule {
  source: string;
  compiled: string;
  /** The compiled file's constant. */
  constant: string;
  /** Of 64 KiB each: its memory. */
  pages: number;
}

export const MODULES: readonly WasmModule[] = [
  { source: "wasm/kernels.ts", compiled: "lib/fusion/kernels.wasm.ts", constant: "KERNELS", pages: 4 },
  { source: "wasm/neighbours.ts", compiled: "lib/agreement/neighbours.wasm.ts", constant: "NEIGHBOURS", pages: 1 },
];

/** The module in WebAssembly's binary format. */
export async function compileModule({ source, pages }: WasmModule): Promise<Uint8Array> {
  let binary = new Uint8Array();
  const options = [
    "-O3",
    "--runtime",
    "stub",
    "--enable",
    "simd",
    "--initialMemory",
    `${pages}`,
    "--outFile",
    "it.wasm",
  ];
  const { error, stderr } = await asc([source, ...options], {
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
  if (error) throw new Error(`${source} does not compile: ${error.message}\n${stderr.toString()}`);
  return binary;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  for (const module of MODULES) {
    const binary = await compileModule(module);
    const lines =
      Buffer.from(binary)
        .toString("base64")
        .match(/.{1,112}/g) ?? [];
    const text = `// Made by scripts/kernels.ts of ${module.source}; not to be edited.

/** The WebAssembly module, in base64. */
export const ${module.constant} = [
${lines.map((line) => `  "${line}",`).join("\n")}
].join("");
`;
    writeFileSync(path.join(PACKAGE_ROOT, module.compiled), text);
    process.stdout.write(`${module.compiled}: ${binary.length} bytes\n`);
  }
}
