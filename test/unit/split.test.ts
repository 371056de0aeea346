import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { csvLine, parseCsv } from "../../lib/data/csv.js";
import { fractionSplit } from "../../lib/data/splits.js";

describe("parseCsv", () => {
  test("reads quotes, doubled quotes, commas and line breaks inside them, CRLF and a byte-order mark", () => {
    const { columns, rows } = parseCsv('\uFEFFid,"a ""b"""\r\n1,"x, y"\r\n\r\n2,"two\nlines"', "t.csv");
    expect(columns).toEqual(["id", 'a "b"']);
    expect(rows).toEqual([
      { id: "1", 'a "b"': "x, y" },
      { id: "2", 'a "b"': "two\nlines" },
    ]);
  });

  test("reads back what csvLine writes", () => {
    fc.assert(
      fc.property(fc.array(fc.array(fc.string(), { minLength: 2, maxLength: 2 })), (rows) => {
        const text = [["a", "b"], ...rows].map(csvLine).join("\n");
        expect(parseCsv(text, "t.csv").rows).toEqual(rows.map(([a, b]) => ({ a, b })));
      }),
    );
  });

  test.each([
    ["a,b\n1,2\n1,2,3\n", /Expected 2 fields \(a,b\) for line 3 of t.csv but received 3/],
    ['a,b\n1,"2\n', /closing quote .* line 2 of t.csv/],
    ["a,b,a\n", /distinct column names for t.csv but received "a" twice/],
    ["", /header line for t.csv/],
  ])("%j is an error", (text, message) => {
    expect(() => parseCsv(text, "t.csv")).toThrow(message);
  });
});

describe("fractionSplit", () => {
  const items = Array.from({ length: 200 }, (_, i) => ({ id: `i${i}`, group: `g${i % 40}` }));
  const count = (names: string[], name: string) => names.filter((other) => other === name).length;

  test("keeps groups together, and never takes more than a share", () => {
    const names = fractionSplit(items, { valFraction: 0.2, testFraction: 0.3, seed: 4 });
    const seen = new Map<string, string>();
    items.forEach(({ group }, i) => {
      expect(seen.get(group) ?? names[i]).toBe(names[i]);
      seen.set(group, names[i]!);
    });
    expect([count(names, "train"), count(names, "val"), count(names, "test")]).toEqual([100, 40, 60]);
  });

  test("depends on the seed, not on the order of the items", () => {
    const options = { valFraction: 0.2, testFraction: 0.2, seed: 1 };
    const names = fractionSplit(items, options);
    expect(fractionSplit([...items].reverse(), options).reverse()).toEqual(names);
    expect(fractionSplit(items, { ...options, seed: 2 })).not.toEqual(names);
  });

  test("a small share still gets one group", () => {
    const few = items.slice(0, 5).map(({ id }) => ({ id }));
    const names = fractionSplit(few, { valFraction: 0.01, testFraction: 0.01 });
    expect([count(names, "train"), count(names, "val"), count(names, "test")]).toEqual([3, 1, 1]);
  });

  test("too few groups, or shares that leave nothing to train, are errors", () => {
    const two = [{ id: "a" }, { id: "b" }];
    expect(() => fractionSplit(two, { valFraction: 0.1, testFraction: 0.1 })).toThrow(
      "Expected at least 3 groups for 3 splits but received 2",
    );
    expect(() => fractionSplit(items, { valFraction: 0.5, testFraction: 0.5 })).toThrow("0.5 + 0.5");
  });
});
