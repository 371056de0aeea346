// The routes as fastify registers them, without a model.
import fastify from "fastify";
import { expect, it } from "vitest";
import { OUTPUTS } from "../../lib/server/image-work.js";
import { routes } from "../../lib/server/routes.js";
import { CHOICES, type PredictionService } from "../../lib/server/service.js";

const service = {
  limits: { maxBody: 2 ** 20, maxPixels: 1e6, maxImages: 4, timeout: 1000 },
  models: [{ name: "tiny" }, { name: "other" }],
  metrics: { requests: { observe() {} }, rejections: { inc() {} } },
  async close() {},
} as unknown as PredictionService;

interface Operation {
  summary: string;
  parameters?: { name: string }[];
}

it.each(["", "/segmentation"])("each route below %j is described, and no other", async (prefix) => {
  const app = fastify();
  const registered = new Set<string>();
  app.addHook("onRoute", ({ method, url }) => {
    // Those for several methods refuse them, and HEAD is fastify's own.
    if (typeof method !== "string" || method === "HEAD") return;
    registered.add(`${method} ${url.slice(prefix.length).replace(/:(\w+)/g, "{$1}") || "/"}`);
  });
  await app.register(routes(service), { prefix });
  const { openapi, servers, paths, components } = (await app.inject(`${prefix}/openapi.json`)).json();
  expect([openapi, servers]).toEqual(["3.1.0", [{ url: prefix || "/" }]]);
  const described: string[] = [];
  for (const [path, operations] of Object.entries<Record<string, Operation>>(paths)) {
    for (const [method, { summary, parameters = [] }] of Object.entries(operations)) {
      described.push(`${method.toUpperCase()} ${path}`);
      expect(summary).toMatch(/^[A-Z]/);
      // What stands in a path is a parameter of it.
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      expect(parameters.map(({ name }) => name)).toEqual(expect.arrayContaining(inPath));
    }
    // The page has two addresses below a prefix, and refuses at neither.
    if (prefix && path === "/") continue;
    const url = `${prefix}${path}`.replace("{name}", "tiny").replace("{version}", "1");
    const { allow } = (await app.inject({ method: "OPTIONS", url })).headers;
    const allowed = String(allow).toLowerCase().split(", ");
    expect(allowed.filter((method) => !["head", "options"].includes(method))).toEqual(Object.keys(operations));
  }
  expect(described.sort()).toEqual([...registered].sort());
  expect(described.length).toBeGreaterThan(15);
  const references = JSON.stringify(paths).matchAll(/#\/components\/schemas\/(\w+)/g);
  for (const [, name] of references) expect(components.schemas).toHaveProperty(name as string);
  const query = paths["/v1/predict"].post.parameters.filter((one: { in: string }) => one.in === "query");
  expect(query.map(({ name }: { name: string }) => name).sort()).toEqual(["model", ...Object.keys(CHOICES)].sort());
  expect(query.find(({ name }: { name: string }) => name === "outputs")).toMatchObject({
    explode: false,
    schema: { type: "array", items: { enum: [...OUTPUTS] }, default: ["mask", "entropy"] },
  });
  await app.close();
});
