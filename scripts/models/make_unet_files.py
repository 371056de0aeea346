"""Writes one U-Net (ResNet-18 encoder, one channel, random weights) in every form that bench/imported.mjs compares:

    python make_unet_files.py FOLDER [CLASSES]

unet.safetensors (its state dict, for this package's own U-Net and for eager PyTorch), unet.script.pt, unet.trace.pt and
unet.pt2 (any batch and size)."""

import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from networks import randomise, zoo


def main(folder, classes):
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = randomise(zoo.make({"kind": "unet", "encoder": "resnet18", "inChannels": 1, "classes": classes}), 0).eval()
    x = torch.randn(2, 1, 256, 256)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "unet.safetensors")
    torch.jit.script(model).save(folder / "unet.script.pt")
    torch.jit.trace(model, x, check_trace=False).save(folder / "unet.trace.pt")
    auto = torch.export.Dim.AUTO
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: auto, 2: auto, 3: auto},)), folder / "unet.pt2")
    print("\n".join(str(path) for path in sorted(folder.iterdir())))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python make_unet_files.py FOLDER [CLASSES]")
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
