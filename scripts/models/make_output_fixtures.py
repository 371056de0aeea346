"""Makes test/fixtures/output: small networks of the usual architectures, and what PyTorch says their own output is made of.

    python3 scripts/models/make_output_fixtures.py test/fixtures/output   # needs PyTorch 2.13 and safetensors

For each NAME there is NAME.pt (traced), and for some NAME.pt2 (torch.export); expected.safetensors holds `image`, and for each
    NAME.output       what forward returns (of a dict "out", of a list the element that NETWORKS names)
    NAME.features     the feature map that this is made of, by a forward hook on the layer that NETWORKS names
nan and infinite have one weight that is no number; results has two results, of which either may be meant.
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F


def block(cin, cout, stride=1):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


def resized(x, like):
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class DeepLab(nn.Module):
    """The classifier of an inner layer, with as many channels as there are classes, runs after the network's own."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = block(2, 4, 2), block(4, 6)
        self.aspp = nn.ModuleList([block(6, 4), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.ReLU())])
        self.project = block(8, 5)
        self.classifier = nn.Conv2d(5, 3, 1)
        self.aux_classifier = nn.Sequential(block(4, 4), nn.Conv2d(4, 3, 1))

    def forward(self, x):
        low = self.stem(x)
        y = self.deep(low)
        pooled = self.aspp[1](y).expand(-1, -1, y.shape[2], y.shape[3])
        y = self.classifier(self.project(torch.cat([self.aspp[0](y), pooled], 1)))
        return {"out": resized(y, x), "aux": resized(self.aux_classifier(low), x)}


class Lraspp(nn.Module):
    """Two classifiers on two maps, added."""

    def __init__(self):
        super().__init__()
        self.low, self.high = block(2, 4, 2), block(4, 6, 2)
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 5, 1), nn.Sigmoid())
        self.cbr = block(6, 5)
        self.low_classifier, self.high_classifier = nn.Conv2d(4, 3, 1), nn.Conv2d(5, 3, 1)

    def forward(self, x):
        low = self.low(x)
        high = self.high(low)
        y = resized(self.cbr(high) * self.scale(high), low)
        return resized(self.low_classifier(low) + self.high_classifier(y), x)


class Supervised(nn.Module):
    """A nested U-Net with deep supervision: a list of outputs, or their mean."""

    def __init__(self, mean=False):
        super().__init__()
        self.mean = mean
        self.top, self.down, self.up, self.last = block(2, 4), block(4, 6), block(10, 5), block(9, 5)
        self.outs = nn.ModuleList([nn.Conv2d(5, 3, 1), nn.Conv2d(5, 3, 1)])

    def forward(self, x):
        top = self.top(x)
        down = resized(self.down(F.max_pool2d(top, 2)), top)
        up = self.up(torch.cat([top, down], 1))
        last = self.last(torch.cat([top, up], 1))
        outs = [self.outs[1](last), self.outs[0](up)]
        return (outs[0] + outs[1]) / 2 if self.mean else outs


class Pyramid(nn.Module):
    """A feature pyramid: resized sums, and a classifier behind dropout."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = block(2, 4, 2), block(4, 6, 2)
        self.p1, self.p2 = nn.Conv2d(4, 5, 1), nn.Conv2d(6, 5, 1)
        self.smooth = block(5, 5)
        self.dropout = nn.Dropout2d(0.2)
        self.head = nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, x):
        c1 = self.c1(x)
        p2 = self.p2(self.c2(c1))
        y = self.smooth(self.p1(c1) + resized(p2, c1))
        return resized(self.head(self.dropout(y)), x)


class Encoder(nn.Module):
    """One class per image."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(block(2, 4, 2), block(4, 6))
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class Wide(nn.Module):
    """Returns a feature map of other channels, of which one inner layer has as many as there are classes."""

    def __init__(self):
        super().__init__()
        self.body, self.narrow, self.head = block(2, 5), block(5, 3), nn.Conv2d(3, 7, 1)

    def forward(self, x):
        return self.head(self.narrow(self.body(x)))


class Scaled(nn.Module):
    """Slices, a learned upsampling, a scale and a shift behind the classifier; a side head that is thrown away."""

    def __init__(self, end=None):
        super().__init__()
        self.body = block(2, 5, 2)
        self.side = nn.Conv2d(5, 3, 1)
        self.classifier = nn.Conv2d(5, 4, 1)
        self.scale = nn.Parameter(torch.tensor([1.5, 0.5, 2.0]).reshape(1, 3, 1, 1))
        self.end = end

    def forward(self, x):
        y = self.body(x)
        side = self.side(y)
        y = resized(self.classifier(y), x)[:, 1:] * self.scale - 0.25
        return (y if self.end is None else self.end(y)), side


class Results(nn.Module):
    """Several results under names."""

    def __init__(self, first, second):
        super().__init__()
        self.names = first, second
        self.low, self.high = block(2, 4), block(4, 5)
        self.classifiers = nn.ModuleList([nn.Conv2d(4, 3, 1), nn.Conv2d(5, 3, 1)])

    def forward(self, x):
        low = self.low(x)
        return {self.names[0]: self.classifiers[0](low), self.names[1]: self.classifiers[1](self.high(low))}


class Squash(nn.Module):
    """A sigmoid by another name."""

    def forward(self, x):
        return (torch.tanh(x) + 1) / 2


torch.manual_seed(11)

# The network, where its output is, and the layer that gives the map which that is made of (None: data flow cannot say).
NETWORKS = {
    "deeplab": (DeepLab(), ["out"], "project"),
    "lraspp": (Lraspp(), [], None),
    "supervised": (Supervised(), [0], "last"),
    "supervised-mean": (Supervised(True), [], None),
    "pyramid": (Pyramid(), [], "dropout"),
    "encoder": (Encoder(), [], "features"),
    "wide": (Wide(), [], "narrow"),
    "scaled": (Scaled(), [0], "body"),
    "softmax": (Scaled(nn.Softmax(1)), [0], "body"),
    "sigmoid": (Scaled(nn.Sigmoid()), [0], "body"),
    "sigmoid-by-tanh": (Scaled(Squash()), [0], "body"),
    "auxiliary": (Results("aux", "logits"), ["logits"], "high"),
}

EXPORTED = {"auxiliary", "deeplab", "supervised", "encoder", "scaled", "softmax"}


def main(folder):
    os.makedirs(folder, exist_ok=True)
    image = torch.randn(1, 2, 16, 16)
    expected, described = {"image": image}, {}
    for name, (network, where, features) in NETWORKS.items():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        network.eval()
        seen = {}
        if features:
            hook = network.get_submodule(features).register_forward_hook(lambda *a: seen.update(features=a[2].clone()))
        with torch.no_grad():
            output = network(image)
        for key in where:
            output = output[key]
        expected[f"{name}.output"] = output.contiguous()
        if features:
            hook.remove()
            expected[f"{name}.features"] = seen["features"].contiguous()
        described[name] = {"features": features}
        torch.jit.save(torch.jit.trace(network, image, strict=False), os.path.join(folder, f"{name}.pt"))
        if name in EXPORTED:
            torch.export.save(torch.export.export(network, (image,)), os.path.join(folder, f"{name}.pt2"))
    network = Results("edges", "masks").eval()
    torch.jit.save(torch.jit.trace(network, image, strict=False), os.path.join(folder, "results.pt"))
    torch.export.save(torch.export.export(network, (image,)), os.path.join(folder, "results.pt2"))
    # A weight that is no number, behind a ReLU that may take it away.
    for name, value in (("nan", float("nan")), ("infinite", float("inf"))):
        network = nn.Sequential(block(2, 2), nn.Conv2d(2, 3, 1)).eval()
        network[0][0].weight.data[0, 0, 0, 0] = value
        torch.jit.save(torch.jit.script(network), os.path.join(folder, f"{name}.pt"))
        torch.export.save(torch.export.export(network, (image,)), os.path.join(folder, f"{name}.pt2"))
    save_file(expected, os.path.join(folder, "expected.safetensors"))
    with open(os.path.join(folder, "networks.json"), "w") as file:
        json.dump(described, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
