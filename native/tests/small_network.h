#pragma once
// A network that trains in no time.
#include <memory>

#include "backbones/backbone.h"

namespace le::test {

inline std::shared_ptr<Backbone> network(int seed, double dropout = 0) {
  return make_backbone(Json::Object{{"kind", "plain-unet"},
                                    {"inChannels", 1},
                                    {"classes", 2},
                                    {"width", 4},
                                    {"depth", 3},
                                    {"dropout", dropout},
                                    {"seed", seed}});
}

}  // namespace le::test
