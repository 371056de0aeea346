"""Writes what NumPy computes of inner and outer masks, by their definitions, for test/unit/sets.test.ts:

    python make_pixel_sets.py FILE      (test/fixtures/pixel-sets.json)

Probabilities are multiples of 1/64, so that many pixels are equal and sums are exact."""

import json
import sys
from pathlib import Path

import numpy as np

GRID = 1 - (1 - np.arange(1001) / 1000) ** 2
ALPHA = {"inner": 0.25, "outer": 0.25}


def scores(p):
    mass = p.sum()
    if mass == 0:
        return np.ones(p.shape)
    return np.array([p[p > v].sum() / mass for v in p.ravel()]).reshape(p.shape)


def sets(p, c, inner, outer):
    s = scores(p[c])
    return (s <= inner) & (p.argmax(0) == c), s <= outer


def losses(p, y, c):
    """By λ; of the inner mask the largest so far; of the outer one None without truth."""
    counted, own = y != 255, y == c
    inner, outer, worst = [], [], 0.0
    for share in GRID:
        a, b = sets(p, c, share, share)
        a = a & counted
        worst = max(worst, (a & ~own).sum() / a.sum() if a.any() else 0.0)
        inner.append(worst)
        outer.append((own & ~b).sum() / own.sum() if own.any() else None)
    return {"inner": inner, "outer": None if outer[0] is None else outer}


def choose(curves, groups, alpha, name):
    cases = {}
    for curve, group in zip(curves, groups):
        if curve is not None:
            cases.setdefault(group, []).append(curve)
    risk = np.mean([np.mean(one, axis=0) for one in cases.values()], axis=0)
    n = len(cases)
    allowed = np.nonzero((n * risk + 1) / (n + 1) <= alpha + 1e-12)[0]
    if len(allowed) == 0:
        return {"share": None, "cases": n}
    j = allowed[0] if name == "outer" else allowed[-1]
    return {"share": GRID[j], "cases": n, "risk": risk[j]}


def image(random, shape):
    grids = np.meshgrid(*[np.arange(side) for side in shape], indexing="ij")
    p = np.zeros((3, *shape))
    y = np.zeros(shape, dtype=int)
    for c in (1, 2):
        centre = [random.uniform(1, side - 2) for side in shape]
        distance = np.sqrt(sum((grid - at) ** 2 for grid, at in zip(grids, centre)))
        y[distance + random.normal(0, 0.3, shape) < 2.2] = c
        p[c] = 0.85 / (1 + np.exp(2 * (distance - 2 + random.normal(0, 0.4)))) + random.uniform(0, 0.12, shape)
        if random.random() < 0.15:
            y[y == c] = 0
        if random.random() < 0.12:
            p[c] = 0
    p[2] *= 1 - p[1]
    p = np.floor(64 * p) / 64
    p[0] = 1 - p.sum(0)
    y[random.random(shape) < 0.05] = 255
    return p, y


def main(file):
    random = np.random.default_rng(7)
    images = [image(random, (9, 8)) for _ in range(20)] + [image(random, (4, 6, 5)) for _ in range(10)]
    groups = [f"g{i // 2}" for i in range(len(images))]
    out = {"alpha": ALPHA, "shares": {"inner": 0.4, "outer": 0.9}, "images": [], "fits": {}}
    curves = []
    for (p, y), group in zip(images, groups):
        both = {c: sets(p, c, 0.4, 0.9) for c in (1, 2)}
        curves.append({c: losses(p, y, c) for c in (1, 2)})
        pick = lambda curve: None if curve is None else [curve[j] for j in range(0, 1001, 125)]
        out["images"].append({
            "shape": list(y.shape), "group": group,
            "p": (64 * p).astype(int).ravel().tolist(), "y": y.ravel().tolist(),
            "sets": {c: {"inner": a.astype(int).ravel().tolist(), "outer": b.astype(int).ravel().tolist()}
                     for c, (a, b) in both.items()},
            "losses": {c: {name: pick(curve) for name, curve in curves[-1][c].items()} for c in (1, 2)},
        })
    for name, names in {"images": range(len(images)), "groups": groups}.items():
        out["fits"][name] = {c: {kind: choose([curve[c][kind] for curve in curves], names, ALPHA[kind], kind)
                                 for kind in ("inner", "outer")} for c in (1, 2)}
    Path(file).write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(json.dumps(out["fits"], indent=1))


main(sys.argv[1])
