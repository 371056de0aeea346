#pragma once
// A prediction of an image that is larger than a pass of the network, in bounded memory (SPEC section 19).
#include <functional>
#include <vector>

#include "prediction/predict.h"
#include "tiles/plan.h"

namespace le {

struct TileOptions {
  std::vector<int64_t> size;  // of a tile, per spatial axis
  double overlap = 0.5;       // of neighbouring tiles, at least; see plan_tiles()
  TileWeights weights = TileWeights::kGaussian;
  // Spatial axes, each once: a tile is also predicted mirrored along every set of them, and the logits are averaged.
  std::vector<int64_t> mirror;
  std::vector<int64_t> output;  // spatial size of the results, over the same extent; empty: the image's own
  // Spatial axes along which a result's pixel takes what is at the nearest of the image's, not between them.
  std::vector<int64_t> nearest;
  int64_t image = 0;  // its number in messages

  // {"size", "overlap", "weights": "constant" | "gaussian", "mirror", "output", "nearest", "image"}
  static TileOptions from(const Json& options);
};

// An image that is read piece by piece. `read` gives what lies on its first spatial axis from `begin` on, before `end`:
// C×(end - begin)×…, float, on the CPU. Every row is asked for once, in order.
struct ImageSource {
  std::vector<int64_t> shape;  // C×s
  std::function<at::Tensor(int64_t begin, int64_t end)> read;
};

struct TilesPredicted : Predicted {
  int64_t passes = 1;  // of the network, mirrored ones too; 1 where the one tile was the image
};

// The prediction of an image by tiles. Where one tile is the whole image, unmirrored, and the output its size, it is
// predict() of the image; `batch_size` tiles share a pass. With Monte Carlo dropout each pass draws the same for all
// tiles: it is one network for the whole image. Tap statistics are those of the features of all passes together, so
// that what lies in several tiles counts as often: the mean of the passes' means, and the root of the mean squared
// deviation from it.
//
// Memory, beside the network's own in a pass of a batch of tiles, and beside the result: C_in · 4 bytes for each pixel
// of the rows of a tile and some 50 MB to read them, TileSums::bytes() with what it says of a tile, and what
// Restoration says of a slab. The second pass of STAPLE and of a temperature needs what restore() says.
//
// `control` is checked before each batch and each slab, and told {"stage": "tiles", "done", "of"} after a batch of
// tiles, and what Restoration tells. Errors as predict(), and ERR_LE_OPTION of the tiles.
TilesPredicted predict_tiles(const Members& members, const ImageSource& image, const TileOptions& tiles,
                             const PredictOptions& options, const Control& control);

// The logits that predict_tiles() would fuse, at the image's own size: of each kept head 1×C×s, float, on the CPU,
// whole. No output but the image's. `control` is checked before each batch and told of it, as above. Errors likewise.
std::vector<at::Tensor> forward_tiles(const Members& members, const ImageSource& image, const TileOptions& tiles,
                                      const PredictOptions& options, const Control& control);

}  // namespace le
