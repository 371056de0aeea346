import { BACKBONE_OPTIONS, BACKBONES, type BackboneOptions } from "../ensemble/zoo.js";
import { type OptionSpec, type OptionSpecs, toldOf, type Values } from "../options.js";
import { givenOf } from "./arguments.js";

const { dropout, encoderWeights, encoderPrefix, ...shape } = withKinds(toldOf(BACKBONE_OPTIONS));

/** The options that shape a network; `--dropout` is that of the heads. */
export const BACKBONE_FLAGS = { ...shape, backboneDropout: dropout };

/** The options that say what its encoder starts from. */
export const ENCODER_FLAGS = { encoderWeights, encoderPrefix };

/** What may be given of {@link BACKBONE_FLAGS}. */
export type BackboneFlags = Values<typeof BACKBONE_FLAGS>;

/** The same, with the kinds of networks that each is for in its text. */
function withKinds<S extends OptionSpecs>(specs: S): S {
  const told = Object.entries<OptionSpec>(specs).map(([name, spec]) => {
    const kinds = Object.entries(BACKBONES).flatMap(([kind, { options }]) => (name in options ? [kind] : []));
    return [name, { ...spec, text: `${kinds.join(", ")}: ${spec.text}` }];
  });
  return Object.fromEntries(told) as S;
}

/** What was given of them; `Backbone.create` refuses what does not concern the kind. */
export function backboneOptions(flags: BackboneFlags): BackboneOptions {
  const { backboneDropout, ...rest } = givenOf(flags, BACKBONE_FLAGS);
  return { ...rest, ...(backboneDropout !== undefined && { dropout: backboneDropout }) };
}
