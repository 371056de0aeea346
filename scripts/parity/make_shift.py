"""Writes test/fixtures/shift.json: distances of images in the space of others, by scikit-learn.

    python3 scripts/parity/make_shift.py        # needs numpy and scikit-learn (made with 1.9.1)

For lib/shift: StandardScaler, PCA (full SVD), LedoitWolf, mahalanobis; NearestNeighbors in the whitened space.
"""

import json
import pathlib

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

OUT = pathlib.Path(__file__).parents[2] / "test" / "fixtures" / "shift.json"


def vectors(rng, n, size, shift=0.0):
    """Means and deviations of unequal scale; the third channel is always the same, the second has images without any."""
    factors = rng.standard_normal((n, 3)) @ MIXING[size]
    all = 0.3 * factors + 0.2 * rng.standard_normal((n, size)) + shift
    channels = size // 2
    scale = 1 + np.arange(channels)
    deviations = np.exp(all[:, channels:]) * scale
    means = all[:, :channels] * deviations + scale
    means[:, 2], deviations[:, 2] = 0.25, 0.5
    deviations[::5, 1] = 0
    return np.concatenate([means, deviations], 1).astype(np.float32)


def forms(all, floor):
    """In units of the deviation, and its logarithm."""
    means, deviations = np.split(all.astype(np.float64), 2, axis=1)
    return np.concatenate([means / (deviations + floor), np.log(deviations + floor)], 1)


def case(rng, n, size, dimensions):
    training, others = vectors(rng, n, size), np.concatenate([vectors(rng, 4, size), vectors(rng, 4, size, 2.0)])
    floor = (0.01 * training[:, size // 2 :].astype(np.float64).mean(0)).astype(np.float32).astype(np.float64)
    scaler = StandardScaler().fit(forms(training, floor))
    scaled = scaler.transform(forms(training, floor))
    count = min(dimensions, n // 4, np.linalg.matrix_rank(scaled))
    pca = PCA(count, svd_solver="full").fit(scaled)
    scores = pca.transform(scaled)
    covariance = LedoitWolf().fit(scores)
    own = pca.transform(scaler.transform(forms(others, floor)))
    distances = np.sqrt(covariance.mahalanobis(own))
    whiten = np.linalg.cholesky(covariance.precision_)
    nearest = NearestNeighbors(n_neighbors=5).fit((scores - covariance.location_) @ whiten)
    fifth = nearest.kneighbors((own - covariance.location_) @ whiten)[0][:, -1]
    return {
        "training": training.tolist(),
        "others": others.tolist(),
        "dimensions": dimensions,
        "components": int(count),
        "shrinkage": covariance.shrinkage_,
        "mahalanobis": distances.tolist(),
        "neighbours": fifth.tolist(),
    }


rng = np.random.default_rng(7)
MIXING = {size: rng.standard_normal((3, size)) for size in (6, 20)}
cases = [case(rng, 40, 6, 64), case(rng, 16, 20, 64), case(rng, 40, 6, 3), case(rng, 12, 6, 64)]
OUT.write_text(json.dumps(cases) + "\n")
