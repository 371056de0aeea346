// What importing an entry of the package loads at once: heavy libraries only where they are used.
import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, it } from "vitest";
import { PACKAGE_ROOT } from "../../lib/package.js";

/** Packages that a module and what it imports load as it is loaded: static imports of values, not of types alone. */
function packagesOf(entry: string): string[] {
  const seen = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string) => {
    if (seen.has(file)) return;
    seen.add(file);
    const source = readFileSync(file, "utf8");
    for (const [, clause = "", target = ""] of source.matchAll(
      /^(?:import|export) ((?:type )?(?:\* as \w+|\*|\w+|\{[^}]*\}|\w+, \{[^}]*\})) from "([^"]+)";/gm,
    )) {
      const names = /^\{([\s\S]*)\}\s*$/.exec(clause)?.[1]?.split(",");
      const typesOnly = clause.startsWith("type ") || names?.every((name) => /^\s*(type\s|$)/.test(name));
      if (typesOnly || target.startsWith("node:")) continue;
      if (target.startsWith(".")) visit(path.resolve(path.dirname(file), target.replace(/\.js$/, ".ts")));
      else packages.add(target);
    }
  };
  visit(path.join(PACKAGE_ROOT, "lib", entry));
  return [...packages].sort();
}

it.each([
  ["index.ts", ["node-gyp-build"]],
  ["metrics/index.ts", []],
  ["volumes/index.ts", []],
])("%s loads %j", (entry, expected) => {
  expect(packagesOf(entry).filter((name) => !expected.includes(name))).toEqual([]);
});

it("server/index.ts loads no HTTP, no metrics and no thread library before a server is made", () => {
  const heavy = ["fastify", "@fastify/multipart", "prom-client", "piscina", "sharp"];
  expect(packagesOf("server/index.ts").filter((name) => heavy.includes(name))).toEqual([]);
  expect(packagesOf("server/image-worker.ts")).toContain("piscina"); // the test can see it
});
