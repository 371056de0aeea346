"""The metrics of one image in plain NumPy and SciPy, for comparison: what bench/metrics.mjs computes, vectorised.

Arrays stay in the heads' single precision; means, bins and STAPLE are in double precision. Distances between masks are by
k-d tree, STAPLE's two steps are matrix products with the one-hot labels. One JSON line in, one out:
{"do": "load", "file": ..., "shape": [K, C, H, W]} with float32 heads followed by uint8 truth, then {"do": "run"}.
"""

import json
import sys
import time

import numpy as np
import scipy
from scipy import ndimage
from scipy.spatial import cKDTree


def entropy(p, axis):
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=axis)


def overlap(a, b):
    either = a.sum() + b.sum()
    return 2 * (a & b).sum() / either if either else 1.0


def staple(onehot, shares, counts):
    """onehot: (K*C)×S. shares: C×S, the votes, where it starts."""
    heads, classes = counts
    w = shares
    prior = w.mean(axis=1)
    theta = None
    for rounds in range(1, 101):
        before = theta
        theta = (w @ onehot.T).reshape(classes, heads, classes)
        with np.errstate(invalid="ignore"):
            theta = theta / theta.sum(axis=2, keepdims=True)
        logs = np.where(np.isnan(theta), -np.inf, np.log(np.clip(theta, 1e-7, 1 - 1e-7)))
        with np.errstate(divide="ignore"):
            likelihood = logs.reshape(classes, -1) @ onehot + np.log(prior)[:, None]
        w = np.exp(likelihood - likelihood.max(axis=0))
        w /= w.sum(axis=0)
        if before is not None and not np.nanmax(np.abs(theta - before)) > 1e-7:
            return w, theta, rounds, True
    return w, theta, rounds, False


def distances(a, b):
    """Of two masks that are not empty: HD, HD95, MHD between masks and between boundaries, ASSD."""
    edge = [np.argwhere(m & ~ndimage.binary_erosion(m)) for m in (a, b)]
    both = [np.argwhere(m) for m in (a, b)]
    forth, back = cKDTree(edge[1]).query(edge[0])[0], cKDTree(edge[0]).query(edge[1])[0]
    pooled = np.concatenate([forth, back])
    whole = max(cKDTree(both[1]).query(both[0])[0].mean(), cKDTree(both[0]).query(both[1])[0].mean())
    return pooled.max(), np.percentile(pooled, 95), whole, max(forth.mean(), back.mean()), pooled.mean()


def binned(confidence, right, bins):
    return abs(np.bincount(bins, right, 15) - np.bincount(bins, confidence, 15)).sum() / len(confidence)


def score(z, truth, parts):
    """Adds the CPU time of STAPLE and of the distances, in ms, to `parts`."""

    def timed(name, work, *arguments):
        start = time.process_time()
        result = work(*arguments)
        parts[name] = parts.get(name, 0) + (time.process_time() - start) * 1e3
        return result

    heads, classes, height, width = z.shape
    pixels = height * width
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    mean = p.mean(axis=0, dtype=np.float64)
    labels = z.argmax(axis=1)
    mask = mean.argmax(axis=0)
    onehot = labels[:, None] == np.arange(classes)[None, :, None, None]
    votes = onehot.sum(axis=0)

    maps = {"entropy": entropy(mean, 0), "expectedEntropy": entropy(p, 1).mean(axis=0)}
    maps["mutualInformation"] = np.maximum(0, maps["entropy"] - maps["expectedEntropy"])
    maps["variance"] = p.var(axis=0).mean(axis=0)
    maps["disagreement"] = 1 - (votes * (votes - 1)).sum(axis=0) / (heads * (heads - 1))
    maps["variationRatio"] = 1 - votes.max(axis=0) / heads
    foreground = mask != 0
    result = {name: [u.sum(), u.mean(), u[foreground].sum() / max(1, foreground.sum())] for name, u in maps.items()}

    flat = onehot.transpose(1, 0, 2, 3).reshape(classes, heads, pixels).astype(np.float32)
    common = flat @ flat.transpose(0, 2, 1)
    sizes = np.diagonal(common, axis1=1, axis2=2)
    either = sizes[:, :, None] + sizes[:, None, :]
    with np.errstate(invalid="ignore"):
        dice = np.where(either > 0, 2 * common / either, 1.0)[1:]
    neighbours = np.diagonal(dice, offset=1, axis1=1, axis2=2)
    predicted = sizes[1:].sum(axis=1) > 0
    result["aula"] = ((neighbours[:, 1:] + neighbours[:, :-1]) / 2).sum(axis=1)[predicted].mean()
    upper = np.triu_indices(heads, 1)
    result["pairwiseAgreement"] = dice[:, upper[0], upper[1]].mean(axis=1)[predicted].mean()
    unsettled = abs(np.diff(neighbours, axis=1)) > 0.05
    result["predictionDepth"] = [int(np.flatnonzero(row)[-1]) + 2 if row.any() else 1 for row in unsettled]
    soft = [2 * mean[c][mask == c].sum() / (mean[c].sum() + (mask == c).sum()) for c in range(1, classes) if (mask == c).any()]
    result["softDiceConfidence"] = np.mean(soft) if soft else 0.0

    flat = onehot.reshape(heads * classes, pixels).astype(np.float64)
    w, theta, rounds, converged = timed("STAPLE", staple, flat, votes.reshape(classes, pixels) / heads, (heads, classes))
    result["staple"] = {"rounds": rounds, "converged": converged, "confusion00": float(theta[0, 0, 0])}

    quality = []
    for c in range(1, classes):
        a, b = mask == c, truth == c
        tp, na, nb = (a & b).sum(), a.sum(), b.sum()
        far = timed("distances", distances, a, b) if na and nb else (0.0 if na == nb else np.nan,) * 5
        with np.errstate(divide="ignore", invalid="ignore"):
            counts = (tp / (na + nb - tp), tp / nb, tp / na, (pixels - na - nb + tp) / (pixels - nb), (float(na) - nb) / nb)
        quality.append([overlap(a, b), *far, *counts])
    result["quality"] = np.nanmean(np.array(quality, dtype=np.float64), axis=0)

    own = np.take_along_axis(mean, truth[None].astype(np.int64), 0)[0]
    result["nll"] = -np.log(own + 1e-5).mean()
    hit = truth[None] == np.arange(classes)[:, None, None]
    result["brier"] = ((mean - hit) ** 2).sum(axis=0).mean()
    confidence, right = mean.max(axis=0).ravel(), (mask == truth).ravel()
    ends = np.arange(1, 16) / 15
    bins = np.searchsorted(ends, confidence)
    result["ece"] = binned(confidence, right, np.minimum(bins, 14))
    order = np.argsort(confidence, kind="stable")
    small, larger = divmod(pixels, 15)
    equal = np.empty(pixels, np.int64)
    equal[order] = np.repeat(np.arange(15), [small + (b < larger) for b in range(15)])
    result["adaptiveEce"] = binned(confidence, right, equal)
    each = [binned(mean[c].ravel(), hit[c].ravel(), np.minimum(np.searchsorted(ends, mean[c].ravel()), 14)) for c in range(classes)]
    result["classwiseEce"] = np.mean(each)
    return result


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    return float(value) if isinstance(value, np.floating) else value


def main():
    heads = truth = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "load":
            shape = command["shape"]
            size = int(np.prod(shape))
            heads = np.fromfile(command["file"], np.float32, size).reshape(shape)
            truth = np.fromfile(command["file"], np.uint8, offset=4 * size).reshape(shape[2:])
            answer = {"numpy": np.__version__, "scipy": scipy.__version__}
        else:
            start, cpu = time.perf_counter(), time.process_time()
            parts = {}
            result = score(heads, truth, parts)
            answer = {"ms": (time.perf_counter() - start) * 1e3, "cpu": (time.process_time() - cpu) * 1e3, "parts": parts}
            answer["result"] = plain(result)
        print(json.dumps(answer), flush=True)


main()
