import { PAGE_STYLE } from "./page-style.js";

/** The page at /docs: the OpenAPI description for people, with a button to try what only reads. */
export function documentationPage(prefix: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>layer-ensembles: API</title>
<style>${PAGE_STYLE}
  details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: 0 .8rem; }
  details[open] { padding-bottom: .8rem; }
  summary { cursor: pointer; padding: .5rem 0; display: flex; gap: .8rem; align-items: baseline; }
  summary b { font: 600 12px ui-monospace, monospace; width: 3rem; color: var(--accent); }
  summary span { margin-left: auto; opacity: .75; text-align: right; }
  h3 { font-size: .95rem; margin: .8rem 0 .2rem; }
</style>
<header><h1>layer-ensembles: API</h1><nav><a href="${prefix}/">try it</a><a href="${prefix}/openapi.json">openapi.json</a></nav></header>
<p id="about"></p>
<main id="routes"></main>
<h2>Schemas</h2>
<div id="schemas"></div>
<script>
const base = ${JSON.stringify(prefix)};
const element = (tag, text, ...inside) => {
  const made = Object.assign(document.createElement(tag), { textContent: text });
  made.append(...inside);
  return made;
};
const table = (rows) => element("table", "", ...rows.map((cells) => element("tr", "", ...cells.map((cell) => element("td", cell)))));
const typeOf = (schema = {}) => schema.$ref?.split("/").at(-1) ?? (schema.items ? "some of " + typeOf(schema.items) : schema.enum ? schema.enum.join(" | ") : [schema.type ?? "any"].flat().join(" | "));
const contents = (content = {}) => Object.entries(content).map(([type, { schema }]) => type + (schema?.$ref ? " (" + typeOf(schema) + ")" : "")).join(", ");

function describe(path, method, operation) {
  const box = element("details", "");
  box.append(element("summary", "", element("b", method.toUpperCase()), element("code", path), element("span", operation.summary)));
  if (operation.description) box.append(element("p", operation.description));
  if (operation.parameters) box.append(element("h3", "Parameters"), table(operation.parameters.map((one) => [one.name, one.in, typeOf(one.schema), one.description ?? ""])));
  if (operation.requestBody) box.append(element("h3", "Body"), element("p", contents(operation.requestBody.content)));
  box.append(element("h3", "Answers"), table(Object.entries(operation.responses).map(([code, one]) => [code, one.description, contents(one.content)])));
  if (method === "get" && !path.includes("{")) {
    const button = element("button", "Try it");
    button.addEventListener("click", async () => {
      const response = await fetch(base + path);
      const text = await response.text();
      box.querySelector("pre")?.remove();
      box.append(element("pre", response.status + " " + response.headers.get("content-type") + "\\n\\n" + text.slice(0, 20000)));
    });
    box.append(button);
  }
  return box;
}

fetch(base + "/openapi.json").then((response) => response.json()).then(({ info, paths, components }) => {
  document.getElementById("about").textContent = info.description + " Version " + info.version + ".";
  for (const [path, operations] of Object.entries(paths))
    for (const [method, operation] of Object.entries(operations)) document.getElementById("routes").append(describe(path, method, operation));
  for (const [name, schema] of Object.entries(components.schemas)) {
    const box = element("details", "", element("pre", JSON.stringify(schema, null, 2)));
    box.prepend(element("summary", "", element("code", name)));
    document.getElementById("schemas").append(box);
  }
});
</script>
</html>
`;
}
