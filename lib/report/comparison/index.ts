export { comparisonPage } from "./page.js";
export { writeReport } from "./write.js";
