import type { Command } from "commander";
import { INSTALL } from "../native/install-options.js";
import { toldOf, type Values } from "../options.js";
import { givenOf, withOptions } from "./arguments.js";
import { newCommand, runSession, toJson } from "./command.js";

const { version: libtorchVersion, ...others } = toldOf(INSTALL);
const FLAGS = { ...others, libtorchVersion };

interface Flags extends Values<typeof FLAGS> {
  json?: boolean;
}

/** `install-libtorch`: puts libtorch where it is found. */
export function installLibtorchCommand(): Command {
  const command = newCommand(
    "install-libtorch",
    "fetch libtorch into the user cache: the official archive, else the wheel by pip",
    "layer-ensembles install-libtorch --flavour cpu",
  );
  return withOptions(command, FLAGS).action((flags: Flags) =>
    runSession(flags.json ?? false, async ({ json, print, signal }) => {
      const { libtorchVersion: version, ...rest } = givenOf(flags, FLAGS);
      const { installLibtorch } = await import("../native/install.js");
      const { installProgressPrinter } = await import("../native/progress.js");
      const result = await installLibtorch({
        ...rest,
        ...(version !== undefined && { version }),
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
