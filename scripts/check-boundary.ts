// Checks that the functions of the native boundary are one list: what native/binding exports, what the comment above each of
// these says of its parameters, and the interface in lib/native/addon.ts.
//   npx tsx scripts/check-boundary.ts
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import ts from "typescript";
import { PACKAGE_ROOT } from "../lib/package.js";
import { main } from "./build.js";

/** `name(parameter, optional?)` of each function that `files` export, by name; the reason where it has no such comment. */
function binding(files: readonly string[]): Map<string, string> {
  const signatures = new Map<string, string>();
  for (const text of files)
    for (const [, definition = "", name = ""] of text.matchAll(/export_function<(\w+)>\(exports, "(\w+)"\)/g)) {
      const above = new RegExp(`((?://.*\\n)+)Napi::Value ${definition}\\(const Napi::CallbackInfo`).exec(text)?.[1];
      signatures.set(
        name,
        /^\/\/ (\w+\([\w, ?]*\))/.exec(above ?? "")?.[1] ?? "no comment that begins with a signature",
      );
    }
  return signatures;
}

/** The same of the methods of `interface Addon`. */
function declared(text: string): Map<string, string> {
  const signatures = new Map<string, string>();
  ts.createSourceFile("addon.ts", text, ts.ScriptTarget.Latest, true).forEachChild((node) => {
    if (!ts.isInterfaceDeclaration(node) || node.name.text !== "Addon") return;
    for (const member of node.members) {
      if (!ts.isMethodSignature(member)) continue;
      const parameters = member.parameters.map(
        ({ name, questionToken }) => name.getText() + (questionToken ? "?" : ""),
      );
      signatures.set(member.name.getText(), `${member.name.getText()}(${parameters.join(", ")})`);
    }
  });
  return signatures;
}

await main(async () => {
  const read = (file: string) => readFileSync(path.join(PACKAGE_ROOT, file), "utf8");
  const folder = "native/binding";
  const sources = readdirSync(path.join(PACKAGE_ROOT, folder)).filter((file) => file.endsWith(".cpp"));
  const native = binding(sources.map((file) => read(path.join(folder, file))));
  const typescript = declared(read("lib/native/addon.ts"));
  const wrong = [...new Set([...native.keys(), ...typescript.keys()])].filter(
    (name) => native.get(name) !== typescript.get(name),
  );
  for (const name of wrong)
    process.stderr.write(
      `${name}: ${native.get(name) ?? "nothing"} in ${folder} but ${typescript.get(name) ?? "nothing"} in lib/native/addon.ts\n`,
    );
  return wrong.length ? 1 : 0;
});
