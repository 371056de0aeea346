"""Makes test/fixtures/script: tiny TorchScript networks, and what Python's own forward hooks see in them.

    python scripts/models/make_script_fixtures.py [folder]

Needs torch 2.13 and safetensors. Beside NAME.pt lies NAME.safetensors with, for both modes,
{eval,train}.{final,tap.LAYER,grad.PARAMETER,buffer.BUFFER}: one pass from the weights in the file, with the loss
mean(final²) + Σ mean(tap²). Its metadata has the order of calls, the layers and the options to load with.
"""

import json
import os
import sys
import warnings
import zipfile
from typing import Dict, List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

warnings.simplefilter("ignore")


def expected(model, x, extra=(), choose=lambda y: y, skip=(), modes=("eval", "train")):
    """Passes of `model` in both modes, seen by forward hooks. Leaves the weights as they were."""
    result, calls = {"x": x}, []
    names = {module: name for name, module in model.named_modules() if name}
    was_training = {module: module.training for module in model.modules()}
    frozen = [m for m in model.modules() if model.training and not m.training]
    for mode in modes:
        model.train(mode == "train")
        for module in frozen:
            module.eval()
        state = {key: value.clone() for key, value in model.state_dict().items()}
        seen = {}

        def hook(module, inputs, output):
            if mode == "eval":
                calls.append(names[module])
            if torch.is_tensor(output):
                # A later in-place operation must not change what is expected; gradients still flow.
                seen[names[module]] = output.clone()

        hooks = [module.register_forward_hook(hook) for module in names]
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        y = choose(model(x.clone(), *extra))
        taps = {name: value for name, value in seen.items() if name not in skip}
        loss = y.float().pow(2).mean() + sum(value.float().pow(2).mean() for value in taps.values())
        loss.backward()
        result[f"{mode}.final"] = y
        result.update({f"{mode}.tap.{name}": value for name, value in taps.items()})
        result.update({f"{mode}.grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None})
        result.update({f"{mode}.buffer.{name}": value for name, value in model.named_buffers()})
        result = {key: value.detach().clone().contiguous() for key, value in result.items()}
        for handle in hooks:
            handle.remove()
        model.load_state_dict(state)
    model.zero_grad(set_to_none=True)
    for module, training in was_training.items():
        module.training = training
    return result, calls


def save_script(script, path):
    """Saves without the debug files, which are most of a small network's bytes."""
    script.save(path + ".tmp")
    with zipfile.ZipFile(path + ".tmp") as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry), entry.compress_type)
    os.remove(path + ".tmp")


def write(folder, name, model, script, x, extra=(), choose=lambda y: y, options=None, skip=(), modes=("eval", "train")):
    tensors, calls = expected(model, x, extra, choose, skip, modes)
    layers = [[key, type(module).__name__] for key, module in model.named_modules() if key]
    metadata = {"calls": json.dumps(calls), "layers": json.dumps(layers), "options": json.dumps(options or {})}
    save_script(script, os.path.join(folder, name + ".pt"))
    save_file(tensors, os.path.join(folder, name + ".safetensors"), metadata)


def norm(channels):
    layer = nn.BatchNorm2d(channels)
    with torch.no_grad():
        layer.running_mean.normal_(0, 0.1)
        layer.running_var.uniform_(0.5, 1.5)
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.normal_(0, 0.1)
    return layer


class Branches(nn.Module):
    """Taps in branches and loops; one module called several times, two with one weight, one never called."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.c = nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU()
        self.again = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.again.weight = self.b.weight
        self.idle = nn.Conv2d(4, 4, 1)

    def forward(self, x, n: int):
        y = self.act(self.a(x))
        for i in range(n):
            if i % 2 == 0:
                y = y + self.act(self.b(y))
            else:
                y = y - self.act(self.c(y))
        if bool(y.mean() > 1e9):
            y = self.idle(y)
        return self.again(y)


class Block(nn.Module):
    """What a ResNet has: batch norm, activations in place, a shortcut that is added in place."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = norm(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = norm(4)
        self.down = nn.Sequential(nn.Conv2d(3, 4, 1), norm(4))
        self.act = nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, dilation=2), norm(4), nn.Hardswish(inplace=True))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.SiLU(), nn.Conv2d(4, 2, 1), nn.Sigmoid())

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.down(x)
        return self.head(self.act(self.relu(y)))


class Dropped(nn.Module):
    """Batch norm and dropout, to be traced in evaluation mode. The dropout is certain: 0 keeps all."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = norm(4)
        self.drop = nn.Dropout2d(0.0)
        self.frozen = norm(4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(self.frozen(self.drop(self.bn(self.conv(x)))))


class Dropping(nn.Module):
    """Dropout that draws, for Monte Carlo dropout, beside a batch norm that must keep its statistics."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = norm(4)
        self.drop = nn.Dropout(0.25)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(self.drop(self.bn(self.conv(x))))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x) -> Tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        return y, y * 2


class Several(nn.Module):
    """Several inputs, a submodule that returns a tuple, a dictionary as the result."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Conv2d(2, 4, 1)
        self.pair = Pair()

    def forward(self, guide: torch.Tensor, image: torch.Tensor, weights: List[float], times: float = 0.5) -> Dict[str, torch.Tensor]:
        a, b = self.pair(image)
        g = self.scale(guide)
        return {"aux": a * times, "out": b + g * weights[1]}


class Tuples(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a, b = self.pair(x)
        return a, [self.last(b), b]


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm3d(4), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose3d(4, 2, 2, stride=2)

    def forward(self, x):
        return self.up(self.down(x))


class Viewing(nn.Module):
    """A view that channels_last tensors do not allow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        return self.last(y.view(y.shape[0], 4, -1).mul(2).view(y.shape))


@torch.jit.interface
class Step(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pass


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Interfaced(nn.Module):
    step: Step

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.step = Wide()

    def forward(self, x):
        return self.step.forward(self.first(x))


class Foreign(nn.Module):
    """Reads a file as it runs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x) + torch.from_file("/etc/hostname", size=1)


class Stateful(nn.Module):
    """Runs code as it is loaded."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    @torch.jit.export
    def __getstate__(self):
        return self.conv.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[torch.Tensor, bool]):
        self.training = state[1]

    def forward(self, x):
        return self.conv(x)


def main(folder):
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(1)
    x = torch.randn(2, 3, 4, 5)

    model = Branches().eval()
    write(folder, "branches", model, torch.jit.script(model), x, (3,), options={"inputs": {"n": 3}})

    model = Block().eval()
    write(folder, "block-scripted", model, torch.jit.script(model), x)
    # The same network: block-scripted.safetensors is what to expect of these too.
    save_script(torch.jit.trace(model, x), os.path.join(folder, "block-traced.pt"))
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    traced = torch.jit.trace(model, x, check_trace=False)
    model.load_state_dict(state)  # tracing in training mode counts a batch
    save_script(traced, os.path.join(folder, "block-traced-training.pt"))

    # frozen.eval() after train(): stays so, whichever mode the others are in. Traced with all in evaluation mode.
    model = Dropped().train()
    model.frozen.eval()
    model.frozen.weight.requires_grad_(False)
    write(folder, "frozen-scripted", model, torch.jit.script(model), x[:, :1])
    model.eval()
    traced = torch.jit.trace(model, x[:, :1])
    traced.train()
    traced.frozen.eval()
    model.train()
    model.frozen.eval()
    write(folder, "frozen-traced", model, traced, x[:, :1])
    model.eval()
    write(folder, "eval-traced", model, torch.jit.trace(model, x[:, :1]), x[:, :1])

    model = Dropping().eval()
    save_script(torch.jit.script(model), os.path.join(folder, "dropping-scripted.pt"))
    save_script(torch.jit.trace(model, x[:, :1]), os.path.join(folder, "dropping-traced.pt"))

    model = Several().eval()
    guide = torch.full((1, 2, 1, 1), 1.5)
    options = {"image": "image", "inputs": {"guide": [[[[1.5]], [[1.5]]]], "weights": [0, 2]}}
    reordered = _Reordered(model, guide)
    values, calls = expected(reordered, x, choose=lambda y: y["out"])
    values = {key.replace("inner.", ""): value for key, value in values.items()}
    calls = [name.removeprefix("inner.") for name in calls if name != "inner"]
    layers = [[key, type(module).__name__] for key, module in model.named_modules() if key]
    save_script(torch.jit.script(model), os.path.join(folder, "several.pt"))
    save_file(values, os.path.join(folder, "several.safetensors"), {"calls": json.dumps(calls), "layers": json.dumps(layers), "options": json.dumps(options)})

    model = Tuples().eval()
    write(folder, "tuples", model, torch.jit.script(model), x, choose=lambda y: y[1][0], options={"output": [1, 0]})

    model = Volume().eval()
    write(folder, "volume", model, torch.jit.script(model), torch.randn(2, 1, 2, 4, 4))

    model = Viewing().eval()
    write(folder, "viewing", model, torch.jit.script(model), x)

    model = Interfaced().eval()
    write(folder, "interfaced", model, torch.jit.script(model), x, skip=("step", "step.conv"))

    save_script(torch.jit.script(Foreign().eval()), os.path.join(folder, "foreign.pt"))
    save_script(torch.jit.script(Stateful().eval()), os.path.join(folder, "setstate.pt"))
    save_script(torch.jit.script(Endless().eval()), os.path.join(folder, "endless.pt"))
    save_script(torch.jit.freeze(torch.jit.script(Pair().eval())), os.path.join(folder, "frozen.pt"))


class Endless(nn.Module):
    """Loops for ever on an image with a pixel above 100: with tensors made, or above 1000 without."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.a(x)
        big = float(x.max())
        while big > 1000:
            big += 1.0
        while bool((x > 100).any()):
            y = torch.relu(y)
        return self.b(y)


class _Reordered(nn.Module):
    """Calls Several with the image alone."""

    def __init__(self, inner, guide):
        super().__init__()
        self.inner, self.guide = inner, guide

    def forward(self, x):
        return self.inner(self.guide, x, [0.0, 2.0])


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../test/fixtures/script"))
