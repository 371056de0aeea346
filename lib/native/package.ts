/** The libtorch that is fetched where none is named, and that published binaries are built for. */
export const LIBTORCH_VERSION = "2.13.0";
