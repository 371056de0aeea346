/** What to send; see hostile.mjs. */
export interface HostileRequest {
  name: string;
  [more: string]: unknown;
}
export function hostileRequests(png: Buffer, count: number, model?: string): (n: number) => HostileRequest;
/** A request with the statuses that are right for it. */
export interface CostlyRequest extends HostileRequest {
  right: number[];
}
export function blankPng(width: number, height: number, more?: object): Buffer;
export function costlyRequests(
  png: Buffer,
  limits?: { model?: string; maxBody?: number; maxPixels?: number },
): CostlyRequest[];
export function sendRaw(port: number, request: object): Promise<number>;
