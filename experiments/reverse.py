"""What the covariance of a reverse step is worth: `python -m experiments.reverse`.

On one model, for every covariance that `inference.reverse` knows and several numbers of steps: the variational bound on
images, in bits an entry; and on densities of the plane, and on images, how far samples are from the truth (sliced
Wasserstein distance), beside what needs no covariance: Heun's method along the flow, and Langevin and Ozaki steps over
the noise levels, with as many calls of the network.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import datasets
import evaluation
import inference
import models
from configs import UserError
from experiments.harness import (
    argument_parser,
    number_from_zero,
    open_images,
    print_progress,
    run,
    save_figure,
    save_table,
    table,
    whole_number,
)
from inference import Bound, GaussianPrior, IsotropicCovariance, Posterior
from inference.levels import HasScores, geometric
from inference.reverse import CovarianceOf
from linalg import Dense, Jacobian, SymmetricMatrix
from models import ScoreModel
from runners import distributed

__all__ = ["bounds", "distances"]

STEPS = (5, 10, 25, 50, 100)
DENSITIES = ("gaussians", "two_moons", "rings", "checkerboard")
STEP_SIZES = (0.03, 0.1, 0.3, 1.0, 3.0)  # of Langevin and Ozaki over σ²; the best of each is shown
AVERAGED = 300  # training images for mean variances
BATCH = 25

ANNEALED: dict[str, Callable] = {
    "annealed Langevin": inference.annealed_langevin,
    "annealed Ozaki": partial(inference.annealed_ozaki, max_exponent=1.0),
}
NONE, ISOTROPIC = "C = 0 (DDPM)", "isotropic (Analytic-DPM)"
CENTRED, JACOBIAN = "diagonal, centred target (NPR)", "diagonal, Jacobian target (OCM)"
OWN_DIAGONAL, OWN = "diagonal of ours", "diagonal plus low rank (ours)"
WHOLE = "whole Jacobian"


def jacobian_covariance(posterior: Posterior) -> SymmetricMatrix:
    """The covariance that s1 alone implies, in full, with no eigenvalue below the floor."""
    jacobian = Jacobian(posterior.scores.s1, posterior.noisy)
    implied = inference.posterior_covariance(jacobian, posterior.sigma)
    return Dense(implied.dense()).clamp(posterior.floor)[0]


def covariance_of_model(model: ScoreModel, posterior: Posterior) -> SymmetricMatrix:
    """That of another model on the same denoiser."""
    return inference.posterior(model.at(posterior.sigma), posterior.noisy).covariance


def bounds(
    model: ScoreModel,
    x: Tensor,
    prior: GaussianPrior,
    limits: datasets.Limits,
    covariances: Mapping[str, CovarianceOf],
    steps: Sequence[int],
    seed: int,
) -> list[dict]:
    """A row for each covariance and number of steps: `bits` an entry, its parts, and `over_ours`, the mean difference
    to ours on the same images and noise, with its standard error. At the narrowest level all take the decoder that is
    the best of them, so that they differ in their steps alone; `bits_of_own_decoder` says what each one's own costs."""
    low, high = model.sigmas
    rows: list[dict] = []
    for count in steps:
        parts = [
            inference.variational_bounds(
                model, part, geometric(low, high, count), covariances, limits=limits, prior=prior, seed=seed + n
            )
            for n, part in enumerate(x.split(BATCH))
        ]
        scale = x.shape[1] * math.log(2)
        whole = {name: _joined([part[name] for part in parts], scale) for name in covariances}
        decoder = min((bound.decoder for bound in whole.values()), key=lambda bits: float(bits.mean()))
        for name, bound in whole.items():
            over = bound.steps - whole[OWN].steps
            rows.append(
                {"steps": count, "method": name, "images": len(x)}
                | {"bits": float((bound.prior + bound.steps + decoder).mean())}
                | {"over_ours": float(over.mean()), "standard_error": float(over.std()) / len(x) ** 0.5}
                | {"bits_of_prior": float(bound.prior.mean()), "bits_of_steps": float(bound.steps.mean())}
                | {"bits_of_own_decoder": float(bound.decoder.mean())}
            )
            print_progress(rows[-1])
    return rows


def _joined(parts: Sequence[Bound], scale: float) -> Bound:
    """The bound of several batches, in nats over `scale`."""
    prior, steps, decoder = (
        torch.cat([getattr(part, name) for part in parts]) / scale for name in ("prior", "steps", "decoder")
    )
    return Bound(prior, steps, decoder)


def distances(
    model: HasScores,
    truth: Tensor,
    start: Tensor,
    sigmas: tuple[float, float],
    steps: Sequence[int],
    isotropic: IsotropicCovariance,
    seed: int,
) -> list[dict]:
    """A row for each sampler and number of calls of the network: `distance`, sliced Wasserstein, of samples to the
    truth.

    Args:
        model: with scores at all levels.
        truth: samples of the density, `(N, D)`.
        start: noisy points of the highest level, `(N, D)`.
        sigmas: the lowest and the highest level.
        steps: calls of the network.
        isotropic: mean variances of the density.
        seed: of the noise.
    """
    covariances: dict[str, CovarianceOf] = {
        NONE: inference.no_covariance,
        ISOTROPIC: isotropic,
        OWN_DIAGONAL: inference.diagonal_covariance,
        OWN: inference.full_covariance,
    }
    samplers: dict[str, Callable[[list[float]], Tensor]] = {
        name: partial(by_steps, model, start, partial(inference.reverse_step, covariance=covariance), seed)
        for name, covariance in covariances.items()
    }
    samplers["three products (Lanczos)"] = partial(by_steps, model, start, inference.lanczos_step, seed)
    rows: list[dict] = []
    for count in steps:
        levels = geometric(sigmas[0], sigmas[1], count)
        made = {name: sampler(levels) for name, sampler in samplers.items()}
        # Heun's method calls the network twice a level, but once at the last
        heun = partial(inference.heun_step, model=model)
        made["Heun (EDM)"] = by_steps(model, start, heun, seed, geometric(*sigmas, (count + 1) // 2))
        measured = {name: evaluation.sliced_wasserstein(x.cpu(), truth.cpu()) for name, x in made.items()}
        for name, annealing in ANNEALED.items():
            measured[name] = min(annealed(annealing, model, start, levels, size, truth, seed) for size in STEP_SIZES)
        for name, distance in measured.items():
            rows.append({"steps": count, "method": name, "images": len(truth), "distance": distance})
            print_progress(rows[-1])
    return rows


def by_steps(model: HasScores, start: Tensor, step: Callable, seed: int, levels: list[float]) -> Tensor:
    result = inference.reverse(model, levels, start, step=step, seed=seed)
    assert isinstance(result, Tensor)
    return result


@torch.no_grad()
def annealed(
    sampler: Callable, model: HasScores, start: Tensor, levels: list[float], size: float, truth: Tensor, seed: int
) -> float:
    """One step at each level but the last, which is left by its denoiser: the distance, infinite where it diverged."""
    try:
        x = sampler(model, levels[:-1], start, size * levels[-2] ** 2, 1, seed=seed) if len(levels) > 1 else start
    except inference.DivergedError:
        return math.inf
    scores = model.at(levels[-1])
    clean = inference.posterior_mean(scores.s1(x), x, scores.sigma)
    return evaluation.sliced_wasserstein(clean.cpu(), truth.cpu())


def of_densities(points: int, steps: Sequence[int], seed: int) -> list[dict]:
    """`distances` on the densities of the plane."""
    rows = []
    for name in DENSITIES:
        density = datasets.DENSITIES[name](2)
        clean, truth = (density.sample(points, datasets.generator_of(seed + number)) for number in range(2))
        low, high = inference.priors.noise_range(density)
        noise = torch.randn(truth.shape, generator=datasets.generator_of(seed + 2))
        start = density.sample(points, datasets.generator_of(seed + 3)) + high * noise
        measured = distances(density, truth, start, (low, high), steps, IsotropicCovariance(clean[:AVERAGED]), seed)
        floor = evaluation.sliced_wasserstein(clean, truth)
        rows += [{"data": name} | row for row in measured]
        rows.append({"data": name, "steps": None, "method": "exact", "images": points, "distance": floor})
    return rows


def figure(rows: list[dict]) -> Figure:
    """Bits an entry of the steps, and distances, over the calls of the network: a panel for each kind of data."""
    groups = {"bits_of_steps": "bits an entry, of the steps", "distance": "sliced Wasserstein distance"}
    panels = [
        (key, label, name)
        for key, label in groups.items()
        for name in dict.fromkeys(row["data"] for row in rows if row[key] is not None)
    ]
    methods = list(dict.fromkeys(row["method"] for row in rows if row["steps"]))
    columns = -(-len(panels) // 2)
    drawn = Figure(figsize=(4 * columns, 7), layout="constrained")
    lines = {}
    axes = drawn.subplots(2, columns, squeeze=False).flatten().tolist()
    for empty in axes[len(panels) :]:
        empty.set_axis_off()
    for axis, (key, label, name) in zip(axes, panels, strict=False):
        for number, method in enumerate(methods):
            known = [r for r in rows if (r["data"], r["method"]) == (name, method) and r[key] is not None]
            if known:
                steps, values = [r["steps"] for r in known], [r[key] for r in known]
                (lines[method],) = axis.plot(steps, values, marker="o", color=f"C{number % 10}", ls="-:"[number // 10])
        axis.set(xscale="log", yscale="log", xlabel="calls of the network", ylabel=label, title=name)
    drawn.legend(list(lines.values()), list(lines), loc="outside right center")
    return drawn


def summarise(rows: list[dict]) -> str:
    columns = {"data": "{}", "steps": "{:d}", "method": "{}", "images": "{:d}", "bits": "{:.4f}"}
    columns |= {"bits_of_steps": "{:.4f}", "bits_of_own_decoder": "{:.4f}"}
    columns |= {"over_ours": "{:+.4f}", "standard_error": "{:.4f}", "distance": "{:.3f}"}
    return table(rows, columns)


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("experiments.reverse", __doc__, seed=0, device=None)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/mnist"), help="run folder of images")
    parser.add_argument("--centered", type=Path, help="run folder of a diagonal head with centred targets")
    parser.add_argument("--jacobian", type=Path, help="run folder of a diagonal head with Jacobian targets")
    parser.add_argument("--steps", type=whole_number, nargs="+", default=list(STEPS))
    parser.add_argument("--images", type=whole_number, default=100, help="test images")
    parser.add_argument(
        "--whole", type=number_from_zero, default=0, help="images for the whole Jacobian, up to 25 steps"
    )
    parser.add_argument("--samples", type=whole_number, default=100, help="images, compared with as many test images")
    parser.add_argument("--points", type=whole_number, default=5000, help="of each density")
    args = parser.parse_args(arguments)
    if args.images < 2 or args.points < 2 or args.samples < 2:
        raise UserError("--images, --samples and --points: at least 2 are expected")
    device = distributed.join(args.device).device
    settings = {name: getattr(args, name) for name in ("model", "centered", "jacobian", "seed")}
    path = args.results / "reverse.csv"
    empty = ["data", "steps", "method", "images", "bits", "over_ours", "standard_error", "bits_of_prior"]
    fields = dict.fromkeys([*empty, "bits_of_steps", "bits_of_own_decoder", "distance"])
    rows: list[dict] = []

    def keep(more: list[dict]) -> None:
        rows.extend(fields | row for row in more)
        save_table(path, rows, settings, device)

    keep(of_densities(args.points, args.steps, args.seed))
    opened = open_images(args.model, device, max(args.images, args.samples))
    model, x, limits = opened.model, opened.test, opened.limits
    prior, isotropic = GaussianPrior.fitted(opened.train), IsotropicCovariance(opened.train[:AVERAGED])
    last = model.sigmas[0]

    def none_but_at_last(known: Posterior) -> SymmetricMatrix:
        return isotropic(known) if known.sigma <= last * (1 + 1e-6) else inference.no_covariance(known)

    covariances: dict[str, CovarianceOf] = {NONE: none_but_at_last, ISOTROPIC: isotropic}
    for name, folder in {CENTRED: args.centered, JACOBIAN: args.jacobian}.items():
        if folder is not None:
            covariances[name] = partial(covariance_of_model, models.load(folder, device))
    covariances |= {OWN_DIAGONAL: inference.diagonal_covariance, OWN: inference.full_covariance}
    data = args.model.name
    generator = datasets.generator_of(args.seed, device)
    truth = x[: args.samples]
    start = prior.sample(len(truth), model.sigmas[1], generator)
    sampled = distances(model, truth, start, model.sigmas, [n for n in args.steps if n <= 25], isotropic, args.seed)
    keep([{"data": f"{data}, samples"} | row for row in sampled])
    if args.whole:
        few = [count for count in args.steps if count <= 25]
        both: dict[str, CovarianceOf] = {WHOLE: jacobian_covariance, OWN: inference.full_covariance}
        measured = bounds(model, x[: args.whole], prior, limits, both, few, args.seed)
        keep([{"data": f"{data}, {args.whole} images"} | row for row in measured])
    for count in args.steps:
        measured = bounds(model, x[: args.images], prior, limits, covariances, [count], args.seed)
        keep([{"data": data} | row for row in measured])
    print(summarise(rows))
    print("written:", path, save_figure(args.results / "reverse.png", figure(rows)))


if __name__ == "__main__":
    run(main)
