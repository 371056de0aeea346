/** A figure: an SVG that needs no other file, and what to say of it. */
export interface Figure {
  /** Of its files, without the ending. */
  name: string;
  /** One line. */
  title: string;
  /** What to look for. */
  caption: string;
  /** Complete document, with `viewBox`, `role="img"` and a label. */
  svg: string;
}
