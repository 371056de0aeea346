export function openApi(prefix: string, service: unknown): object {
  return { prefix, service };
}
