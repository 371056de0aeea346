#!/usr/bin/env python3
"""Numbers that test/unit/predicted-dice.test.ts compares with, by NumPy and SciPy:

    python3 scripts/parity/make_predicted_dice_fixture.py > test/fixtures/predicted-dice.json
"""
import json
import math

import numpy as np
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
print(json.dumps(out))
