"""Layer Ensembles in tuned PyTorch, for comparison: the commands of bench/worker.mjs, one JSON line each.

Tuned means: channels_last, bfloat16 (weights cast beforehand and batch norm folded for inference, autocast for training),
inference_mode, fused Adam, cudnn.benchmark. The maps and the agreement are written with few passes over memory, since a
general argmax over the class axis takes as long as the network. The soft Dice confidence, which this package computes
too, is left out.
"""

import copy
import json
import math
import pathlib
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "python"))
import zoo  # noqa: E402


class LayerEnsemble(nn.Module):
    """Forward hooks on `taps`, a 3×3 convolution on each, and the network's own output as the last head."""

    def __init__(self, backbone, taps, classes, size):
        super().__init__()
        self.backbone, self.taps, self.features = backbone, taps, {}
        for name in taps:
            backbone.get_submodule(name).register_forward_hook(lambda module, args, out, name=name: self.features.__setitem__(name, out))
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 1, size, size))
        self.heads = nn.ModuleList(nn.Conv2d(self.features[name].shape[1], classes, 3, padding=1) for name in taps)

    def forward(self, x):
        final = self.backbone(x)
        return [head(self.features.pop(name)) for name, head in zip(self.taps, self.heads)] + [final]


def fold(module):
    """Folds each batch norm into the convolution before it."""
    children = list(module.named_children())
    for (conv_name, conv), (name, norm) in zip(children, children[1:]):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, nn.utils.fusion.fuse_conv_bn_eval(conv, norm))
            setattr(module, name, nn.Identity())
    for child in module.children():
        fold(child)
    return module


def resize(logits, size):
    # In float and contiguous: resizing bfloat16 channels_last logits takes five to seven times as long.
    return F.interpolate(logits.float().contiguous(), size, mode="bilinear", align_corners=False)


def label(scores):
    """argmax over axis 1 by comparisons; ties go to the lower class."""
    best, index = scores[:, 0], torch.zeros_like(scores[:, 0], dtype=torch.uint8)
    for c in range(1, scores.shape[1]):
        above = scores[:, c] > best
        index = torch.where(above, torch.tensor(c, dtype=torch.uint8, device=scores.device), index) if c > 1 else above.to(torch.uint8)
        best = torch.maximum(best, scores[:, c])
    return index


def entropy(p):
    return -torch.special.xlogy(p, p).sum(1)


def plain(logits, size):
    probabilities = resize(logits[-1], size).softmax(1)
    return {"probabilities": probabilities, "mask": label(probabilities)}


def measure(logits, size):
    """Fused probabilities, mask, the six maps with their summaries, and AULA from the counts of agreement."""
    count, (n, classes) = len(logits), logits[0].shape[:2]
    total = squares = expected = None
    labels = torch.empty((n, count, *size), dtype=torch.uint8, device=logits[0].device)
    for k, head in enumerate(logits):
        z = resize(head, size)
        log_p = z.log_softmax(1)
        p = log_p.exp()
        labels[:, k] = label(z)
        negative = log_p.mul_(p).sum(1)
        if total is None:
            total, squares, expected = p.clone(), p.square_(), negative
        else:
            total += p
            squares.addcmul_(p, p)
            expected += negative
    mean = total.div_(count)
    expected.div_(-count)
    mask = label(mean)
    maps = torch.empty((n, 6, *size), device=mean.device)
    maps[:, 0] = entropy(mean)
    maps[:, 1] = expected
    torch.sub(maps[:, 0], expected, out=maps[:, 2]).clamp_min_(0)
    maps[:, 3] = squares.div_(count).addcmul_(mean, mean, value=-1).mean(1)
    flat, pairs, most, intersections = labels.flatten(2), 0, 0, []
    for c in range(1, classes):
        same = (flat == c).float()
        intersections.append(same @ same.transpose(1, 2))
        votes = same.sum(1)
        pairs, most = pairs + votes * (votes - 1), votes if c == 1 else torch.maximum(most, votes)
        others = votes if c == 1 else others + votes
    votes = count - others
    pairs, most = pairs + votes * (votes - 1), torch.maximum(most, votes)
    maps[:, 4] = (1 - pairs / (count * (count - 1))).view(n, *size)
    maps[:, 5] = (1 - most / count).view(n, *size)
    flat_maps = maps.flatten(2)
    foreground = (mask != 0).flatten(1).unsqueeze(2).float()
    return {
        "probabilities": mean,
        "mask": mask,
        "maps": maps,
        "sums": flat_maps.sum(2),
        "foreground": flat_maps @ foreground,
        "intersections": torch.stack(intersections, 1),
    }


def aula(intersections):
    """Area under layer agreement, per image: mean over the foreground classes that some head predicts."""
    sizes = np.diagonal(intersections, axis1=2, axis2=3)
    neighbours = np.diagonal(intersections, 1, axis1=2, axis2=3)
    both = sizes[..., :-1] + sizes[..., 1:]
    dice = np.where(both > 0, 2 * neighbours / np.maximum(both, 1), 1)
    areas = (dice[..., :-1] + dice[..., 1:]).sum(-1) / 2
    return [float(a[s.any(1)].mean()) if s.any() else float(a.shape[-1]) for a, s in zip(areas, sizes)]


def dice_cross_entropy(logits, target):
    log_p = logits.log_softmax(1)
    loss = F.nll_loss(log_p, target)
    p = log_p.exp()
    for c in range(1, logits.shape[1]):
        truth = (target == c).float().flatten(1)
        own = p[:, c].flatten(1)
        dice = (2 * (own * truth).sum(1) + 1e-5) / (own.sum(1) + truth.sum(1) + 1e-5)
        loss = loss + (1 - dice).mean() / (logits.shape[1] - 1)
    return loss


class Contender:
    def __init__(self, device, classes, taps, size, batch, precision="auto", channelsLast=True, **_):
        torch.manual_seed(0)
        self.device = torch.device(device)
        if precision == "auto":
            units = torch.cuda.is_bf16_supported() if self.device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
            precision = "bf16" if units else "fp32"
        self.precision, self.dtype = precision, torch.bfloat16 if precision == "bf16" else torch.float32
        self.format = torch.channels_last if channelsLast else torch.contiguous_format
        backbone = zoo.make({"kind": "unet", "encoder": "resnet18", "inChannels": 1, "classes": classes})
        self.net = LayerEnsemble(backbone, taps, classes, size).to(self.device, memory_format=self.format)
        self.fast = self.optimizer = None
        self.size = (size, size)
        self.images = torch.rand(batch, 1, size, size) * 2 - 1
        self.target = torch.arange(batch * size * size).view(batch, size, size).div(16, rounding_mode="floor") % classes
        if self.device.type == "cuda":
            self.images, self.target = self.images.pin_memory(), self.target.pin_memory()

    def predict(self, maps, **_):
        if self.fast is None:
            # A copy, so that training goes on with the weights in float. A deep copy would share the hooks' dictionary.
            net = copy.deepcopy(self.net).eval()
            self.fast = rehook(fold(net).to(self.dtype))
        start = time.perf_counter()
        with torch.inference_mode():
            x = self.images.to(self.device, self.dtype, non_blocking=True, memory_format=self.format)
            logits = self.fast(x)
            result = measure(logits, self.size) if maps else plain(logits, self.size)
            arrays = {name: tensor.cpu().numpy() for name, tensor in result.items()}
            if maps:
                arrays["aula"] = aula(arrays["intersections"])
        return {"ms": 1000 * (time.perf_counter() - start)}

    def train(self, steps, **_):
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-4, fused=True)
        self.net.train()
        start = time.perf_counter()
        losses = []
        for _ in range(steps):
            x = self.images.to(self.device, non_blocking=True, memory_format=self.format)
            y = self.target.to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = self.net(x)
            loss = sum(dice_cross_entropy(resize(z, self.size), y) for z in logits)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        if not math.isfinite(torch.stack(losses).sum().item()):
            raise ValueError("the training diverged")
        return {"ms": 1000 * (time.perf_counter() - start) / steps}


def rehook(net):
    """Points the copied hooks at the copy's own dictionary."""
    for name in net.taps:
        module = net.backbone.get_submodule(name)
        module._forward_hooks.clear()
        module.register_forward_hook(lambda module, args, out, name=name: net.features.__setitem__(name, out))
    return net


def main(kind=Contender):
    contenders, device = {}, "cpu"
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "setup":
                device = command["device"]
                if command.get("threads"):
                    torch.set_num_threads(command["threads"])
                torch.backends.cudnn.benchmark = True
                answer = {"info": {"torch": torch.__version__, "python": sys.version.split()[0], "threads": torch.get_num_threads()}}
            elif command["do"] == "make":
                contender = contenders[command["name"]] = kind(device, **command)
                answer = {"precision": contender.precision}
            else:
                answer = getattr(contenders[command["name"]], command["do"])(**command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
