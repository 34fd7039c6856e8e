"""What is known of a photograph's denoiser, and what it costs: `python -m experiments.photographs`.

On the photographs that come with scikit-image, none of which was trained on, and the same denoiser: the variances of
crops by the trained second order, by Hutchinson's estimate, and the best single one; and the principal components of
regions of 32×32 pixels, given 256×256 around them, by the trained second order in one call, refined by products with
the Jacobian of the region, and by subspace iteration on the denoiser.
"""

import importlib.util
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import datasets
import evaluation
import inference
import models
from configs import UserError
from datasets import ImageData
from experiments.harness import argument_parser, print_progress, run, save_table, table, whole_number
from experiments.uncertainty import COMPONENTS, QUICK, by_probes, by_variances
from inference import Posterior
from models import ScoreModel, Scores

__all__ = ["METHODS", "components_of_regions", "variances_of_crops"]

PICTURES = (
    *("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "camera.png", "brick.png"),
    *("grass.png", "gravel.png", "moon.png", "coins.png", "retina.jpg"),
)
COLOURED = PICTURES[:5]
CROP, AROUND, REGION = 48, 256, 32
BATCH = 16


def by_head(posterior: Posterior, refine: int = 0) -> Tensor:
    """Of a region, by the trained second order."""
    return posterior.principal_components(COMPONENTS, refine, QUICK)[1]


def by_iteration(posterior: Posterior) -> Tensor:
    """Of a region, by subspace iteration on the denoiser."""
    return inference.denoiser_components(posterior.scores, posterior.noisy, COMPONENTS)[1]


METHODS: dict[str, Callable[[Posterior], Tensor]] = {
    "ours": by_head,
    "ours, refined once": partial(by_head, refine=1),
    "ours, refined twice": partial(by_head, refine=2),
    "subspace iteration": by_iteration,
}
"""Leading principal components of a region, `(1, d, COMPONENTS)`."""


def picture(name: str) -> np.ndarray:
    """One of scikit-image's, `(H, W, 3)` of uint8.

    Raises:
        UserError: where the package is not installed.
    """
    package = importlib.util.find_spec("skimage")
    if package is None or package.submodule_search_locations is None:
        raise UserError("the photographs are those of scikit-image; pip install scikit-image")
    with Image.open(Path(package.submodule_search_locations[0]) / "data" / name) as image:
        return np.array(image.convert("RGB"))


def crops(count: int, seed: int) -> Tensor:
    """`count` crops of each picture, no two overlapping, `(N, 3, CROP, CROP)` of uint8."""
    generator = np.random.default_rng(seed)
    parts = []
    for name in PICTURES:
        pixels = picture(name)
        rows, columns = pixels.shape[0] // CROP, pixels.shape[1] // CROP
        tiles = pixels[: rows * CROP, : columns * CROP].reshape(rows, CROP, columns, CROP, 3).swapaxes(1, 2)
        tiles = tiles.reshape(-1, CROP, CROP, 3)
        parts.append(tiles[generator.permutation(len(tiles))[:count]])
    return torch.from_numpy(np.concatenate(parts)).movedim(3, 1).contiguous()


@torch.no_grad()
def variances_of_crops(model: ScoreModel, sigma: float, count: int, seed: int) -> list[dict]:
    """A row for each estimate of the variances: `trace_ratio`, `coverage_90`, `correlation_by_image` of logarithms,
    `log_score` in nats an entry, `milliseconds` a crop."""
    shape = (3, CROP, CROP)
    data = ImageData(crops(count, seed), shape, torch.device("cpu"), limits=model.values)
    scores = model.at(sigma, shape)
    generator = datasets.generator_of(datasets.derived_seed(seed, 1))
    rows: list[dict] = []
    mse = 0.0
    for name, method in {"ours": by_variances, "Hutchinson, 64 products": by_probes}.items():
        seconds, log_score, predictions = 0.0, 0.0, evaluation.Predictions()
        for p in evaluation.noisy_batches(data, sigma, seed, BATCH):
            mean = inference.posterior_mean(scores.s1(p.inputs), p.inputs, sigma)
            start = time.perf_counter()
            covariance = method(scores, p.inputs, generator).covariance
            seconds += time.perf_counter() - start
            assert covariance is not None
            residual = p.clean - mean
            predictions.add(residual, covariance.diagonal())
            log_score += float(evaluation.log_score(residual, covariance)[0].sum()) / len(data)
        mse = float(torch.cat(predictions.squared_errors).mean())
        metrics = predictions.metrics()
        row = {key: metrics[key] for key in ("trace_ratio", "coverage_90", "correlation_by_image")}
        row |= {"log_score": log_score, "milliseconds": 1e3 * seconds / len(data)}
        rows.append({"method": name} | row)
    best: dict = {"method": "best isotropic", "log_score": evaluation.isotropic_log_score(mse)}
    return [dict.fromkeys(rows[0]) | row | {"psnr": -10 * math.log10(mse)} for row in [*rows, best]]


@torch.no_grad()
def components_of_regions(model: ScoreModel, sigma: float, count: int, seed: int) -> list[dict]:
    """A row for each method: `captured_5` of the residual's energy in `count` regions of each picture, and
    `milliseconds` a region, what is known of the whole picture not counted."""
    generator = np.random.default_rng(seed)
    noise = datasets.generator_of(seed)
    shape = (3, AROUND, AROUND)
    caught, seconds, energy = dict.fromkeys(METHODS, 0.0), dict.fromkeys(METHODS, 0.0), 0.0
    for name in COLOURED:
        clean = datasets.from_pixels(picture(name)[:AROUND, :AROUND], shape, model.values)
        scores: Scores = model.at(sigma, shape)
        whole = inference.posterior(scores, clean + sigma * torch.randn(clean.shape, generator=noise))
        for _ in range(count):
            top, left = generator.integers(AROUND - REGION, size=2).tolist()
            region = whole.region((top, left, REGION, REGION))
            inside = clean.view(shape)[:, top : top + REGION, left : left + REGION].reshape(1, -1)
            residual = (inside - region.mean)[:, :, None]
            energy += float(residual.square().sum())
            for method, components in METHODS.items():
                start = time.perf_counter()
                directions = components(region)
                seconds[method] += time.perf_counter() - start
                caught[method] += float((directions.mT @ residual).square().sum())
    total = count * len(COLOURED)
    return [
        {"method": name, "captured_5": caught[name] / energy, "milliseconds": 1e3 * seconds[name] / total}
        for name in METHODS
    ]


def main(arguments: list[str] | None = None) -> None:
    levels = [15 / 255, 25 / 255, 50 / 255]
    parser = argument_parser("experiments.photographs", __doc__, seed=0, noise=levels)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/ffdnet"), help="run folder")
    parser.add_argument("--crops", type=whole_number, default=12, help="of each picture")
    parser.add_argument("--regions", type=whole_number, default=6, help="of each coloured picture")
    args = parser.parse_args(arguments)
    model = models.load(args.model)
    rows: list[dict] = []
    for sigma in args.noise:
        measured = [{"of": "crops"} | row for row in variances_of_crops(model, sigma, args.crops, args.seed)]
        measured += [{"of": "regions"} | row for row in components_of_regions(model, sigma, args.regions, args.seed)]
        rows += [{"noise": sigma} | row for row in measured]
        print_progress({"noise": sigma, "rows": len(rows)})
        settings = {"seed": args.seed, "crops": args.crops, "regions": args.regions}
        names = list(dict.fromkeys(key for row in rows for key in row))
        complete = [dict.fromkeys(names) | row for row in rows]
        path = save_table(args.results / "photographs.csv", complete, settings, model.device)
    formats: dict[str, str] = {"noise": "{:.4f}", "of": "{}", "method": "{}"}
    formats |= dict.fromkeys(names[3:], "{:.3f}")
    print(table(complete, formats))
    print("written:", path)


if __name__ == "__main__":
    run(main)
