export function uploadPage(prefix: string): string {
  return prefix;
}
