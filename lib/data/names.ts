// Names of images, groups and splits: the same text is the same name, however it is encoded.

/** A name in Unicode's composed form (NFC): archives made on a Mac hold decomposed ones. */
export function nameOf(text: string): string {
  return text.normalize("NFC");
}

/** A name with everything beyond ASCII as escapes, where two names look the same. */
export function spelled(name: string): string {
  return name.replace(/[^\x20-\x7e]/gu, (char) => `\\u{${(char.codePointAt(0) as number).toString(16)}}`);
}

/** Two names for an error; spelled out where they are one and the same in NFC. */
export function bothNames(a: string, b: string): string {
  if (a === b || nameOf(a) !== nameOf(b)) return `${a} and ${b}`;
  return `${spelled(a)} and ${spelled(b)}, which differ in their Unicode normal form alone`;
}
