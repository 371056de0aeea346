#!/usr/bin/env python3
"""Numbers that tests of scores, structures and predicted Dice compare with, by NumPy and SciPy:

    python3 scripts/parity/make_scores_fixture.py > test/fixtures/scores.json
"""
import json
import math

import numpy as np
from scipy import ndimage
from scipy.optimize import isotonic_regression

rng = np.random.default_rng(7)
out = {}

# Isotonic regression; equal x are one point with the mean of their y, as often as they occur. Linear between points.
x = np.round(rng.random(40) * 20) / 20
y = np.clip(x + rng.normal(0, 0.3, 40), 0, 1)
distinct = np.unique(x)
counts = np.array([(x == value).sum() for value in distinct], float)
means = np.array([y[x == value].mean() for value in distinct])
fitted = isotonic_regression(means, weights=counts).x
at = np.array([-1, 0.03, 0.21, 0.5, 0.777, 0.99, 2.0])
out["isotonic"] = {
    "x": x.tolist(),
    "y": y.tolist(),
    "at": at.tolist(),
    "value": np.interp(at, distinct, fitted).tolist(),
}

# Ridge regression on standardised features, the last of which never differs; penalty by leaving out one group after the other.
n, p, groups = 30, 4, 7
rows = rng.normal(size=(n, p)) * [1, 5, 0.1, 2] + [0, 3, -1, 10]
rows[:, 3] = 7
target = rows @ np.array([0.2, -0.03, 1.5, 0]) + rng.normal(0, 0.3, n)
group = np.arange(n) % groups
mean, scale = rows.mean(0), rows.std(0)
scale = np.where(scale < 1e-9 * np.maximum(1, abs(mean)), 0, scale)
inputs = np.where(scale == 0, 0, (rows - mean) / np.where(scale == 0, 1, scale))
inputs = np.c_[inputs, np.ones(n)]


def weights_of(z, t, penalty):
    penalties = penalty * np.eye(p + 1)
    penalties[-1, -1] = 0
    return np.linalg.solve(z.T @ z + penalties, z.T @ t)


best = None
for step in range(13):
    penalty = 10 ** (step / 2 - 4) * n
    left = np.zeros(n)
    for fold in range(groups):
        out_of = group == fold
        left[out_of] = inputs[out_of] @ weights_of(inputs[~out_of], target[~out_of], penalty)
    error = ((left - target) ** 2).sum()
    if best is None or error <= best[0]:
        best = (error, penalty, left)
weights = weights_of(inputs, target, best[1])
out["ridge"] = {
    "rows": rows.tolist(),
    "y": target.tolist(),
    "groups": group.tolist(),
    "mean": mean.tolist(),
    "scale": scale.tolist(),
    "weights": weights[:-1].tolist(),
    "intercept": weights[-1],
    "penalty": best[1],
    "outOfFold": best[2].tolist(),
}

distances = rng.normal(size=37)
out["conformal"] = {
    "distances": distances.tolist(),
    "quantile": {str(a): float(np.sort(distances)[math.ceil(38 * (1 - a) - 1e-9) - 1]) for a in (0.05, 0.1, 0.3)},
}

# Five heads of three classes on 5×6 pixels: soft Dice confidence of each, and the slope of agreement over depth.
logits = np.round(rng.normal(size=(5, 3, 5, 6)) * 2, 3)
shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
labels = logits.argmax(1)


def soft_dice(p, mask):
    per_class = {}
    for c in (1, 2):
        here = mask == c
        per_class[c] = 2 * p[c][here].sum() / (p[c].sum() + here.sum()) if here.any() else 0
    found = [per_class[c] for c in (1, 2) if (mask == c).any()]
    return {"perClass": per_class, "overall": float(np.mean(found)) if found else 0}


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum()) if (a | b).any() else 1


agreements = [[dice(labels[j] == c, labels[j + 1] == c) for j in range(4)] for c in (1, 2)]
slopes = [np.polyfit(range(4), one, 1)[0] for one in agreements]
out["heads"] = {
    "logits": logits.ravel().tolist(),
    "shape": list(logits.shape),
    "fused": soft_dice(shares.mean(0), shares.mean(0).argmax(0)),
    "heads": [soft_dice(shares[k], labels[k]) for k in range(5)],
    "slopes": slopes,
    "slope": float(np.mean(slopes)),
}

# Connected parts of masks of two foreground classes, in 2D and 3D.
out["parts"] = []
for shape in ((9, 11), (5, 6, 7)):
    mask = rng.choice(3, size=shape, p=(0.5, 0.3, 0.2))
    for neighbours in ("face", "all"):
        touch = ndimage.generate_binary_structure(len(shape), 1 if neighbours == "face" else len(shape))
        parts = []
        for c in (1, 2):
            found, count = ndimage.label(mask == c, structure=touch)
            for part, box in enumerate(ndimage.find_objects(found), 1):
                parts.append(
                    {
                        "class": c,
                        "voxels": int((found == part).sum()),
                        "low": [one.start for one in box],
                        "high": [one.stop - 1 for one in box],
                        "centre": [float(at) for at in ndimage.center_of_mass(found == part)],
                    }
                )
        out["parts"].append(
            {"mask": mask.ravel().tolist(), "shape": list(shape), "neighbours": neighbours, "parts": parts}
        )
print(json.dumps(out))
