/** What to send; see hostile.mjs. */
export interface HostileRequest {
  name: string;
  [more: string]: unknown;
}
export function hostileRequests(png: Buffer, count: number, model?: string): (n: number) => HostileRequest;
export function sendRaw(port: number, request: object): Promise<number>;
