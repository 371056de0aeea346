import { existsSync, statSync } from "node:fs";
import type { Command } from "commander";
import type { Backbone, LayerInfo } from "../ensemble/backbone.js";
import { BACKBONE_KINDS } from "../ensemble/zoo.js";
import { nearest } from "../options.js";
import { grouped } from "../results/format.js";
import { formatTable } from "../results/text.js";
import { givenOf, inputShape, integer, text, withOptions } from "./arguments.js";
import { BACKBONE_FLAGS, type BackboneFlags, backboneOptions } from "./backbone-options.js";
import { newCommand, runSession, toJson, UsageError } from "./command.js";
import { glob, isGlob, MODEL_FLAGS, MODEL_PARSERS, type ModelFlags } from "./model-options.js";

interface Flags extends BackboneFlags, ModelFlags {
  input?: { channels?: number; size: number[] };
  inChannels?: number;
  filter?: string;
  json?: boolean;
}

/** `layers`: what a network consists of, and what of it can be tapped. */
export function layersCommand(): Command {
  const command = newCommand(
    "layers",
    "list the layers of a network, in the order in which they run",
    "layer-ensembles layers unet --encoder resnet18 --input 1x1x128x128\n" +
      "layer-ensembles layers model.pt2 --input 1x3x256x256 --filter relu",
  )
    .argument(
      "<network>",
      `kind of network (${BACKBONE_KINDS.join(", ")}), a TorchScript or torch.export file, or a run folder`,
    )
    .option(
      "--input <NxCxHxW>",
      "shape of the image that is sent through it, or NxCxDxHxW (default: 1x1x128x128)",
      inputShape,
    )
    .option("--in-channels <n>", "channels of the image", integer({ min: 1 }))
    .option("--filter <text>", "only layers whose name contains it, or fits it where it has * (or **) or ?", text);
  return withOptions(command, { ...BACKBONE_FLAGS, ...MODEL_FLAGS }, MODEL_PARSERS).action(
    (network: string, flags: Flags) =>
      runSession(flags.json ?? false, async ({ json, print }) => {
        const backbone = await open(network, flags);
        try {
          const all = await backbone.probe(flags.input?.size);
          const layers = all.filter(filter(flags.filter));
          await print(json ? toJson(layers, 2) : describe(layers));
        } finally {
          await backbone.dispose();
        }
      }),
  );
}

async function open(network: string, flags: Flags): Promise<Backbone> {
  const kind = BACKBONE_KINDS.find((name) => name === network);
  if (!kind && !existsSync(network)) {
    const near = nearest(network, BACKBONE_KINDS);
    throw new UsageError(
      `expected a model file, a run folder or one of ${BACKBONE_KINDS.join(", ")} but received "${network}"${near ? ` (Did you mean ${near}?)` : ""}`,
    );
  }
  const { Backbone } = await import("../ensemble/backbone.js");
  if (!kind) {
    const isFile = statSync(network).isFile();
    const inChannels = flags.inChannels ?? flags.input?.channels;
    return Backbone.load(network, {
      ...givenOf(flags, MODEL_FLAGS),
      ...(isFile && inChannels !== undefined && { inChannels }),
      ...(isFile && flags.input && { spatialAxes: flags.input.size.length as 2 | 3 }),
    });
  }
  const channels = flags.inChannels ?? flags.input?.channels;
  if (flags.input?.channels !== undefined && channels !== flags.input.channels)
    throw new UsageError(`--input has ${flags.input.channels} channels but --in-channels says ${channels}`);
  return Backbone.create(kind, { ...backboneOptions(flags), ...(channels !== undefined && { inChannels: channels }) });
}

function filter(wanted: string | undefined): (layer: LayerInfo) => boolean {
  if (wanted === undefined) return () => true;
  const fits = isGlob(wanted) ? glob(wanted) : (name: string) => name.includes(wanted);
  return ({ name }) => fits(name);
}

function describe(layers: readonly LayerInfo[]): string {
  return formatTable(
    [
      { heading: "layer", align: "left" },
      { heading: "type", align: "left" },
      { heading: "calls" },
      { heading: "output shape", align: "left" },
      { heading: "parameters" },
      { heading: "tappable", align: "left" },
    ],
    layers.map((layer) => [
      layer.name || "(the network)",
      layer.type,
      String(layer.calls ?? "–"),
      layer.shape?.join("×") ?? "–",
      grouped(layer.parameters),
      layer.tappable
        ? layer.aliasOf === undefined
          ? "yes"
          : `yes, it is ${layer.aliasOf}`
        : `no: ${layer.whyNot ?? "it has no feature map"}`,
    ]),
  );
}
