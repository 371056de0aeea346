// What moves a volume and its place in the world together. Loads no addon.
export { type Affine, type AffineRow, type Grid, spacingOf } from "./grid.js";
