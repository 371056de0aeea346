// What docs/architecture.md and CONTRIBUTING.md say of the code is true.
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";

const sources = (folder: string, ends: RegExp) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => ends.test(file))
    .map((file) => path.join(folder, file));
const lib = sources("lib", /\.ts$/);
const core = sources("native", /\.(cpp|h)$/).filter((file) => !/native\/(tests|fuzz)\//.test(file));

const roomOf = (file: string) => (file.split("/")[1] as string).replace(/\.ts$/, "");

describe("docs/architecture.md", () => {
  const text = readFileSync("docs/architecture.md", "utf8");
  const rooms = [...text.matchAll(/^\| (`.*`) \|/gm)].map(([, names = ""]) =>
    [...names.matchAll(/`(\w+)`/g)].map(([, name]) => name as string),
  );

  it("names every room once", () => {
    const named = rooms.flat();
    expect(named).toHaveLength(new Set(named).size);
    expect(named.toSorted()).toEqual([...new Set(lib.map(roomOf))].sort());
  });

  it("has them in an order in which no room imports one below it", () => {
    const height = new Map(rooms.flatMap((row, i) => row.map((room) => [room, i])));
    const up: string[] = [];
    for (const file of lib)
      for (const [, from = ""] of readFileSync(file, "utf8").matchAll(/(?:from |import\()"(\.[^"]+)\.js"/g)) {
        const target = path.join(path.dirname(file), from);
        const [own, other] = [height.get(roomOf(file)), height.get(roomOf(`${target}.ts`))];
        if ((other as number) > (own as number)) up.push(`${file} imports ${target}`);
      }
    expect(up).toEqual([]);
  });

  it("keeps Node out of the core, and libtorch's mathematics out of the binding", () => {
    const including = (files: string[], what: RegExp) => files.filter((file) => what.test(readFileSync(file, "utf8")));
    const inCore = core.filter((file) => file.startsWith("native/core/"));
    expect(inCore.length).toBeGreaterThan(50);
    expect(including(inCore, /#include [<"](napi|node_api|uv)/)).toEqual([]);
  });
});

describe("CONTRIBUTING.md", () => {
  const text = readFileSync("CONTRIBUTING.md", "utf8");
  const rows = [...text.matchAll(/^\| (an? [\w ]+) \| (.+?) \| `([^`]+)` \|/gm)].map(
    ([, what = "", files = "", example = ""]) =>
      [what, example, [...files.matchAll(/`([^`]+)`/g)].map(([, file]) => file)] as const,
  );

  it("says of what there is how to add more", () => {
    expect(rows.length).toBeGreaterThanOrEqual(7);
  });

  it.each(rows)("to add %s: the files that know the example %s are those that it names", (_, example, files) => {
    for (const file of files) expect(existsSync(file as string) && statSync(file as string).isFile(), file).toBe(true);
    const known = [...lib, ...core].filter((file) => new RegExp(example, "i").test(readFileSync(file, "utf8")));
    expect(known.toSorted()).toEqual(files.filter((file) => /^(lib|native)\//.test(file as string)).toSorted());
  });
});
