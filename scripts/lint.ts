// Checks formatting, lint rules, types, the lists of the boundary's functions, and that everything public has a doc comment;
// --write formats instead.
//   npm run lint        npm run format
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { PACKAGE_ROOT } from "../lib/package.js";
import { main } from "./build.js";

const require = createRequire(import.meta.url);

await main(async () => {
  const write = process.argv.includes("--write");
  const sources = readdirSync(path.join(PACKAGE_ROOT, "native"), { recursive: true, encoding: "utf8" })
    .filter((file) => /\.(?:c|cpp|h|cu)$/.test(file))
    .map((file) => path.join("native", file))
    .sort();
  const node = process.execPath;
  const checks: Record<string, string[]> = {
    biome: [node, require.resolve("@biomejs/biome/bin/biome"), "check", write ? "--write" : "--error-on-warnings"],
    "clang-format": [
      require("clang-format").getNativeBinary(),
      ...(write ? ["-i"] : ["--dry-run", "-Werror"]),
      ...sources,
    ],
    ...(!write && {
      boundary: [node, "--import", "tsx", "scripts/check-boundary.ts"],
      tsc: [node, require.resolve("typescript/bin/tsc"), "-p", "tsconfig.json"],
      typedoc: [
        node,
        path.join(path.dirname(require.resolve("typedoc/package.json")), "bin", "typedoc"),
        "--emit",
        "none",
      ],
    }),
  };
  const failed: string[] = [];
  for (const [name, [command = "", ...args]] of Object.entries(checks)) {
    const result = spawnSync(command, args, { cwd: PACKAGE_ROOT, stdio: "inherit" });
    if (result.status !== 0) failed.push(name);
  }
  process.stdout.write(
    failed.length ? `FAILED: ${failed.join(", ")}. Fix: npm run format, then the rest by hand.\n` : "OK\n",
  );
  return failed.length ? 1 : 0;
});
