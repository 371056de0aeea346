import type { InstallProgress } from "./install-options.js";

/**
 * Prints an installer's progress: on a terminal one line that is rewritten, elsewhere a line for each stage and each
 * quarter of a long one.
 */
export function installProgressPrinter(stream: NodeJS.WriteStream): (progress: InstallProgress) => void {
  let stage = "";
  let quarter = -1;
  let lastDraw = 0;
  return ({ stage: now, detail, done, total }) => {
    const share = done !== undefined && total ? done / total : null;
    const complete = share !== null && share >= 1;
    if (stream.isTTY && share !== null) {
      if (!complete && Date.now() - lastDraw < 100) return;
      lastDraw = Date.now();
      const width = Math.max(20, (stream.columns || 80) - 30);
      stream.write(`\r\x1b[K  ${now} ${amount(done, total)} ${detail.slice(-width)}${complete ? "\n" : ""}`);
      stage = now;
      return;
    }
    const reached = share === null ? 0 : Math.floor(share * 4);
    if (now === stage && now !== "note" && reached <= quarter) return;
    if (now === stage && now !== "note" && share === null) return;
    stage = now;
    quarter = reached;
    stream.write(`  ${now} ${done === undefined ? "" : `${amount(done, total)} `}${detail}\n`);
  };
}

function amount(done = 0, total: number | null | undefined): string {
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(0);
  return total ? `${megabytes(done)}/${megabytes(total)} MB` : `${megabytes(done)} MB`;
}
