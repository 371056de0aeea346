"""Takes a trained layer ensemble back to PyTorch. Needs torch, safetensors and numpy; pillow for image files.

    from load import load
    ensemble = load("runs/busi")                    # a network of this package's own (zoo.py)
    ensemble = load("runs/imported", MyNetwork())   # any other: the eager module that was exported, with any weights
    result = ensemble.predict(image)                # C×H×W, as the network takes it
    result["probabilities"], result["mask"], result["aula"]

or from a shell, which prints one line of JSON:

    python load.py runs/busi image.png --out result.npz
    python load.py runs/busi image.npy               # C×H×W, prepared already

A run folder holds run.json (which layers are tapped, how images are prepared) and weights.safetensors (the network's state
dict, and a 3×3 convolution for each tap: heads.<index>.weight and .bias). The ensemble is an ordinary nn.Module: the taps
are forward hooks, and everything can be trained further.

The module must be eager PyTorch. torch.jit.load gives a ScriptModule, which refuses forward hooks; torch.export.load(…)
.module() gives one flat graph without the submodules. Build the network from its source, as before it was exported."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F


def load(run, module=None, call=None):
    """The ensemble of a run folder, in evaluation mode.

    module: the network, eager; None: built by zoo.py from run.json.
    call: how an image (N×C×H×W) is given to it, where it takes more than that: lambda module, x: module(x, 0.5)."""
    run = Path(run)
    config = json.loads((run / "run.json").read_text())
    if module is None:
        if "file" in config["backbone"]:
            raise ValueError(f"Expected the eager module for {config['backbone']['file']} but received none: load(run, module).")
        import zoo

        module = zoo.make(config["backbone"])
    if isinstance(module, torch.jit.ScriptModule) or isinstance(module, torch.fx.GraphModule):
        raise TypeError(f"Expected an eager module but received a {type(module).__name__}, in which layers cannot be hooked.")

    with safe_open(run / "weights.safetensors", framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        recorded = (file.metadata() or {}).get("heads")
    taps, final = config["ensemble"]["taps"], config["ensemble"]["final"]
    if recorded is not None and json.loads(recorded) != taps + ["final"] * final:
        raise ValueError(f"Expected weights of the heads {taps} but received those of {recorded}.")
    heads = [(weights.pop(f"heads.{k}.weight"), weights.pop(f"heads.{k}.bias")) for k in range(len(taps))]

    state = module.state_dict()
    # What is not part of a state dict, or was not counted: buffers that are not persistent, and numbers of batches.
    buffers = {name for name, _ in module.named_buffers()}
    missing = [name for name in state if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in state and name not in buffers]
    if missing or unexpected:
        raise ValueError(f"Expected the module that was trained: weights are missing for {missing} and left over for {unexpected}.")
    module.load_state_dict({name: tensor for name, tensor in weights.items() if name in state}, strict=False)
    output = config["backbone"].get("output", [])
    return LayerEnsemble(module, taps, heads, final, config.get("skip", 0), output, call).eval()


class LayerEnsemble(nn.Module):
    """A network, forward hooks on the tapped layers, and a convolution on each."""

    def __init__(self, backbone, taps, heads, final, skip=0, output=(), call=None):
        super().__init__()
        self.backbone, self.names = backbone, list(taps) + ["final"] * final
        self.taps, self.final, self.skip, self.output, self.call = list(taps), final, skip, list(output), call
        self.heads = nn.ModuleList()
        for weight, bias in heads:
            convolution = {4: nn.Conv2d, 5: nn.Conv3d}[weight.dim()]
            head = convolution(weight.shape[1], weight.shape[0], weight.shape[2:], padding=weight.shape[-1] // 2)
            with torch.no_grad():
                head.weight.copy_(weight)
                head.bias.copy_(bias)
            self.heads.append(head)
        self.features = {}
        for name in self.taps:
            # A copy: a later layer may work in place on the same memory. The last call of a layer decides.
            backbone.get_submodule(name).register_forward_hook(lambda _m, _args, value, name=name: self.features.__setitem__(name, value.clone()))

    def forward(self, x):
        """N×C×H×W (or N×C×D×H×W) → the logits of each head, at the image's own size, in depth order."""
        self.features.clear()
        output = self.call(self.backbone, x) if self.call else self.backbone(x)
        logits = [head(self.features.pop(name)) for name, head in zip(self.taps, self.heads)]
        if self.final:
            logits.append(pick(output, self.output))
        mode = "bilinear" if x.dim() == 4 else "trilinear"
        return [F.interpolate(z, size=x.shape[2:], mode=mode, align_corners=False) for z in logits]

    @torch.no_grad()
    def predict(self, image, skip=None):
        """One prepared image, C×H×W → fused probabilities (C×H×W), mask, every kept head's mask, and AULA."""
        skip = self.skip if skip is None else skip
        logits = torch.stack(self(torch.as_tensor(image, dtype=torch.float32).unsqueeze(0))[skip:])[:, 0]
        probabilities = logits.softmax(1).mean(0).numpy()
        labels = logits.numpy().argmax(1)  # NumPy's takes the lower class of a tie
        return {
            "heads": self.names[skip:],
            "probabilities": probabilities,
            "mask": probabilities.argmax(0).astype(np.uint8),
            "labels": labels.astype(np.uint8),
            "aula": aula(labels, logits.shape[1]) if len(labels) > 2 else None,
        }


def pick(output, path=()):
    """The network's own output in what forward returned: by the path, else the tensor itself, a dict's "out", or the first
    tensor."""
    if path:
        for key in path:
            output = output[key]
        return output
    if torch.is_tensor(output):
        return output
    if isinstance(output, dict):
        return pick(output["out"] if "out" in output else next(iter(output.values())))
    return pick(output[0])


def aula(labels, classes):
    """Area under layer agreement: the trapezoid rule over the Dice of each head with the next, mean over the foreground
    classes that some head predicts; K - 2 where none does. labels: K×H×W."""
    areas = []
    for c in range(1, classes):
        masks = labels == c
        if not masks.any():
            continue
        sizes = [int(mask.sum()) for mask in masks]
        dice = [
            2 * int((masks[k] & masks[k + 1]).sum()) / (sizes[k] + sizes[k + 1]) if sizes[k] + sizes[k + 1] else 1.0 for k in range(len(masks) - 1)
        ]
        areas.append(sum((a + b) / 2 for a, b in zip(dice, dice[1:])))
    value = sum(areas) / len(areas) if areas else float(len(labels) - 2)
    return {"value": value, "normalised": value / (len(labels) - 2), "empty": not areas}


def prepare(path, preprocessing):
    """An image file as training prepared it → C×H×W, and the part of it that shows the image: top, left, height, width."""
    from PIL import Image

    with Image.open(path) as file:
        if file.mode not in ("L", "I;16", "RGB"):
            raise ValueError(f"Expected a grey or RGB image of 8 or 16 bits but received {path} of mode {file.mode}: prepare it yourself as .npy.")
        pixels = np.asarray(file).astype(np.float64)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if preprocessing["channels"] == 1 and len(planes) == 3:
        r, g, b = planes
        planes = np.where((r == g) & (g == b), r, 0.299 * r + 0.587 * g + 0.114 * b)[None].astype(np.float32).astype(np.float64)

    how = preprocessing["normalise"]
    if how["kind"] == "zscore":
        spread = planes.std()
        planes = (planes - planes.mean()) / spread if spread > 0 else planes * 0
    elif how["kind"] == "percentile":
        low, high = np.percentile(planes, [how["low"], how["high"]])
        planes = ((planes - low) / (high - low)).clip(0, 1) if high > low else planes * 0
    elif how["kind"] != "none":
        raise ValueError(f"Expected a known way to scale intensities but received {how}: prepare the image yourself as .npy.")

    height, width = planes.shape[1:]
    size = preprocessing["size"] or [height, width]
    content = list(size)
    if preprocessing["resize"] == "pad":
        scale = min(size[0] / height, size[1] / width)
        content = [min(s, max(1, int(n * scale + 0.5))) for n, s in zip((height, width), size)]
    elif preprocessing["resize"] == "none-with-pad":
        content = [height, width]
        if height > size[0] or width > size[1]:
            raise ValueError(f"Expected at most {size} pixels but received {height}×{width}.")
    image = resize(torch.from_numpy(planes), content).float()
    top, left = (size[0] - content[0]) // 2, (size[1] - content[1]) // 2
    image = F.pad(image, (left, size[1] - content[1] - left, top, size[0] - content[0] - top))
    if len(image) < preprocessing["channels"]:
        image = image.repeat(preprocessing["channels"], 1, 1)
    return image, (top, left, *content), (height, width)


def resize(planes, size):
    if list(planes.shape[1:]) == list(size):
        return planes
    return F.interpolate(planes[None], size=tuple(size), mode="bilinear", align_corners=False, antialias=True)[0]


def restore(probabilities, content, size):
    """From the network's input back to the stored size of the image."""
    top, left, height, width = content
    return resize(torch.from_numpy(probabilities[:, top : top + height, left : left + width]), size).numpy()


def main():
    parser = argparse.ArgumentParser(description="Predicts one image with a run folder.")
    parser.add_argument("run")
    parser.add_argument("image", help=".npy (C×H×W, float32, prepared) or an image file")
    parser.add_argument("--skip", type=int, help="first heads to leave out (default: the run's)")
    parser.add_argument("--out", help="writes probabilities (at the stored size) and mask as .npz")
    options = parser.parse_args()

    ensemble = load(options.run)
    if options.image.endswith(".npy"):
        result = ensemble.predict(np.load(options.image, allow_pickle=False), options.skip)
    else:
        notes = json.loads((Path(options.run) / "run.json").read_text())["notes"]
        if "preprocessing" not in notes:
            parser.error(f"{options.run}/run.json does not say how images are prepared: prepare the image yourself and give it as .npy")
        image, content, size = prepare(options.image, notes["preprocessing"])
        result = ensemble.predict(image, options.skip)
        result["probabilities"] = restore(result["probabilities"], content, size)
        result["mask"] = result["probabilities"].argmax(0).astype(np.uint8)
    if options.out:
        np.savez(options.out, probabilities=result["probabilities"], mask=result["mask"])
    foreground = [int((result["mask"] == c).sum()) for c in range(len(result["probabilities"]))]
    print(json.dumps({"heads": result["heads"], "aula": result["aula"], "pixels": foreground}))


if __name__ == "__main__":
    main()
