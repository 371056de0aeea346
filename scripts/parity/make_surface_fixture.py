#!/usr/bin/env python3
"""Numbers that tests of distances and lesions compare with, by SciPy:

    python3 scripts/parity/make_surface_fixture.py > test/fixtures/surface.json
"""
import json

import numpy as np
from scipy import ndimage

rng = np.random.default_rng(7)


def blobs(shape, share):
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.2)
    return smooth > np.quantile(smooth, 1 - share)


def boundary(mask):
    # A pixel with a face neighbour outside the mask or outside the image.
    cross = ndimage.generate_binary_structure(mask.ndim, 1)
    return mask & ~ndimage.binary_erosion(mask, cross, border_value=0)


def nearest(source, to, spacing):
    return ndimage.distance_transform_edt(~to, sampling=spacing)[source]


def parts(own, other, structure, overlap):
    labels, count = ndimage.label(own, structure)
    covered = [float(other[labels == i + 1].mean()) for i in range(count)]
    return covered, [c > 0 and c >= overlap for c in covered]


def case(a, b, ignored, spacing, tolerance, overlap, neighbours):
    prediction, truth = a & ~ignored, b & ~ignored
    edge_a, edge_b = boundary(prediction), boundary(truth)
    out = {}
    n, m = int(prediction.sum()), int(truth.sum())
    size = float(np.prod(spacing)) / (1000 if len(spacing) == 3 else 1)
    out["volume"], out["trueVolume"] = n * size, m * size
    if n and m:
        ab, ba = nearest(edge_a, edge_b, spacing), nearest(edge_b, edge_a, spacing)
        pooled = np.concatenate([ab, ba])
        out["hausdorff"] = float(pooled.max())
        out["hd95"] = float(np.percentile(pooled, 95))
        out["assd"] = float(pooled.mean())
        out["modifiedHausdorffBoundary"] = float(max(ab.mean(), ba.mean()))
        out["modifiedHausdorff"] = float(
            max(nearest(prediction, truth, spacing).mean(), nearest(truth, prediction, spacing).mean())
        )
        out["surfaceDice"] = float((pooled <= tolerance * (1 + 1e-9)).mean())
    else:
        for name in ["hausdorff", "hd95", "assd", "modifiedHausdorff", "modifiedHausdorffBoundary"]:
            out[name] = 0.0 if n + m == 0 else "NaN"
        out["surfaceDice"] = 1.0 if n + m == 0 else 0.0
    structure = ndimage.generate_binary_structure(a.ndim, 1 if neighbours == "face" else a.ndim)
    covered_truth, found = parts(truth, prediction, structure, overlap)
    covered_prediction, matched = parts(prediction, truth, structure, overlap)
    out["lesionSensitivity"] = float(np.mean(found)) if found else "NaN"
    out["falsePositives"] = int(len(matched) - np.sum(matched))
    text = lambda mask: "".join("1" if one else "0" for one in mask.ravel())
    return {
        "shape": list(a.shape), "spacing": list(spacing), "tolerance": tolerance, "overlap": overlap, "neighbours": neighbours,
        "prediction": text(a), "truth": text(b), "ignored": text(ignored),
        "covered": {"truth": covered_truth, "prediction": covered_prediction}, "expected": out,
    }


cases = []
for shape, spacing in [
    ((7, 12, 11), (2.5, 0.8, 0.7)), ((6, 9, 10), (0.9, 1.1, 3.3)), ((9, 9, 9), (1, 1, 1)), ((5, 14, 8), (5, 0.625, 0.625)),
    ((16, 18), (0.3, 0.1)), ((15, 13), (1, 1)), ((1, 12, 12), (4, 0.5, 0.5)), ((30,), (0.25,)),
]:
    for share in (0.05, 0.15, 0.4):
        a, b = blobs(shape, share), blobs(shape, share)
        mixed = np.where(rng.uniform(size=shape) < 0.5, a, ndimage.shift(a.astype(float), [1] * len(shape), order=0) > 0.5)
        b = mixed if rng.uniform() < 0.6 else b
        ignored = rng.uniform(size=shape) < (0.08 if share == 0.15 else 0)
        steps = sorted(spacing)
        cases.append(case(a, b, ignored, spacing, round(float(steps[0] * rng.integers(1, 4)), 6), [0, 0.1, 0.5][rng.integers(3)],
                          ["face", "all"][rng.integers(2)]))
shape, spacing = (4, 5, 6), (3, 1.5, 0.75)
full, none = blobs(shape, 0.2), np.zeros(shape, bool)
for a, b in [(full, none), (none, full), (none, none), (full, full)]:
    cases.append(case(a, b, none, spacing, 1.5, 0.1, "face"))
print("[")
print(",\n".join(json.dumps(one) for one in cases))
print("]")
