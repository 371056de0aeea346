"""Eager PyTorch with forward hooks, for comparison with imported networks: the commands of bench/worker.mjs, one JSON line
each. This is what a Python user runs without tuning further than channels_last, inference_mode and autocast: batch norm is
not folded and weights are not cast beforehand (peers/pytorch.py does that).

predict's "heads" chooses the work: false is the network and its hooks alone, as deep as Python goes; true adds the heads'
convolutions, their resizing and the mean of their probabilities, as this package's predict without maps does."""

import time

import torch
from safetensors.torch import load_file

import pytorch


class Eager(pytorch.Contender):
    def __init__(self, device, weights, **options):
        super().__init__(device, **options)
        self.net.backbone.load_state_dict(load_file(weights))
        self.net.to(self.device, memory_format=self.format).eval()

    def predict(self, heads=True, **_):
        net = self.net
        start = time.perf_counter()
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            x = self.images.to(self.device, memory_format=self.format)
            if heads:
                logits = net(x)
                total = sum(pytorch.resize(z, self.size).softmax(1) for z in logits) / len(logits)
                total.cpu().numpy()
                pytorch.label(total).cpu().numpy()
            else:
                net.backbone(x).float().cpu().numpy()
                net.features.clear()
        return {"ms": 1000 * (time.perf_counter() - start)}


if __name__ == "__main__":
    pytorch.main(Eager)
