"""Writes what PyTorch computes for one whole layer ensemble: the logits of every head, and the weights after Adam steps on
the sum of the heads' losses, for test/parity/step.test.ts:

    python make_step_fixture.py FOLDER      (test/fixtures/step; below 200 kB)

Taps are Python forward hooks; a head is a 3x3 convolution and bilinear interpolation to the input's size."""

import json
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from make_fixtures import save_safetensors

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "python"))
from zoo import make  # noqa: E402

CONFIG = {"kind": "plain-unet", "inChannels": 1, "classes": 3, "width": 4, "depth": 2, "seed": 0}
TAPS = ["encoder.0", "encoder.1"]
STEPS, RATE = 3, 1e-2


def soft_dice(logits, target, smooth=1e-5):
    p, y = logits.softmax(1).flatten(2), F.one_hot(target, logits.shape[1]).movedim(-1, 1).flatten(2)
    dice = (2 * (p * y).sum(2) + smooth) / (p.sum(2) + y.sum(2) + smooth)
    return 1 - dice[:, 1:].mean()


def main(folder):
    torch.manual_seed(0)
    torch.set_num_threads(2)
    folder.mkdir(parents=True, exist_ok=True)
    backbone = make(CONFIG).train()
    x = torch.randn(4, 1, 29, 22)
    y = torch.randint(0, 3, (4, 29, 22))
    features = {}
    for name in TAPS:
        backbone.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: features.update({name: o.clone()}))
    with torch.no_grad():
        backbone.eval()(x)
    heads = torch.nn.ModuleList(torch.nn.Conv2d(features[name].shape[1], 3, 3, padding=1) for name in TAPS)

    def logits():
        output = backbone(x)
        outputs = [head(features[name]) for head, name in zip(heads, TAPS)] + [output]
        return [F.interpolate(z, x.shape[2:], mode="bilinear", align_corners=False) for z in outputs]

    def state():
        return {**backbone.state_dict(), **{f"heads.{k}.{n}": v for k, h in enumerate(heads) for n, v in h.state_dict().items()}}

    save_safetensors(folder / "weights.safetensors", state(), {"format": "pt"})
    expected = {"input": x, "target": y.to(torch.int64)}
    with torch.no_grad():
        for name, z in zip([*TAPS, "final"], logits()):
            expected[f"logits/{name}"] = z.clone()
    backbone.train()
    optimizer = torch.optim.Adam([*backbone.parameters(), *heads.parameters()], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = sum(soft_dice(z, y) + F.cross_entropy(z, y) for z in logits())
        loss.backward()
        optimizer.step()
    expected["loss"] = loss
    expected.update({f"after/{name}": value for name, value in state().items()})
    save_safetensors(folder / "expected.safetensors", expected, {})
    run = {
        "format": 1,
        "versions": {"torch": torch.__version__},
        "backbone": CONFIG,
        "ensemble": {"taps": TAPS, "classes": 3, "final": True, "dropout": 0, "freezeBackbone": False, "inputSize": [29, 22], "seed": 0},
        "skip": 0,
        "notes": {"steps": STEPS, "learningRate": RATE},
    }
    (folder / "run.json").write_text(json.dumps(run, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
