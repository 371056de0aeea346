"""Makes test/fixtures/exported: small torch.export programs, and what PyTorch itself computes with the same networks.

    python3 scripts/models/make_exported_fixtures.py test/fixtures/exported   # needs PyTorch 2.13 and safetensors

For each NAME.pt2 there is NAME.safetensors with
    input, output, tap/LAYER              evaluation, by forward hooks
    train/output, train/tap/LAYER,        one training pass after torch.manual_seed(0); its loss is
    train/grad/PARAMETER, train/buffer/B    mean(output²) + Σ mean(tap²)
Layers that were not called, or return something other than a tensor, have no tap.
"""

import json
import os
import sys
import zipfile

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F


def block(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """In-place successors, a shortcut, and a block that fuses."""

    def __init__(self):
        super().__init__()
        self.stem = block(2, 2)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Conv2d(2, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.bn(self.conv(x))
        y += x
        return self.head(self.relu(y))


class Shared(nn.Module):
    """Modules that run twice, a pass-through and one whose output only a signature can tell."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(2)
        self.pass_on = nn.Identity()
        self.pair = Pair()

    def forward(self, x):
        for _ in range(2):
            x = torch.relu(self.bn(self.conv(x)))
        a, b = self.pair(self.pass_on(x))
        return a * b


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, x * 2


class Sizes(nn.Module):
    """Arithmetic on sizes, odd ones too; a dict as result; dropout."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.up = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.drop(self.down(x))
        h, w = x.shape[-2:]
        y = F.interpolate(y, size=((h + 1) // 2 * 2 - h % 2, w), mode="bilinear", align_corners=False)
        z = self.up(y)
        return {"aux": y, "out": z + x.new_zeros(1) + float(h) / w}


class Dropping(nn.Module):
    """Dropout beside a batch norm that must keep its statistics, for Monte Carlo dropout."""

    def __init__(self):
        super().__init__()
        self.conv = block(1, 4)
        self.drop = nn.Dropout(0.25)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(self.drop(self.conv(x)))


class Two(nn.Module):
    """A second tensor, a number and a keyword; a tuple as result."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x, scale, gain=2.0, *, extra=None):
        return (scale.sum(), self.conv(x) * scale[:, None, None, None] * gain)


class OwnState(nn.Module):
    """A buffer that training alone changes, beside a batch norm."""

    def __init__(self):
        super().__init__()
        self.conv = block(2, 2)
        self.register_buffer("average", torch.zeros(2))

    def forward(self, x):
        y = self.conv(x)
        if self.training:
            self.average.mul_(0.9).add_(y.detach().mean((0, 2, 3)), alpha=0.1)
        return y + self.average[:, None, None]


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)
        self.bn = nn.BatchNorm3d(2)
        self.relu = nn.ReLU()
        self.up = nn.ConvTranspose3d(2, 1, 2, stride=2)

    def forward(self, x):
        return self.up(F.max_pool3d(self.relu(self.bn(self.conv(x))), 2))


def seed_norms(model):
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def expected(model, args, kwargs, pick, train=True):
    """What hooks see. A tap is copied when its module returns: a later one may work in place on it."""
    taps = {}

    def hook(name):
        def keep(_module, _args, output):
            taps.pop(name, None)
            if isinstance(output, torch.Tensor):
                taps[name] = output.clone()

        return keep

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if n]
    result = {"input": args[0]}
    model.eval()
    with torch.no_grad():
        result["output"] = pick(model(*args, **kwargs))
    result.update({f"tap/{n}": t for n, t in taps.items()})
    if train:
        taps.clear()
        model.train()
        torch.manual_seed(0)
        output = pick(model(*args, **kwargs))
        loss = output.square().mean() + sum(t.square().mean() for t in taps.values())
        loss.backward()
        result["train/output"] = output
        result.update({f"train/tap/{n}": t for n, t in taps.items()})
        result.update({f"train/grad/{n}": p.grad for n, p in model.named_parameters()})
        result.update({f"train/buffer/{n}": b for n, b in model.named_buffers()})
    for handle in handles:
        handle.remove()
    return {k: v.detach().clone().contiguous() for k, v in result.items()}


def slim(path):
    """The same archive without what nobody here reads and without stack traces."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(path + ".slim", "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if "sample_inputs" in entry.filename:
                continue
            data = source.read(entry)
            if entry.filename.endswith(".json"):
                text = json.loads(data)
                if "graph_module" in text:
                    for node in text["graph_module"]["graph"]["nodes"]:
                        node["metadata"] = {k: v for k, v in node["metadata"].items() if k == "nn_module_stack"}
                data = json.dumps(text, separators=(",", ":")).encode()
            target.writestr(entry.filename, data)
    os.replace(path + ".slim", path)


def write(folder, name, model, args, kwargs=None, pick=lambda y: y, mode="eval", train=True, decompose=False, **export):
    kwargs = kwargs or {}
    model.train(mode == "train")
    program = torch.export.export(model, args, kwargs, **export)
    if decompose:
        program = program.run_decompositions()
    path = os.path.join(folder, name + ".pt2")
    torch.export.save(program, path)
    slim(path)
    save_file(expected(model, args, kwargs, pick, train), os.path.join(folder, name + ".safetensors"))
    print(name, os.path.getsize(path), os.path.getsize(path[:-4] + ".safetensors"))


def main(folder):
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(7)
    batch, height, width = torch.export.Dim("N", max=64), torch.export.Dim("H", min=4, max=512), torch.export.Dim("W", min=4)
    square = torch.randn(2, 2, 4, 6)
    small = torch.randn(2, 2, 5, 4)
    write(folder, "dynamic", seed_norms(Residual()), (square,), dynamic_shapes={"x": {0: batch, 2: height, 3: width}})
    write(folder, "made_in_training", seed_norms(block(2, 2)), (small,), mode="train")
    write(folder, "shared", seed_norms(Shared()), (small,))
    write(folder, "preserved", seed_norms(Shared()), (small,), preserve_module_call_signature=("conv", "bn", "pair", "pass_on"))
    write(folder, "core", seed_norms(block(2, 2)), (small,), train=False, decompose=True)
    write(folder, "core_training", seed_norms(block(2, 2)), (small,), mode="train", decompose=True)
    write(folder, "sizes", Sizes(), (torch.randn(2, 1, 5, 6),), pick=lambda y: y["out"],
          dynamic_shapes={"x": {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}})
    write(folder, "dropping", seed_norms(Dropping()), (square[:, :1],), dynamic_shapes={"x": {0: batch, 2: height, 3: width}})
    write(folder, "two", Two(), (small, torch.tensor([0.5, 0.5])), {"extra": None}, pick=lambda y: y[1],
          dynamic_shapes={"x": {0: batch}, "scale": {0: batch}, "extra": None})
    write(folder, "volume", seed_norms(Volume()), (torch.randn(2, 1, 2, 2, 4),))
    instance = nn.Sequential(nn.Conv2d(2, 2, 3), nn.InstanceNorm2d(2, affine=True, track_running_stats=True))
    write(folder, "instance", instance, (small,))
    write(folder, "own_state", seed_norms(OwnState()), (small,), mode="train", train=False)
    # A higher-order operator.
    write(folder, "higher_order", NoGrad(), (small,), train=False)


class NoGrad(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            y = x * 2
        return y + x


if __name__ == "__main__":
    main(sys.argv[1])
