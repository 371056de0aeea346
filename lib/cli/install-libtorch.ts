import type { Command } from "commander";
import { text } from "./arguments.js";
import { newCommand, runSession, toJson } from "./command.js";

interface Flags {
  flavour?: string;
  from?: string;
  dir?: string;
  sha256?: string;
  libtorchVersion?: string;
  force?: boolean;
  json?: boolean;
}

/** `install-libtorch`: puts libtorch where it is found. */
export function installLibtorchCommand(): Command {
  return newCommand(
    "install-libtorch",
    "fetch libtorch into the user cache: the official archive, else the wheel by pip",
    "layer-ensembles install-libtorch --flavour cpu",
  )
    .option("--flavour <name>", "cpu, cu130, … (default: cpu)", text)
    .option("--from <source>", "address, zip archive, wheel or folder to take it from", text)
    .option("--dir <folder>", "folder to fill, for LAYER_ENSEMBLES_LIBTORCH (default: in the user cache)", text)
    .option("--sha256 <digest>", "expected digest of the archive", text)
    .option("--libtorch-version <version>", "exact version (default: the one the addon is built for)", text)
    .option("--force", "replace what is installed")
    .action((flags: Flags) =>
      runSession(flags.json ?? false, async ({ json, print, signal }) => {
        const { installLibtorch } = await import("../native/install.js");
        const { installProgressPrinter } = await import("../native/progress.js");
        const result = await installLibtorch({
          flavour: flags.flavour,
          from: flags.from,
          dir: flags.dir,
          sha256: flags.sha256,
          version: flags.libtorchVersion,
          force: flags.force,
          signal,
          onProgress: installProgressPrinter(process.stderr),
        });
        const what = `libtorch ${result.version} (${result.flavour})`;
        const text = result.installed
          ? `Installed ${what} in ${result.folder}`
          : `${what} is in ${result.folder} already`;
        const next = flags.dir === undefined ? "" : `\nTo use it: LAYER_ENSEMBLES_LIBTORCH=${result.folder}`;
        await print(json ? toJson(result, 2) : `${text}${next}\n`);
      }),
    );
}
