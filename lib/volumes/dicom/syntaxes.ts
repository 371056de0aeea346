// The register of transfer syntaxes. https://dicom.nema.org/medical/dicom/current/output/chtml/part06/chapter_a.html
import type { Coding } from "./codecs.js";

/** How a file's pixel data are stored. */
export interface TransferSyntax {
  name: string;
  /** How a frame is packed; undefined for pixel data that are not encapsulated. */
  coding?: Coding;
  bigEndian?: boolean;
}

/** Those that are read, by UID. */
export const transferSyntaxes: ReadonlyMap<string, TransferSyntax> = new Map<string, TransferSyntax>([
  ["1.2.840.10008.1.2", { name: "implicit little endian" }],
  ["1.2.840.10008.1.2.1", { name: "explicit little endian" }],
  ["1.2.840.10008.1.2.1.99", { name: "deflated" }],
  ["1.2.840.10008.1.2.2", { name: "explicit big endian", bigEndian: true }],
  ["1.2.840.10008.1.2.1.98", { name: "encapsulated uncompressed", coding: "none" }],
  ["1.2.840.10008.1.2.5", { name: "RLE", coding: "rle" }],
  ["1.2.840.10008.1.2.4.50", { name: "JPEG baseline", coding: "jpeg" }],
  ["1.2.840.10008.1.2.4.51", { name: "JPEG extended of 8 bits", coding: "jpeg" }],
  ["1.2.840.10008.1.2.4.57", { name: "JPEG lossless", coding: "jpeg-lossless" }],
  ["1.2.840.10008.1.2.4.70", { name: "JPEG lossless SV1", coding: "jpeg-lossless" }],
  ["1.2.840.10008.1.2.4.80", { name: "JPEG-LS", coding: "jpeg-ls" }],
  ["1.2.840.10008.1.2.4.81", { name: "JPEG-LS near-lossless", coding: "jpeg-ls" }],
  ["1.2.840.10008.1.2.4.90", { name: "JPEG 2000 lossless", coding: "jpeg2000" }],
  ["1.2.840.10008.1.2.4.91", { name: "JPEG 2000", coding: "jpeg2000" }],
  ["1.2.840.10008.1.2.4.201", { name: "HTJ2K lossless", coding: "htj2k" }],
  ["1.2.840.10008.1.2.4.202", { name: "HTJ2K lossless RPCL", coding: "htj2k" }],
  ["1.2.840.10008.1.2.4.203", { name: "HTJ2K", coding: "htj2k" }],
]);
