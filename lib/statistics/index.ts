export { type Pearson, pearson, type Spearman, spearman } from "./correlation.js";
