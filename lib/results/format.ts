// How numbers are shown, wherever they are.

/** A number with so many decimals; an en dash where there is none. */
export function fixed(value: number | null | undefined, decimals = 3): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const text = value.toFixed(decimals);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

/** With its sign: a difference. */
export function signed(value: number | null | undefined, decimals = 3): string {
  const text = fixed(value, decimals);
  return (value ?? 0) > 0 ? `+${text}` : text;
}

/** A share, as a percentage. */
export function percent(value: number | null | undefined): string {
  const text = fixed(value === null || value === undefined ? value : 100 * value, 1);
  return text === "–" ? text : `${text} %`;
}

/** A probability of a test: three decimals, or `< 0.001`. */
export function pValue(p: number | null | undefined): string {
  return (p ?? 1) < 0.001 ? "< 0.001" : fixed(p);
}

/** Thousands separated by a comma. */
export function grouped(value: number): string {
  return value.toLocaleString("en-US");
}

/** `[0.79, 0.83]`; empty where a bound is not known. */
export function bracketed(low: number | null, high: number | null, format: (value: number) => string): string {
  return low === null || high === null ? "" : `[${format(low)}, ${format(high)}]`;
}

/** As a page has it: minus signs before digits. */
export function typeset(text: string): string {
  return text.replace(/(?<![\p{L}\d])-(?=\d)/gu, "−");
}

/** Seconds as `8 s`, `2:05` or `1:02:05`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const two = (n: number) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
