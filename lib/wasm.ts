// Instances of this package's WebAssembly modules, which scripts/kernels.ts compiles.

/** What is used of the global WebAssembly, which only the types of browsers declare. */
interface Compiler {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object) => { exports: unknown };
}

/**
 * What a module exports. Compiled at once, in about a millisecond.
 * @param module In base64, 4096 bytes at most: browsers compile no larger one at once.
 * @returns Null where there is no WebAssembly with SIMD, or a page's policy forbids it.
 */
export function instantiate<Exports>(module: string): Exports | null {
  try {
    const bytes = Uint8Array.from(atob(module), (letter) => letter.charCodeAt(0));
    const { Instance, Module } = (globalThis as unknown as { WebAssembly: Compiler }).WebAssembly;
    return new Instance(new Module(bytes)).exports as Exports;
  } catch {
    return null;
  }
}
