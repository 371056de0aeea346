"""Resampling by SciPy, for comparison with bench/resample.mjs. One JSON line in, one out: {"do": "load", "file", "shape"} with
float32 values, then {"do": "run", "to": [D, H, W], "order": 0, 1 or 3}, and {"do": "labels", "to"}: each label's share, argmax.
"""

import json
import sys
import time

import numpy as np
import scipy
from scipy import ndimage


def zoom(volume, to, order):
    factors = [n / m for n, m in zip(to, volume.shape)]
    return ndimage.zoom(volume, factors, order=order, mode="nearest", grid_mode=True)


def shares(labels, to):
    best = None
    for label in np.unique(labels):
        share = zoom((labels == label).astype(np.float32), to, 1)
        if best is None:
            best, out = share, np.full(share.shape, label, np.uint8)
        else:
            out[share > best] = label
            best = np.maximum(best, share)
    return out


volume = None
for line in sys.stdin:
    ask = json.loads(line)
    if ask["do"] == "load":
        volume = np.fromfile(ask["file"], np.float32).reshape(ask["shape"])
        labels = np.clip(volume * 0.02 + 2, 0, 4).astype(np.uint8)
        print(json.dumps({"scipy": scipy.__version__}), flush=True)
        continue
    start, cpu = time.perf_counter(), time.process_time()
    out = shares(labels, ask["to"]) if ask["do"] == "labels" else zoom(volume, ask["to"], ask["order"])
    answer = {"ms": (time.perf_counter() - start) * 1e3, "cpu": (time.process_time() - cpu) * 1e3}
    picked = out.reshape(-1)[:: max(1, out.size // 1000)]
    print(json.dumps({**answer, "shape": out.shape, "picked": picked.tolist()}), flush=True)
