import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";

/**
 * The environment in which a command that writes a folder's output ends by SIGKILL.
 * @param when `make 3`: at its fourth file that is made; `move 0`: before its first file is moved into the folder
 * @param output whose parent gets the hook
 */
export function killedAt(when: string, output: string): NodeJS.ProcessEnv {
  const hook = path.join(path.dirname(output), "kill.cjs");
  mkdirSync(path.dirname(hook), { recursive: true });
  writeFileSync(
    hook,
    `const fs = require("node:fs/promises"), { rename } = fs;
     const [stage, at] = process.env.KILL_AT.split(" ");
     const count = { make: 0, move: 0 };
     fs.rename = (from, to) => {
       const now = /[.]tmp[/]/.test(to) ? "make" : /[.]tmp[/]/.test(from) ? "move" : "";
       if (now === stage && count[now]++ === Number(at)) process.kill(process.pid, "SIGKILL");
       return rename(from, to);
     };`,
  );
  return { NODE_OPTIONS: `--require ${hook}`, KILL_AT: when };
}
