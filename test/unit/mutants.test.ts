import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, it } from "vitest";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { MUTANTS, mutate } from "../mutants.js";

const inside = (...names: string[]) => path.join(PACKAGE_ROOT, ...names);
const cpp = readdirSync(inside("native/tests"))
  .map((name) => readFileSync(inside("native/tests", name), "utf8"))
  .join()
  // clang-format breaks before a long name.
  .replace(/TEST\(\s+/g, "TEST(");

it.each(MUTANTS)("the mutant '$name' changes what is there once, for tests that there are", (mutant) => {
  const source = readFileSync(inside(mutant.file), "utf8");
  expect(mutate(source, mutant)).not.toBe(source);
  for (const test of mutant.tests)
    expect(test.endsWith(".test.ts") ? existsSync(inside(test)) : cpp.includes(`TEST("${test}`), test).toBe(true);
});

it("every mutant has a name of its own", () => {
  expect(new Set(MUTANTS.map(({ name }) => name)).size).toBe(MUTANTS.length);
});
