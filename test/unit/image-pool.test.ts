import { expect, it } from "vitest";
import { ImagePool } from "../../lib/server/image-pool.js";

it("says so where its threads cannot start, instead of waiting for them", async () => {
  // Sources have no image-worker.js, as little as a damaged installation.
  await expect(ImagePool.create({ workers: 2 })).rejects.toMatchObject({
    code: "ERR_LE_INTERNAL",
    message: expect.stringMatching(/threads for images .*image-worker\.js.*Install the package again/),
  });
});

it("works on the calling thread where it has none", async () => {
  const pool = await ImagePool.create({ workers: 0 });
  await pool.close();
});
