// What is there and what is missing; works before anything is built.
//   npm run doctor [-- --json]
import { doctor, formatDiagnosis } from "../lib/native/doctor.js";

const diagnosis = doctor();
const json = process.argv.includes("--json");
process.stdout.write(`${json ? JSON.stringify(diagnosis, null, 2) : formatDiagnosis(diagnosis)}\n`);
process.exitCode = diagnosis.ok ? 0 : 1;
