export function documentationPage(prefix: string): string {
  return prefix;
}
