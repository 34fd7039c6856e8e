"""Wrong calls of the public functions in Python, each with the one line that it gets.

Those of the command line, of configurations and of files are in test_command_line.py.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import configs
import datasets
import evaluation
import inference
import linalg
import losses
import models
from linalg import Dense, DiagonalPlusLowRank, TaperedLowRank
from models import Scores

NAN, INF = math.nan, math.inf
B, D = 4, 3
X, EYE = torch.zeros(B, D), torch.eye(D).expand(B, D, D)
IMAGE = (3, 8, 6)
PIXELS = datasets.ImageData(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), (1, 4, 4), torch.device("cpu"))
DENSITY = datasets.multivariate_normal(torch.zeros(D), torch.eye(D))
SCORES = DENSITY.at(0.5)
FIRST = Scores(0.5, torch.neg, shape=(D,))  # of the first order alone
IMAGES = models.from_denoiser(lambda x, sigma: x / 2, (0.1, 2.0), IMAGE)
POSTERIOR = inference.posterior(SCORES, X)
P = losses.perturb(X, 0.5)
CHAIN = torch.randn(10, B, D, generator=torch.Generator().manual_seed(0))
COLLECTED = evaluation.Predictions()
COLLECTED.add(torch.ones(B, D), torch.ones(B, D))


def dtyped(dtype: torch.dtype) -> Tensor:
    return torch.zeros(B, D, dtype=dtype)


def filled(value: float) -> Tensor:
    return torch.full((B, D), value)


Case = tuple[Callable[[], object], str]
NUMBER, WHOLE = "a positive, finite number is expected", "a whole number, {} or more, is expected"

LEVELS: dict[str, Case] = {
    "perturb: zero": (lambda: losses.perturb(X, 0), f"sigma is 0; {NUMBER}"),
    "perturb: negative": (lambda: losses.perturb(X, -0.5), f"sigma is -0.5; {NUMBER}"),
    "perturb: NaN": (lambda: losses.perturb(X, NAN), f"sigma is nan; {NUMBER}"),
    "perturb: infinite": (lambda: losses.perturb(X, INF), f"sigma is inf; {NUMBER}"),
    "perturb: text": (lambda: losses.perturb(X, "0.5"), "sigma is '0.5'; a number is expected"),
    "perturb: None": (lambda: losses.perturb(X, None), "sigma is None; a number, or one for each point, is expected"),
    "perturb: other points": (
        lambda: losses.perturb(X, torch.ones(D)),
        "sigma has shape (3,); a number, (4,) or (4, 1) is expected for 4 points",
    ),
    "perturb: for entries": (
        lambda: losses.perturb(X, torch.ones(1, D)),
        "sigma has shape (1, 3); a number, (4,) or (4, 1) is expected for 4 points",
    ),
    "perturb: one of them zero": (
        lambda: losses.perturb(X, torch.tensor([1.0, 0.0, 1.0, 2.0])),
        "sigma lies between 0 and 2; positive, finite numbers are expected",
    ),
    "perturb: one of them NaN": (
        lambda: losses.perturb(X, torch.tensor([1.0, NAN, 1.0, 2.0])[:, None]),
        "sigma lies between nan and nan; positive, finite numbers are expected",
    ),
    "Objective.perturb": (
        lambda: losses.OBJECTIVES[2]["centered"].perturb(X, -1.0),
        f"sigma is -1; {NUMBER}",
    ),
    "posterior_mean: zero": (lambda: inference.posterior_mean(X, X, 0.0), f"sigma is 0; {NUMBER}"),
    "posterior_mean: images": (
        lambda: inference.posterior_mean(X, X, torch.ones(B, 1, 1, 1)),
        "sigma has shape (4, 1, 1, 1); a number, (4,) or (4, 1) is expected for 4 points",
    ),
    "posterior_covariance: negative": (
        lambda: inference.posterior_covariance(Dense(EYE), torch.tensor(-1.0)),
        "sigma lies between -1 and -1; positive, finite numbers are expected",
    ),
    "posterior_covariance: other points": (
        lambda: inference.posterior_covariance(Dense(EYE), torch.ones(D)),
        "sigma has shape (3,); a number, (4,) or (4, 1) is expected for 4 points",
    ),
    "Scores: for each point": (
        lambda: Scores(torch.ones(B, 1), torch.neg),
        "sigma has shape (4, 1); scores have one noise level, a number is expected",
    ),
    "Scores: negative": (lambda: Scores(-1, torch.neg), "sigma is -1; a finite number, not negative, is expected"),
    "Scores: text": (lambda: Scores("1", torch.neg), "sigma is '1'; a number is expected"),
    "ScoreModel.at: outside": (
        lambda: IMAGES.at(0.05),
        "the model has scores at σ from 0.1 to 2, not at σ = 0.05",
    ),
    "ScoreModel.at: for each point": (
        lambda: IMAGES.at(torch.ones(B)),
        "sigma has shape (4,); scores have one noise level, a number is expected",
    ),
    "ScoreModel.at: NaN": (lambda: IMAGES.at(NAN), "sigma is nan; a finite number, not negative, is expected"),
    "Mixture.at: negative": (lambda: DENSITY.at(-1.0), "sigma is -1; a finite number, not negative, is expected"),
    "Mixture.at: for each point": (
        lambda: DENSITY.at(torch.ones(B, 1)),
        "sigma has shape (4, 1); scores have one noise level, a number is expected",
    ),
    "mode_weights: for each point": (
        lambda: evaluation.mode_weights(X, DENSITY, torch.ones(B, 1)),
        "sigma has shape (4, 1); scores have one noise level, a number is expected",
    ),
    "mode_weights: negative": (
        lambda: evaluation.mode_weights(X, DENSITY, -1.0),
        "sigma is -1; a finite number, not negative, is expected",
    ),
    "noisy_batches: zero": (lambda: evaluation.noisy_batches(PIXELS, 0.0, 0), f"sigma is 0; {NUMBER}"),
    "noisy_batches: for each point": (
        lambda: evaluation.noisy_batches(PIXELS, torch.ones(10), 0),
        "sigma has shape (10,); scores have one noise level, a number is expected",
    ),
    "annealed_langevin: zero": (
        lambda: inference.annealed_langevin(DENSITY, [1.0, 0.0], X, 0.1, 1),
        f"sigma is 0; {NUMBER}",
    ),
    "annealed_langevin: ascending": (
        lambda: inference.annealed_langevin(DENSITY, [0.5, 1.0], X, 0.1, 1),
        "noise levels [0.5, 1.0]; descending ones are expected",
    ),
    "annealed_langevin: none": (
        lambda: inference.annealed_langevin(DENSITY, [], X, 0.1, 1),
        "noise levels []; descending ones are expected",
    ),
    "annealed_langevin: one": (
        lambda: inference.annealed_langevin(DENSITY, 0.5, X, 0.1, 1),
        "sigmas is 0.5; a sequence of noise levels is expected",
    ),
    "from_denoiser: not ascending": (
        lambda: models.from_denoiser(torch.neg, (2.0, 1.0), (D,)),
        "sigmas is (2.0, 1.0); the lowest and the highest noise level are expected, both positive",
    ),
    "from_denoiser: one": (
        lambda: models.from_denoiser(torch.neg, 1.0, (D,)),
        "sigmas is 1.0; the lowest and the highest noise level are expected, both positive",
    ),
    "denoise: which": (
        lambda: inference.denoise(IMAGES, np.zeros((8, 6, 3), np.uint8)),
        "sigma: the model has scores at σ from 0.1 to 2; say which",
    ),
    "posterior: density itself": (
        lambda: inference.posterior(DENSITY.at(0), X),
        "the scores are at σ = 0, of points without noise; those at a σ above 0 are expected",
    ),
    "denoising_metrics: density itself": (
        lambda: evaluation.denoising_metrics(Scores(0, torch.neg), PIXELS, 0),
        "the scores are at σ = 0, of points without noise; those at a σ above 0 are expected",
    ),
}

POINTS: dict[str, Case] = {
    "perturb: image-shaped": (
        lambda: losses.perturb(torch.zeros(B, 1, 4, 4), 0.5),
        "x has shape (4, 1, 4, 4); flatten each point to get (B, D)",
    ),
    "perturb: integers": (
        lambda: losses.perturb(dtyped(torch.int64), 0.5),
        "x is of type torch.int64; a tensor of floats (B, D) is expected",
    ),
    "perturb: array": (
        lambda: losses.perturb(X.numpy(), 0.5),
        "x is of type ndarray; a tensor of floats (B, D) is expected",
    ),
    "perturb: noise": (lambda: losses.perturb(X, 0.5, noise=X[:1]), "noise has shape (1, 3), x has (4, 3)"),
    "posterior_mean: s1": (
        lambda: inference.posterior_mean(X[:1], X, 0.5),
        "s1 has shape (1, 3), the noisy points have (4, 3)",
    ),
    "posterior_covariance: tensor": (
        lambda: inference.posterior_covariance(EYE, 0.5),
        "s2 is a Tensor; a matrix of linalg is expected, such as linalg.Dense(s2)",
    ),
    "posterior_covariance: None": (
        lambda: inference.posterior_covariance(None, 0.5),
        "s2 is None; a matrix of linalg is expected, such as linalg.Dense(s2)",
    ),
    "posterior: another D": (
        lambda: inference.posterior(FIRST, torch.zeros(B, 7)),
        "noisy has shape (4, 7); (B, 3) is expected",
    ),
    "posterior: one point": (
        lambda: inference.posterior(FIRST, X[0]),
        "noisy has shape (3,); (B, 3) is expected, [None] adds the axis B to a single point",
    ),
    "posterior: one image": (
        lambda: inference.posterior(IMAGES.at(0.5), torch.zeros(IMAGE)),
        "noisy has shape (3, 8, 6); (B, 144) or (B, 3, 8, 6) is expected, [None] adds the axis B to a single point",
    ),
    "posterior: channels last": (
        lambda: inference.posterior(IMAGES.at(0.5), np.zeros((B, 8, 6, 3))),
        "noisy has shape (4, 8, 6, 3); (B, 144) or (B, 3, 8, 6) is expected",
    ),
    "posterior: pixels": (
        lambda: inference.posterior(FIRST, dtyped(torch.uint8)),
        "noisy is of type torch.uint8; floats in the units of the scores: datasets.from_pixels makes them of pixels",
    ),
    "posterior: NaN": (
        lambda: inference.posterior(FIRST, filled(NAN)),
        "noisy has 12 of 12 values that are not finite; finite are expected",
    ),
    "posterior: a path": (
        lambda: inference.posterior(FIRST, "noisy.png"),
        "noisy is of type str; a tensor or array of floats (B, D) is expected",
    ),
    "posterior: None": (
        lambda: inference.posterior(FIRST, None),
        "noisy is of type NoneType; a tensor or array of floats (B, D) is expected",
    ),
    "posterior: a ragged list": (
        lambda: inference.posterior(FIRST, [[0.0], [0.0, 1.0]]),
        "noisy is a list of parts that differ or are no numbers; an array is expected",
    ),
    "posterior: text in an array": (
        lambda: inference.posterior(FIRST, np.array([["a"]])),
        "noisy is of type <U1; floats in the units of the scores are expected",
    ),
    "posterior: a model": (
        lambda: inference.posterior(IMAGES, X),
        "scores is a ScoreModel, of many noise levels; those at one are expected: model.at(sigma)",
    ),
    "posterior: a function": (
        lambda: inference.posterior(math.sin, X),
        "scores is of type builtin_function_or_method; a models.Scores is expected, as model.at(sigma) gives",
    ),
    "Scores: another D": (lambda: FIRST(torch.zeros(B, 2)), "points of shape (4, 2); a tensor (B, 3) is expected"),
    "Scores.s1: another D": (
        lambda: FIRST.s1(torch.zeros(B, 2)),
        "points of shape (4, 2); a tensor (B, 3) is expected",
    ),
    "Scores: array": (lambda: FIRST(X.numpy()), "points of the type ndarray; a tensor (B, 3) is expected"),
    "langevin: NaN": (
        lambda: inference.langevin(FIRST, filled(NAN), 0.1, 3),
        "x has 12 of 12 values that are not finite; finite are expected",
    ),
    "langevin: one axis": (
        lambda: inference.langevin(FIRST, X[0], 0.1, 3),
        "x has shape (3,); (B, 3) is expected, [None] adds the axis B to a single point",
    ),
    "langevin: a density": (
        lambda: inference.langevin(DENSITY, X, 0.1, 3),
        "scores is of type GaussianMixture; a models.Scores is expected, as model.at(sigma) gives",
    ),
    "langevin_step: noise": (
        lambda: inference.langevin_step(FIRST, X, 0.1, X[:1]),
        "noise has shape (1, 3), x has (4, 3)",
    ),
    "ozaki: infinite": (
        lambda: inference.ozaki(SCORES, filled(INF), 0.1, 3),
        "x has 12 of 12 values that are not finite; finite are expected",
    ),
    "ozaki: integers": (
        lambda: inference.ozaki(SCORES, dtyped(torch.int32), 0.1, 3),
        "x is of type torch.int32; floats in the units of the scores",
    ),
    "annealed_langevin: scores": (
        lambda: inference.annealed_langevin(SCORES, [0.5], X, 0.1, 1),
        "model is of type Scores; one with scores at every level is expected: model.at(sigma)",
    ),
    "denoiser_components: one point": (
        lambda: inference.denoiser_components(FIRST, X[0], 1),
        "noisy has shape (3,); (B, 3) is expected, [None] adds the axis B to a single point",
    ),
    "Posterior.log_prob: one point for all": (
        lambda: POSTERIOR.log_prob(X[:1]),
        "x has shape (1, 3); (4, 3) is expected, a clean point for each noisy one",
    ),
    "Posterior: a number": (
        lambda: POSTERIOR[2],
        "posterior[2] has no axis B; a slice is expected: posterior[2:3]",
    ),
    "denoise: points": (
        lambda: inference.denoise(models.from_denoiser(torch.neg, (0.5, 0.5), (D,)), X),
        "a model of points of shape (3,); one of images, (C, H, W), is expected",
    ),
    "denoise: scores": (
        lambda: inference.denoise(FIRST, X),
        "model is of type Scores; a models.ScoreModel or the path of one is expected",
    ),
    "denoise: another size": (
        lambda: inference.denoise(IMAGES, np.zeros((8, 8, 3), np.uint8), 0.5),
        "an array of shape (8, 8, 3); images of 8×6 with 3 channel(s) are expected",
    ),
    "denoise: integers": (
        lambda: inference.denoise(IMAGES, np.zeros((8, 6, 3), np.int64), 0.5),
        "images of type int64; uint8, or floats in the model's range, are expected",
    ),
    "denoise: NaN": (
        lambda: inference.denoise(IMAGES, torch.full((8, 6, 3), NAN), 0.5),
        "the images have values that are not finite",
    ),
    "from_denoiser: no function": (
        lambda: models.from_denoiser(X, (0.1, 1.0), (D,)),
        "denoise is of type Tensor; a function of noisy points and σ is expected",
    ),
    "from_denoiser: no shape": (
        lambda: models.from_denoiser(torch.neg, (0.1, 1.0), (8, 6)),
        "shape is (8, 6); that of a point is expected, (C, H, W) or (D,)",
    ),
    "from_denoiser: another answer": (
        lambda: models.from_denoiser(lambda x, sigma: x.sum(1), (0.1, 1.0), (D,)).at(0.5)(X),
        "denoise returned torch.Size([4]) for points (4, 3); the same is expected",
    ),
    "weights": (
        lambda: losses.dsm(X, P, torch.ones(B, 1)),
        "weight has shape (4, 1); (4,) is expected, one for each point",
    ),
    "dsm_vr without clean points": (
        lambda: losses.dsm_vr(X, P),
        "4 values for 4 points do not include those at 'clean'",
    ),
    "predictions: no s2": (
        lambda: evaluation.predictions(Scores(0.5, torch.neg), PIXELS, 0),
        "s2 is None; scores with a second order are expected, or see jacobian_predictions",
    ),
    "predictions: other images": (
        lambda: evaluation.predictions(SCORES_OF_IMAGES, PIXELS, 0),
        "points of shape (10, 16); a tensor (B, 144) is expected",
    ),
}
SCORES_OF_IMAGES = IMAGES.at(0.5)

NUMBERS: dict[str, Case] = {
    "langevin: no step": (lambda: inference.langevin(FIRST, X, 0.0, 3), f"step_size is 0.0; {NUMBER}"),
    "langevin: step of NaN": (lambda: inference.langevin(FIRST, X, NAN, 3), f"step_size is nan; {NUMBER}"),
    "langevin: step of text": (lambda: inference.langevin(FIRST, X, "0.1", 3), f"step_size is '0.1'; {NUMBER}"),
    "langevin: a step each": (
        lambda: inference.langevin(FIRST, X, torch.ones(B), 3),
        f"step_size has shape (4,); {NUMBER}",
    ),
    "langevin: negative steps": (lambda: inference.langevin(FIRST, X, 0.1, -1), f"steps is -1; {WHOLE.format(0)}"),
    "langevin: half a step": (lambda: inference.langevin(FIRST, X, 0.1, 2.5), f"steps is 2.5; {WHOLE.format(0)}"),
    "langevin: keep none": (
        lambda: inference.langevin(FIRST, X, 0.1, 3, keep_every=0),
        f"keep_every is 0; {WHOLE.format(1)}",
    ),
    "langevin: keep backwards": (
        lambda: inference.langevin(FIRST, X, 0.1, 3, keep_every=-2),
        f"keep_every is -2; {WHOLE.format(1)}",
    ),
    "langevin: negative seed": (
        lambda: inference.langevin(FIRST, X, 0.1, 3, seed=-1),
        "seed is -1; a whole number from 0 to 2⁶³ − 1 is expected",
    ),
    "langevin: seed of text": (
        lambda: inference.langevin(FIRST, X, 0.1, 3, seed="a"),
        "seed is 'a'; a whole number from 0 to 2⁶³ − 1 is expected",
    ),
    "ozaki: no s2": (
        lambda: inference.ozaki(FIRST, X, 0.1, 3, progress=False),
        "the scores have no s2, which an Ozaki step needs; langevin needs s1 alone",
    ),
    "ozaki: step": (lambda: inference.ozaki(SCORES, X, -1.0, 3), f"step_size is -1.0; {NUMBER}"),
    "ozaki: keep none": (
        lambda: inference.ozaki(SCORES, X, 0.1, 3, keep_every=0),
        f"keep_every is 0; {WHOLE.format(1)}",
    ),
    "ozaki: tolerance": (lambda: inference.ozaki(SCORES, X, 0.1, 3, tolerance=0), f"tolerance is 0; {NUMBER}"),
    "ozaki: max_exponent": (
        lambda: inference.ozaki(SCORES, X, 0.1, 3, max_exponent=-1),
        "max_exponent is -1; a number, 0 or more, is expected",
    ),
    "ozaki_step: step": (lambda: inference.ozaki_step(SCORES, X, NAN, X), f"step_size is nan; {NUMBER}"),
    "annealed_langevin: step": (
        lambda: inference.annealed_langevin(DENSITY, [0.5], X, -0.1, 1),
        f"step_size is -0.1; {NUMBER}",
    ),
    "annealed_langevin: steps": (
        lambda: inference.annealed_langevin(DENSITY, [0.5], X, 0.1, -1),
        f"steps is -1; {WHOLE.format(0)}",
    ),
    "posterior: floor": (lambda: inference.posterior(SCORES, X, 0.0), f"floor is 0.0; {NUMBER}"),
    "principal_components: none": (lambda: POSTERIOR.principal_components(0), f"k is 0; {WHOLE.format(1)}"),
    "principal_components: half": (lambda: POSTERIOR.principal_components(1.5), f"k is 1.5; {WHOLE.format(1)}"),
    "principal_components: too many": (
        lambda: POSTERIOR.principal_components(4),
        "4 eigenpairs of a 3×3 matrix; from 1 to 3 can be had",
    ),
    "principal_components: refine": (
        lambda: POSTERIOR.principal_components(1, -1),
        f"refine is -1; {WHOLE.format(0)}",
    ),
    "interval: a percentage": (
        lambda: POSTERIOR.interval(90),
        "level is 90; a probability between 0 and 1 is expected",
    ),
    "sample: none": (lambda: POSTERIOR.sample(0), f"n is 0; {WHOLE.format(1)}"),
    "log_prob without s2": (
        lambda: inference.posterior(FIRST, X).log_prob(X),
        "log_prob: without s2 there are only products with the Jacobian of s1, no determinant",
    ),
    "refine without s2": (
        lambda: inference.posterior(FIRST, X).principal_components(1, refine=1),
        "refine: without s2 the components come from the Jacobian of s1 already; leave it out",
    ),
    "denoiser_components: none": (lambda: inference.denoiser_components(FIRST, X, 0), f"k is 0; {WHOLE.format(1)}"),
    "denoiser_components: too many": (
        lambda: inference.denoiser_components(FIRST, X, 4),
        "k is 4; from 1 to 3 components can be had",
    ),
    "denoiser_components: steps": (
        lambda: inference.denoiser_components(FIRST, X, 1, steps=0),
        f"steps is 0; {WHOLE.format(1)}",
    ),
    "denoiser_components: tolerance": (
        lambda: inference.denoiser_components(FIRST, X, 1, tolerance=NAN),
        f"tolerance is nan; {NUMBER}",
    ),
    "denoiser_components: distance": (
        lambda: inference.denoiser_components(FIRST, X, 1, distance=0.0),
        f"distance is 0.0; {NUMBER}",
    ),
    "noisy_batches: batch": (
        lambda: evaluation.noisy_batches(PIXELS, 0.5, 0, batch_size=0),
        f"batch_size is 0; {WHOLE.format(1)}",
    ),
    "noisy_batches: seed": (
        lambda: evaluation.noisy_batches(PIXELS, 0.5, 2**63),
        "seed is 9223372036854775808; a whole number from 0 to 2⁶³ − 1 is expected",
    ),
    "score_errors: count": (
        lambda: evaluation.score_errors(SCORES, None, 0, 0),
        f"count is 0; {WHOLE.format(1)}",
    ),
    "jacobian_predictions: seconds": (
        lambda: evaluation.jacobian_predictions(FIRST, PIXELS, 0, seconds=-1),
        "seconds is -1; a number, 0 or more, is expected",
    ),
}

EVALUATIONS: dict[str, Case] = {
    "log score: residuals of another shape": (
        lambda: evaluation.log_score(torch.zeros(3, 4), DiagonalPlusLowRank(torch.ones(3, 5))),
        "residual has shape (3, 4); (3, 5) is expected, a vector for each matrix",
    ),
    "Kolmogorov-Smirnov distance of nothing": (
        lambda: evaluation.ks_distance(torch.zeros(0)),
        "values are empty; one at least is expected",
    ),
    "effective_sample_size: two axes": (
        lambda: evaluation.effective_sample_size(torch.zeros(10, 2)),
        "a chain of shape (10, 2); a tensor (steps, B, D) is expected",
    ),
    "effective_sample_size: array": (
        lambda: evaluation.effective_sample_size(CHAIN.numpy()),
        "a chain of type ndarray; a tensor (steps, B, D) is expected",
    ),
    "effective_sample_size: three steps": (
        lambda: evaluation.effective_sample_size(CHAIN[:3]),
        "a chain of 3 step(s); 4 at least are expected",
    ),
    "effective_sample_size: NaN": (
        lambda: evaluation.effective_sample_size(CHAIN * NAN),
        "the chain has values that are not finite; finite ones are expected",
    ),
    "effective_sample_size: kind": (
        lambda: evaluation.effective_sample_size(CHAIN, "median"),
        "kind is 'median'; one of bulk, tail, mean is expected",
    ),
    "r_hat: one chain": (
        lambda: evaluation.r_hat(CHAIN[:, :1]),
        "this is one chain; R̂ compares chains, two at least are expected",
    ),
    "r_hat: one step": (lambda: evaluation.r_hat(CHAIN[:1]), "a chain of 1 step(s); 4 at least are expected"),
    "autocorrelation_time: no chain": (
        lambda: evaluation.autocorrelation_time(CHAIN[:, :0]),
        "a chain of shape (10, 0, 3); a tensor (steps, B, D) is expected",
    ),
    "mmd: one point": (lambda: evaluation.mmd(X[:1], X), "x has 1 point(s); 2 at least are expected"),
    "mmd: one other point": (lambda: evaluation.mmd(X, X[:1]), "y has 1 point(s); 2 at least are expected"),
    "mmd: one place": (
        lambda: evaluation.mmd(X, X),
        "the median distance within y is 0: most of its points are the same; give a bandwidth",
    ),
    "mmd: bandwidth": (lambda: evaluation.mmd(X, X, 0.0), f"bandwidth is 0.0; {NUMBER}"),
    "mmd: NaN": (
        lambda: evaluation.mmd(filled(NAN), X),
        "x has values that are not finite; finite ones are expected",
    ),
    "mmd: another dimension": (
        lambda: evaluation.mmd(X, torch.zeros(B, 2)),
        "x has shape (4, 3), y has (4, 2); samples of one dimension are expected",
    ),
    "sliced_wasserstein: one axis": (
        lambda: evaluation.sliced_wasserstein(X[0], X),
        "x has shape (3,); (N, D) is expected",
    ),
    "sliced_wasserstein: no points": (
        lambda: evaluation.sliced_wasserstein(X, X[:0]),
        "y has 0 point(s); 1 at least are expected",
    ),
    "sliced_wasserstein: integers": (
        lambda: evaluation.sliced_wasserstein(dtyped(torch.int64), X),
        "x is of type torch.int64; a tensor of floats (N, D) is expected",
    ),
    "sliced_wasserstein: projections": (
        lambda: evaluation.sliced_wasserstein(X, X, 0),
        f"projections is 0; {WHOLE.format(1)}",
    ),
    "mode_weights: another dimension": (
        lambda: evaluation.mode_weights(torch.zeros(B, 2), DENSITY),
        "x has shape (4, 2); (N, 3) is expected, as the mixture has it",
    ),
    "Predictions: none": (
        lambda: evaluation.Predictions().metrics(),
        "no predictions; where they come from a Jacobian, more seconds are expected",
    ),
    "Predictions: shapes": (
        lambda: evaluation.Predictions().add(X, X[0]),
        "residual has shape (4, 3), variances have (3,); (B, D) is expected of both",
    ),
    "Predictions: bins": (
        lambda: COLLECTED.bins(13),
        "count is 13; at most 12 bins can be had, one for each entry",
    ),
    "Predictions: components": (
        lambda: COLLECTED.add(X, X, (X[:, :1], X[:, :, None])),
        "components in some of the batches; in every one or in none they are expected",
    ),
    "image_rows: none": (
        lambda: evaluation.image_rows({}),
        "no rows; one of pictures (n, C, H, W) at least is expected",
    ),
    "image_rows: one short": (
        lambda: evaluation.image_rows({"a": torch.zeros(3, 1, 4, 4), "b": torch.zeros(2, 1, 4, 4)}),
        "row 'b' has shape (2, 1, 4, 4); 3 pictures (n, C, H, W) with 1 or 3 channels are expected",
    ),
    "posterior_figure: shape": (
        lambda: evaluation.posterior_figure(POSTERIOR, (1, 2, 2)),
        "shape is (1, 2, 2); that of an image (C, H, W) of 3 entries is expected",
    ),
    "walk_figure: index": (
        lambda: evaluation.walk_figure(POSTERIOR, (3, 1, 1), index=4),
        "index is 4; a number below 4 is expected, the images of the posterior",
    ),
    "score_fields: none": (
        lambda: evaluation.score_fields({}, torch.neg),
        "no scores; a name and models.Scores in two dimensions at least are expected",
    ),
}

MATRICES: dict[str, Case] = {
    "Dense: one matrix": (lambda: Dense(torch.eye(D)), "a matrix (3, 3); (B, D, D) is expected"),
    "DiagonalPlusLowRank: sizes": (
        lambda: DiagonalPlusLowRank(X, torch.zeros(B, 2, 1)),
        "(B, D, r) and (B, D) are expected",
    ),
    "DiagonalPlusLowRank: negative": (
        lambda: -1.0 * DiagonalPlusLowRank(X, torch.ones(B, D, 1)),
        "scale is negative, and −ββᵀ has no factor; at least 0 is expected",
    ),
    "DiagonalPlusLowRank: not positive": (
        lambda: DiagonalPlusLowRank(X - 1, torch.ones(B, D, 1)).solve(X),
        "α has entries that are not positive: M cannot be taken as positive definite",
    ),
    "TaperedLowRank: no columns": (
        lambda: TaperedLowRank(torch.zeros(B, 16), torch.zeros(B, 16, 0), torch.ones(0), (1, 4, 4)),
        "beta has no columns; a diagonal matrix is a DiagonalPlusLowRank",
    ),
    "TaperedLowRank: another image": (
        lambda: TaperedLowRank(torch.zeros(B, 16), torch.zeros(B, 16, 1), torch.ones(1), (1, 4, 5)),
        "images (1, 4, 5) do not have D = 16 entries",
    ),
    "shift for other matrices": (
        lambda: Dense(EYE) + torch.ones(D),
        "a tensor (3,) for 4 matrices; expected: a float, or a tensor of no dimension, (4,) or (4, 1)",
    ),
    "eigh_top: too many": (
        lambda: Dense(EYE).eigh_top(4),
        "4 eigenpairs of a 3×3 matrix; from 1 to 3 can be had",
    ),
    "TaperedLowRank: ranges": (
        lambda: TaperedLowRank(torch.zeros(B, 16), torch.zeros(B, 16, 1), -torch.ones(1), (1, 4, 4)),
        "ranges [-1.0]; 1 positive numbers are expected",
    ),
    "inner: sizes": (
        lambda: Dense(EYE).inner(Dense(EYE[:2])),
        "matrices of (B, D) (4, 3) and (2, 3); the same are expected",
    ),
    "hutchinson_diagonal: probes": (
        lambda: linalg.hutchinson_diagonal(Dense(EYE), 1),
        "probes is 1; at least 2 are expected, for a standard error",
    ),
}

DENSITIES_AND_FILES: dict[str, Case] = {
    "GaussianMixture: weights": (
        lambda: datasets.GaussianMixture([1.0, -1.0], torch.zeros(2, D), torch.eye(D).expand(2, D, D)),
        "weights [1.0, -1.0]; positive ones are expected",
    ),
    "GaussianMixture: shapes": (
        lambda: datasets.GaussianMixture([1.0], torch.zeros(1, D), torch.eye(2)[None]),
        "(K,), (K, D) and (K, D, D) are expected",
    ),
    "multivariate_normal: not definite": (
        lambda: datasets.multivariate_normal(torch.zeros(D), -torch.eye(D)),
        "a covariance is not positive definite",
    ),
    "LogisticMixture: scale": (
        lambda: datasets.LogisticMixture([1.0], [[0.0]], [[0.0]]),
        "a scale is not positive",
    ),
    "UniformMixture: empty": (lambda: datasets.UniformMixture([1.0], [[0.0]], [[0.0]]), "a box is empty"),
    "UniformMixture: no noise": (
        lambda: datasets.UniformMixture([1.0], [[0.0]], [[1.0]]).at(0.0).s1(torch.zeros(1, 1)),
        "a density with edges has no scores without noise; σ > 0 is expected",
    ),
    "load: nothing there": (lambda: models.load("nowhere"), "nowhere: not a run folder or a checkpoint in one"),
    "load: a file": (lambda: models.load(Path(__file__)), "not a run folder or a checkpoint in one"),
    "denoise: no model": (
        lambda: inference.denoise("nowhere", np.zeros((8, 8), np.uint8)),
        "nowhere: not a run folder or a checkpoint in one",
    ),
    "denoise: no file": (lambda: inference.denoise(IMAGES, "nowhere.png", 0.5), "nowhere.png: no such file or folder"),
    "configs: no file": (lambda: configs.load(Path("nowhere.yml")), "nowhere.yml: No such file or directory"),
}

CASES = LEVELS | POINTS | NUMBERS | EVALUATIONS | MATRICES | DENSITIES_AND_FILES


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_call_gets_one_line_that_says_what_is_expected(case, tmp_path, monkeypatch):
    call, message = CASES[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_the_table_has_a_hundred_rows():
    tables = (LEVELS, POINTS, NUMBERS, EVALUATIONS, MATRICES, DENSITIES_AND_FILES)
    assert len(CASES) == sum(map(len, tables)) >= 100
