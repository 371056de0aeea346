/** A table-driven, reflected 32-bit cyclic redundancy check for one polynomial. */
function reflectedCrc(polynomial: number): (bytes: Uint8Array, before?: number) => number {
  const table = Uint32Array.from({ length: 256 }, (_, byte) => {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ polynomial : value >>> 1;
    return value;
  });
  return (bytes, before = 0) => {
    let crc = ~before;
    for (let i = 0; i < bytes.length; i++) crc = (table[(crc ^ (bytes[i] as number)) & 255] as number) ^ (crc >>> 8);
    return ~crc >>> 0;
  };
}

/** CRC-32 of PNG chunks and zip files (polynomial 0x04C11DB7), of bytes that follow those whose CRC is `before`. */
export const crc32 = reflectedCrc(0xedb88320);

/** CRC-32C, Castagnoli's polynomial 0x1EDC6F41 (RFC 3720), as in TensorFlow records. */
export const crc32c = reflectedCrc(0x82f63b78);
