#!/usr/bin/env python3
"""Numbers that tests of lib/grid compare with, by SciPy and NiBabel:

    python3 scripts/parity/make_grid_fixture.py > test/fixtures/grid.json
"""
import itertools
import json

import numpy as np
from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage

rng = np.random.default_rng(18)


def rotation():
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.diag(r))


def affine(linear):
    out = np.eye(4)
    out[:3, :3] = linear
    out[:3, 3] = np.round(rng.normal(size=3) * 50, 3)
    return out


# Any rotation, any voxel, sheared by up to more than a voxel: what NiBabel calls it.
affines = [affine(rotation() * rng.uniform(0.3, 6, 3)) for _ in range(60)]
affines += [affine(rotation() @ (np.eye(3) + np.triu(rng.normal(size=(3, 3)) * 0.8, 1)) * rng.uniform(0.3, 6, 3)) for _ in range(60)]
orientations = [{"affine": np.round(a, 6).tolist(), "code": "".join(aff2axcodes(np.round(a, 6)))} for a in affines]

# A sheared oblique volume in each of the 48 orientations. NiBabel's arrays run x, y, z; ours z, y, x.
shape = (2, 3, 4)
data = np.arange(24).reshape(shape)
own = np.round(affine(rotation() @ (np.eye(3) + np.triu(np.full((3, 3), 0.2), 1)) * [0.7, 1.1, 3]), 6)
reoriented = []
for order in itertools.permutations(["RL", "AP", "SI"]):
    for code in itertools.product(*order):
        move = ornt_transform(io_orientation(own), axcodes2ornt(code))
        moved = apply_orientation(data.transpose(2, 1, 0), move)
        reoriented.append(
            {
                "code": "".join(code),
                "shape": list(moved.shape[::-1]),
                "data": moved.transpose(2, 1, 0).ravel().tolist(),
                "affine": (own @ inv_ornt_aff(move, shape[::-1])).tolist(),
            }
        )

resampled = []
noise = np.round(rng.normal(size=(5, 6, 7)) * 100, 2).astype(np.float32)
for to in [(9, 11, 13), (3, 4, 2), (10, 3, 7), (1, 12, 14), (5, 6, 7)]:
    for name, order in [("nearest", 0), ("linear", 1), ("cubic", 3)]:
        zoom = np.array(to) / noise.shape
        value = ndimage.zoom(noise, zoom, order=order, mode="nearest", grid_mode=True)
        assert value.shape == to
        resampled.append({"shape": list(to), "order": name, "data": [float(f"{v:.8g}") for v in value.ravel().tolist()]})
# An axis of one or two voxels, and one longer than the reach of the spline.
lines = []
for n, m in [(1, 3), (2, 5), (3, 2), (40, 61), (61, 40)]:
    line = np.round(rng.normal(size=n), 3).astype(np.float32)
    value = ndimage.zoom(line, m / n, order=3, mode="nearest", grid_mode=True)
    lines.append({"from": line.astype(float).round(3).tolist(), "to": [float(f"{v:.8g}") for v in value.tolist()]})

json.dump(
    {
        "orientations": orientations,
        "reorient": {"shape": list(shape), "affine": own.tolist(), "to": reoriented},
        "resample": {"shape": list(noise.shape), "data": [float(v) for v in np.round(noise.astype(float), 2).ravel()], "to": resampled},
        "lines": lines,
    },
    __import__("sys").stdout,
)
