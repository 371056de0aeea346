import { writeFileSync } from "node:fs";
import path from "node:path";
import { expect, it } from "vitest";
import { commandLine, readStudy, studyRuns } from "../../lib/study/config.js";
import { temporaryFolder } from "../support/libtorch.js";

/** What is read of a file `folder/busi.json` that holds this. */
async function read(content: unknown, folder = temporaryFolder()) {
  const file = path.join(folder, "busi.json");
  writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
  return readStudy(file);
}
const least = { data: "data", out: "out", methods: { le: {} } };

it("has defaults, and folders relative to its file", async () => {
  const folder = temporaryFolder();
  expect(await read({ ...least, data: "/data", compare: { ood: "../other", tau: 0.7 } }, folder)).toEqual({
    title: "busi",
    data: "/data",
    out: path.join(folder, "out"),
    train: {},
    methods: { le: {} },
    seeds: [0],
    tune: {},
    compare: { ood: path.join(folder, "../other"), tau: 0.7 },
  });
});

it.each([
  ["{", "ERR_LE_DATA", /a study's JSON in .*busi\.json/],
  [{ data: "data", methods: { le: {} } }, "ERR_LE_OPTION", /'out'/],
  [{ ...least, outt: "x" }, "ERR_LE_OPTION", /'outt'.*'out'/],
  [{ ...least, methods: { lee: {} } }, "ERR_LE_OPTION", /'lee'/],
  [{ ...least, methods: { le: { width: {} } } }, "ERR_LE_OPTION", /'le'/],
  [{ ...least, methods: {} }, "ERR_LE_OPTION", /at least one method/],
  [{ ...least, methods: [] }, "ERR_LE_OPTION", /'methods'/],
  [{ ...least, seeds: [1, 1] }, "ERR_LE_OPTION", /distinct seeds/],
  [{ ...least, seeds: [] }, "ERR_LE_OPTION", /'seeds'/],
  [{ ...least, tune: true }, "ERR_LE_OPTION", /'tune'/],
])("%j is refused: %s", async (content, code, message) => {
  await expect(read(content)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
});

it("trains, for each seed, deep ensembles first and each method with its own flags over those of all", async () => {
  const methods = { le: { epochs: 9 }, plain: {}, de: { members: 3, jobs: 2 } };
  const config = await read({ data: "/d", out: "/o", train: { epochs: 5, size: "64x64" }, methods, seeds: [0, 7] });
  const runs = studyRuns(config);
  expect(runs.map(({ method, seed, folder }) => [method, seed, folder])).toEqual([
    ["de", 0, "/o/runs/de-0"],
    ["plain", 0, "/o/runs/plain-0"],
    ["le", 0, "/o/runs/le-0"],
    ["de", 7, "/o/runs/de-7"],
    ["plain", 7, "/o/runs/plain-7"],
    ["le", 7, "/o/runs/le-7"],
  ]);
  expect(runs[5]?.flags).toEqual(
    "--epochs 9 --size 64x64 --data /d --run /o/runs/le-7 --method le --seed 7".split(" "),
  );
  expect(runs.map(({ copyOf }) => copyOf)).toEqual([
    ...[undefined, "/o/runs/de-0/members/1", undefined],
    ...[undefined, "/o/runs/de-7/members/1", undefined],
  ]);
});

it("trains a plain network by itself where it is trained unlike a deep ensemble's members", async () => {
  for (const methods of [{ plain: {}, de: { members: 3, epochs: 2 } }, { plain: {} }]) {
    const runs = studyRuns(await read({ ...least, methods }));
    expect(runs.find(({ method }) => method === "plain")).not.toHaveProperty("copyOf");
  }
});

it("becomes flags as a command line has them", () => {
  expect(commandLine({ clipNorm: 1, resume: true, augment: false, size: [64, 96], where: ["a=1", "b=2"] })).toEqual(
    "--clip-norm 1 --resume --size 64,96 --where a=1 --where b=2".split(" "),
  );
  expect(commandLine({ oodWhere: "site=3" })).toEqual(["--ood-where", "site=3"]);
});
