// Makes the optional npm package @layer-ensembles/libtorch-<platform>-<arch>-<flavour>: the libraries that are needed at run
// time, with their licences and notices. Where it is installed, the search finds it.
//   npm run pack-libtorch [-- --from <wheel, or folder with licenses/>] [--out <folder for the .tgz>]
// A torch wheel has the licences, the official archive has not.
import { spawnSync } from "node:child_process";
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { installLibtorch } from "../lib/native/install.js";
import { type Libtorch, libraryName, locateLibtorch } from "../lib/native/locate.js";
import { installProgressPrinter } from "../lib/native/progress.js";
import { PACKAGE_ROOT } from "../lib/package.js";
import { BuildError, main } from "./build.js";

/** The libraries in `lib` that libtorch_cpu needs, with itself: what the addon makes the system load. */
export function neededLibraries(lib: string): string[] {
  const needed = new Set<string>();
  const visit = (name: string) => {
    if (needed.has(name) || !existsSync(path.join(lib, name))) return;
    needed.add(name);
    const result = spawnSync("readelf", ["--wide", "--dynamic", path.join(lib, name)], { encoding: "utf8" });
    if (result.status !== 0)
      throw new BuildError(
        `Expected readelf (binutils) to read ${name} but received: ${result.error ?? result.stderr}`,
      );
    for (const [, next = ""] of result.stdout.matchAll(/\(NEEDED\).*\[(.+)\]/g)) visit(next);
  };
  visit(libraryName("torch_cpu"));
  return [...needed].sort();
}

/** Lays the package out in `folder`. @throws BuildError for a libtorch without licences */
export function layOut(libtorch: Libtorch, folder: string): void {
  const licences = path.join(libtorch.folder, "licenses");
  if (!existsSync(path.join(licences, "LICENSE")))
    throw new BuildError(
      `Expected licenses/LICENSE in ${libtorch.folder}, to pass on with the libraries, but received none. Fix: --from a torch wheel.`,
    );
  const { version, flavour } = libtorch;
  const libraries = neededLibraries(path.join(libtorch.folder, "lib"));
  mkdirSync(path.join(folder, "lib"), { recursive: true });
  for (const name of libraries) copyFileSync(path.join(libtorch.folder, "lib", name), path.join(folder, "lib", name));
  cpSync(licences, path.join(folder, "licenses"), { recursive: true });
  writeFileSync(path.join(folder, "build-version"), `${version}+${flavour}\n`);
  writeFileSync(path.join(folder, "NOTICE"), NOTICE);
  const name = `@layer-ensembles/libtorch-${process.platform}-${process.arch}-${flavour}`;
  writeFileSync(
    path.join(folder, "README.md"),
    `# ${name}\n\nlibtorch ${version} (${flavour}) for [layer-ensembles](https://www.npmjs.com/package/layer-ensembles), which finds ` +
      `it where it is installed:\n\n    npm install ${name}@${version}\n\nIt holds ${libraries.join(", ")}, unchanged, and their licences.\n`,
  );
  const description = {
    name,
    version,
    description: `libtorch ${version} (${flavour}): the libraries that layer-ensembles needs at run time`,
    license: "SEE LICENSE IN NOTICE",
    os: [process.platform],
    cpu: [process.arch],
    ...(process.platform === "linux" && { libc: ["glibc"] }),
    exports: { "./package.json": "./package.json" },
    publishConfig: { access: "public" },
  };
  writeFileSync(path.join(folder, "package.json"), `${JSON.stringify(description, null, 2)}\n`);
}

const NOTICE = `This package holds libraries of PyTorch (https://pytorch.org), unchanged.

- PyTorch, and what is compiled into its libraries: see licenses/LICENSE and licenses/third_party.
- CPU builds of PyTorch contain parts of the Intel oneAPI Math Kernel Library, under the Intel Simplified Software License:
  https://www.intel.com/content/www/us/en/developer/articles/license/onemkl-license-faq.html
- libgomp (the GNU OpenMP library, of GCC): GNU General Public License, version 3 or later, with the GCC Runtime Library
  Exception, version 3.1: https://www.gnu.org/licenses/gcc-exception-3.1.html. Its source: https://gcc.gnu.org
`;

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  await main(async () => {
    const { values } = parseArgs({ options: { from: { type: "string" }, out: { type: "string", default: "." } } });
    mkdirSync(path.join(PACKAGE_ROOT, "build"), { recursive: true });
    const work = mkdtempSync(path.join(PACKAGE_ROOT, "build", "libtorch-package-"));
    try {
      const onProgress = installProgressPrinter(process.stderr);
      const libtorch = values.from
        ? await installLibtorch({ from: values.from, dir: path.join(work, "libtorch"), onProgress })
        : locateLibtorch({ flavour: "cpu" });
      const folder = path.join(work, "package");
      layOut(libtorch, folder);
      mkdirSync(values.out, { recursive: true });
      process.stderr.write("  npm pack (half a minute for 440 MB)\n");
      const pack = spawnSync("npm", ["pack", "--json", "--pack-destination", path.resolve(values.out)], {
        cwd: folder,
        encoding: "utf8",
        shell: process.platform === "win32",
      });
      if (pack.status !== 0) throw new BuildError(`Failed: npm pack\n${pack.stderr}`);
      const file = path.join(values.out, JSON.parse(pack.stdout)[0].filename);
      process.stdout.write(`${file}  ${(statSync(file).size / 1e6).toFixed(1)} MB\n`);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
    return 0;
  });
}
