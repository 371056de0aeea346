// Optional packages, loaded as they are first needed.
import { LayerEnsemblesError } from "../../errors.js";

/** The versions that this package was tested with; `package.json` has the same ones as optional peers. */
const versions = {
  "dicom-parser": "1.8.21",
  "@cornerstonejs/codec-openjpeg": "1.3.6",
  "@cornerstonejs/codec-charls": "1.2.7",
  "@cornerstonejs/codec-openjph": "2.4.11",
  "@cornerstonejs/codec-libjpeg-turbo-8bit": "1.2.8",
  "jpeg-lossless-decoder-js": "2.1.2",
} as const;

/** A package that reading DICOM may need. */
export type Peer = keyof typeof versions;

/**
 * Loads an optional package.
 * @param what it is needed for, as in "… to read `what`"
 * @param load in the place of `import`, for tests
 * @throws ERR_LE_DATA where it is not installed, with what to type
 */
export async function loadPeer<T>(name: Peer, what: string, load = (id: string) => import(id)): Promise<T> {
  try {
    const module = await load(name);
    return (module.default ?? module) as T;
  } catch (error) {
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      `Expected the package ${name} to read ${what} but received none that loads (${(error as Error).message.split("\n")[0]}); ` +
        `install it: npm install ${name}@${versions[name]}`,
      { cause: error },
    );
  }
}
