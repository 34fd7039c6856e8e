"""Whether scores are right: denoising error, calibration, likelihood, scores against exact ones, how well chains mix;
and plots."""

from evaluation.calibration import Predictions, jacobian_predictions, predictions
from evaluation.chains import (
    autocorrelation_time,
    effective_sample_size,
    mmd,
    mode_weights,
    r_hat,
    sliced_wasserstein,
)
from evaluation.denoising import denoising_metrics, noisy_batches
from evaluation.exact import score_errors
from evaluation.likelihood import density_metrics, isotropic_log_score, ks_distance, log_score, log_scores
from evaluation.plots import calibration_figure, image_rows, posterior_figure, score_fields, walk_figure
from evaluation.skewness import Marginals, skewness_metrics

__all__ = [
    "Marginals",
    "Predictions",
    "autocorrelation_time",
    "calibration_figure",
    "denoising_metrics",
    "density_metrics",
    "effective_sample_size",
    "image_rows",
    "isotropic_log_score",
    "jacobian_predictions",
    "ks_distance",
    "log_score",
    "log_scores",
    "mmd",
    "mode_weights",
    "noisy_batches",
    "posterior_figure",
    "predictions",
    "r_hat",
    "score_errors",
    "score_fields",
    "skewness_metrics",
    "sliced_wasserstein",
    "walk_figure",
]
