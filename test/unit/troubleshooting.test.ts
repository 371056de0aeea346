// docs/troubleshooting.md has every error code, and no other.
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";

const read = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), "utf8");
const codes = [...read("lib/errors.ts").matchAll(/^ {2}\| "(ERR_LE_\w+)"/gm)].map(([, code]) => code);
const text = read("docs/troubleshooting.md");

it("has a section with an example for every code, and none for others", () => {
  expect(codes.length).toBeGreaterThan(0);
  const sections = [...text.matchAll(/^### (ERR_LE_\w+)\n\n {4}\S.*|^### (ERR_LE_\w+)\n\n {6}- .*/gm)];
  expect(sections.map(([, code, other]) => code ?? other).sort()).toEqual([...codes].sort());
});

it("names no code that does not exist", () => {
  const named = new Set(text.match(/\bERR_LE_\w+/g));
  expect([...named].sort()).toEqual([...codes].sort());
});

it("leads to sections that are there", () => {
  const anchors = new Set(
    [...text.matchAll(/^#+ (.*)$/gm)].map(([, title = ""]) =>
      title
        .toLowerCase()
        .replace(/[^\w\- ]/g, "")
        .replaceAll(" ", "-"),
    ),
  );
  const missing = [...text.matchAll(/\]\(#([^)]*)\)/g)].map(([, to = ""]) => to).filter((to) => !anchors.has(to));
  expect(missing).toEqual([]);
});
