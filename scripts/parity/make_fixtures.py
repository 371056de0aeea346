"""Writes what PyTorch computes for each network of the zoo, for native/tests/parity_test.cpp:

    python make_fixtures.py FOLDER

One safetensors file per case: "state/<name>" (weights and buffers before), "input", "eval/output", "eval/tap/<module>" for
every module that returns one tensor (evaluation mode), and of one training pass "train/output", "train/tap/<module>",
"train/grad/<parameter>" (of those that take part), the gradients of sum(output · "train/cotangent") plus the sum over tapped ReLUs of
sum(tap · cos(arange)) / numel, and "train/buffer/<name>" after it. The metadata holds the configuration as JSON."""

import json
import struct
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "python"))
from zoo import make  # noqa: E402

TYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}

DROPOUT_SEED = 3  # of the default generator before the training pass, there as here

CASES = {
    "resnet18": ({"kind": "resnet18", "inChannels": 3, "classes": 10}, (2, 3, 64, 64)),
    "resnet50": ({"kind": "resnet50", "inChannels": 1, "classes": 7}, (2, 1, 65, 40)),
    "unet-resnet18": ({"kind": "unet", "encoder": "resnet18", "inChannels": 3, "classes": 2}, (2, 3, 64, 64)),
    "unet-resnet18-odd": (
        {"kind": "unet", "encoder": "resnet18", "inChannels": 1, "classes": 4, "decoderChannels": [64, 32, 32, 16, 16]},
        (2, 1, 97, 130),
    ),
    "unet-resnet34": (
        {"kind": "unet", "encoder": "resnet34", "inChannels": 3, "classes": 2, "decoderChannels": [32, 32, 16, 16, 8]},
        (2, 3, 33, 64),
    ),
    "unet-scse": (
        {"kind": "unet", "encoder": "resnet18", "inChannels": 1, "classes": 2, "attention": "scse", "decoderChannels": [128, 64, 64, 32, 32]},
        (2, 1, 64, 96),
    ),
    "unet-resnet50": (
        {"kind": "unet", "encoder": "resnet50", "inChannels": 3, "classes": 2, "decoderChannels": [64, 32, 32, 16, 16]},
        (2, 3, 64, 64),
    ),
    "resnet101": ({"kind": "resnet101", "inChannels": 1, "classes": 3}, (2, 1, 48, 33)),
    "unet-resnet101-scse": (
        {"kind": "unet", "encoder": "resnet101", "inChannels": 1, "classes": 2, "attention": "scse", "decoderChannels": [64, 32, 32, 16, 16]},
        (2, 1, 64, 40),
    ),
    "deeplabv3plus": (
        {"kind": "deeplabv3plus", "encoder": "resnet18", "inChannels": 3, "classes": 3, "decoderChannels": 32},
        (2, 3, 64, 96),
    ),
    "deeplabv3plus-odd": (
        {"kind": "deeplabv3plus", "encoder": "resnet18", "inChannels": 1, "classes": 2, "decoderChannels": 48, "atrousRates": [2, 4, 6], "dropout": 0.3},
        (2, 1, 97, 130),
    ),
    "deeplabv3plus-stride8": (
        {"kind": "deeplabv3plus", "encoder": "resnet50", "inChannels": 1, "classes": 2, "decoderChannels": 16, "outputStride": 8, "dropout": 0},
        (2, 1, 65, 64),
    ),
    "fpn": (
        {"kind": "fpn", "encoder": "resnet18", "inChannels": 3, "classes": 2, "pyramidChannels": 32, "segmentationChannels": 64},
        (2, 3, 64, 64),
    ),
    "fpn-odd": (
        {"kind": "fpn", "encoder": "resnet34", "inChannels": 1, "classes": 4, "pyramidChannels": 16, "segmentationChannels": 32, "dropout": 0},
        (2, 1, 97, 130),
    ),
    "unet3d": ({"kind": "unet3d", "inChannels": 1, "classes": 2, "width": 4, "depth": 3}, (2, 1, 16, 24, 20)),
    "unet3d-odd": (
        {"kind": "unet3d", "inChannels": 2, "classes": 3, "width": 4, "depth": 4, "norm": "instance", "upsampling": "trilinear"},
        (2, 2, 13, 21, 18),
    ),
    "dynunet": ({"kind": "dynunet", "inChannels": 1, "classes": 3, "width": 4, "widest": 12, "depth": 4}, (2, 1, 16, 24, 16)),
    "dynunet-odd": (
        {
            "kind": "dynunet",
            "inChannels": 2,
            "classes": 2,
            "width": 4,
            "depth": 3,
            "convolutions": 1,
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        },
        (2, 2, 7, 21, 18),
    ),
    "dynunet2d": ({"kind": "dynunet2d", "inChannels": 1, "classes": 2, "width": 4, "depth": 4}, (2, 1, 48, 40)),
    "plain-unet": ({"kind": "plain-unet", "inChannels": 1, "classes": 2, "width": 8, "depth": 4}, (2, 1, 64, 64)),
    "plain-unet-odd": ({"kind": "plain-unet", "inChannels": 2, "classes": 3, "width": 8, "depth": 3}, (2, 2, 51, 38)),
}


def save_safetensors(path, tensors, metadata):
    header, offset, blobs = {"__metadata__": metadata}, 0, []
    for name, tensor in tensors.items():
        blob = tensor.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def run(model, x, gradients):
    """Output and the last value that each module returned, copied before a later layer can overwrite it."""
    taps, handles = {}, []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_hook(lambda _m, _i, out, name=name: taps.__setitem__(name, out.clone()) if torch.is_tensor(out) else None))
    with torch.set_grad_enabled(gradients):
        output = model(x)
    for handle in handles:
        handle.remove()
    return output, taps


def main(folder):
    torch.set_num_threads(2)
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, (config, shape)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        model = make(config)
        for module in model.modules():
            if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)):  # running statistics that are not the identity
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                with torch.no_grad():
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.1)
        x = torch.randn(shape)
        tensors = {"input": x, **{f"state/{k}": v.clone() for k, v in model.state_dict().items()}}

        output, taps = run(model.eval(), x, False)
        tensors |= {"eval/output": output, **{f"eval/tap/{k}": v for k, v in taps.items()}}

        torch.manual_seed(DROPOUT_SEED)
        output, taps = run(model.train(), x, True)
        cotangent = torch.randn_like(output)
        loss = (output * cotangent).sum()
        for tap, value in taps.items():
            if tap.split(".")[-1] == "relu":
                loss = loss + (value * torch.cos(torch.arange(value.numel(), dtype=torch.float32)).view_as(value)).sum() / value.numel()
        loss.backward()
        tensors |= {"train/output": output, "train/cotangent": cotangent}
        tensors |= {f"train/tap/{k}": v for k, v in taps.items() if k.split(".")[-1] == "relu"}
        tensors |= {f"train/grad/{k}": p.grad for k, p in model.named_parameters() if p.grad is not None}
        tensors |= {f"train/buffer/{k}": b for k, b in model.named_buffers()}
        path = folder / f"{name}.safetensors"
        save_safetensors(path, tensors, {"config": json.dumps(config)})
        print(f"{path}: {len(tensors)} tensors, {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_fixtures.py FOLDER")
    main(Path(sys.argv[1]))
