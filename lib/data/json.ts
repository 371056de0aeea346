/** No file of this package nests deeper: what does would overflow the stack of whoever walks through it. */
const DEEPEST = 100;
/** Arrays and objects of one file. Each takes far more memory than the two characters that it may have. */
const MOST_PARTS = 4_000_000;

/**
 * The value of a JSON text that somebody else may have written.
 * @throws SyntaxError for what is no JSON; Error where it nests more than 100 deep or has more than 4 million arrays and objects
 */
export function parseJson(text: string): unknown {
  let depth = 0;
  let parts = 0;
  for (let i = 0; i < text.length; i++) {
    const character = text.charCodeAt(i);
    if (character === 34) i = endOfString(text, i);
    else if (character === 91 || character === 123) {
      if (++depth > DEEPEST) throw new Error(`it nests more than ${DEEPEST} deep`);
      if (++parts > MOST_PARTS) throw new Error(`it has more than ${MOST_PARTS} arrays and objects`);
    } else if (character === 93 || character === 125) depth--;
  }
  return JSON.parse(text);
}

/** Where the string that begins at `from` ends; the text's end where it does not. */
function endOfString(text: string, from: number): number {
  for (let i = from + 1; i < text.length; i++) {
    const character = text.charCodeAt(i);
    if (character === 92) i++;
    else if (character === 34) return i;
  }
  return text.length;
}

/** JSON text in which the names of every object are in order: two that hold the same are the same text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, item) =>
    typeof item === "object" && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  );
}
