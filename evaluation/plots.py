"""Plots: rows of images, posteriors, score fields, calibration."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import linalg
from datasets import displayable
from evaluation.calibration import Predictions
from inference import Posterior, SplitNormal
from inference.arguments import positive_number, whole_number
from models import Scores

__all__ = ["calibration_figure", "image_rows", "posterior_figure", "score_fields", "walk_figure"]

Scale = tuple[str, float, float]
GREY: Scale = ("gray", 0.0, 1.0)
BETWEEN = 0.8  # grey, between the pictures of a row


def image_rows(
    rows: dict[str, Tensor],
    title: str = "",
    scales: dict[str, Scale] | None = None,
    headings: Sequence[str] = (),
    beside: Sequence[Callable[[Axes], None]] = (),
) -> Figure:
    """A labelled row of images for each entry.

    Args:
        rows: label to pictures `(n, C, H, W)` on the CPU, in [0, 1] where there is no scale; n is the same for all.
        title: above the whole.
        scales: label to (colour map, least, most), for pictures of one channel that are not grey.
        headings: a line for each column.
        beside: for each row what draws into an axis at its right; none, where there is none.

    Raises:
        ValueError: where there is no row, a row has another number of pictures than the first, or holds no pictures.
    """
    if not rows:
        raise ValueError("no rows; one of pictures (n, C, H, W) at least is expected")
    columns = len(next(iter(rows.values())))
    for label, images in rows.items():
        if images.ndim != 4 or len(images) != columns or not columns or images.shape[1] not in (1, 3):
            expected = f"{max(columns, 1)} pictures (n, C, H, W) with 1 or 3 channels are expected, as in the first row"
            raise ValueError(f"row '{label}' has shape {tuple(images.shape)}; {expected}")
    figure = Figure(figsize=(0.9 * columns + 1 + 2.4 * bool(beside), 0.95 * len(rows) + 0.4), layout="constrained")
    ratios = [0.9 * columns + 1, 2.4][: 1 + bool(beside)]
    grid = figure.subplots(len(rows), len(ratios), squeeze=False, width_ratios=ratios)
    axes = grid[:, 0]
    for draw, axis in zip(beside, grid[:, -1], strict=False):
        draw(axis)
    for axis, (label, images) in zip(axes, rows.items(), strict=True):
        colours, least, most = (scales or {}).get(label, GREY)
        line, centres = side_by_side(images)
        shown = axis.imshow(line.numpy(), cmap=colours, vmin=least, vmax=most, interpolation="nearest")
        axis.set(xticks=[], yticks=[], facecolor=str(BETWEEN), anchor="E" if beside else "W")
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
        if label in (scales or {}):
            figure.colorbar(shown, ax=axis, fraction=0.02, pad=0.01)
        if headings and axis is axes[0]:
            axis.set_xticks(centres, headings, fontsize=8)
            axis.tick_params(length=0, labeltop=True, labelbottom=False)
    figure.suptitle(title)
    return figure


def side_by_side(images: Tensor) -> tuple[Tensor, list[float]]:
    """Pictures `(n, C, H, W)` as one, `(H, W', C)`, and where in it the middle of each is: an axis of its own for each
    would take most of the time of a test."""
    _, channels, height, width = images.shape
    gap = images.new_full((height, math.ceil(width / 14), channels), BETWEEN if channels == 3 else math.nan)
    parts = [part for image in images for part in (image.permute(1, 2, 0), gap)]
    step = width + gap.shape[1]
    return torch.cat(parts[:-1], dim=1), [step * k + (width - 1) / 2 for k in range(len(images))]


def posterior_figure(
    posterior: Posterior,
    shape: tuple[int, int, int],
    clean: Tensor | None = None,
    components: int | tuple[Tensor, Tensor] = 0,
    title: str = "",
    refine: int = 0,
) -> Figure:
    """Clean, noisy, denoised, standard deviation and principal components: a row each, a column for each image.

    Args:
        posterior: at n images.
        shape: of an image, `(C, H, W)`.
        clean: x `(n, D)`, where it is known.
        components: how many directions to show, or what `Posterior.principal_components` gave already.
        title: above the whole.
        refine: see `Posterior.principal_components`.

    The standard deviation is in the units of the data, the mean over the channels of a coloured image. A direction is
    blue below zero and red above; on a coloured image, grey where it is zero.

    Raises:
        ValueError: where the posterior is not of images of that shape, or the components cannot be had or refined; see
            `Posterior.principal_components`.
    """
    _check_images(posterior, shape)
    if not isinstance(components, tuple):
        whole_number("components", components)
    rows = {} if clean is None else {"clean": displayable(clean, shape, posterior.scores.values)}
    rows["noisy"] = displayable(posterior.noisy, shape, posterior.scores.values)
    rows["denoised"] = displayable(posterior.mean, shape, posterior.scores.values)
    rows["std"] = posterior.std().unflatten(1, shape).mean(1, keepdim=True).cpu()
    scales = {"std": ("magma", 0.0, float(rows["std"].max()))}
    if components:
        _, directions = _components(posterior, components, refine)
        for k, direction in enumerate(directions.unbind(2)):
            picture = (direction / direction.abs().amax(1, keepdim=True)).unflatten(1, shape).cpu()
            rows[f"PC {k + 1}"] = picture if shape[0] == 1 else (1 + picture) / 2
            if shape[0] == 1:
                scales[f"PC {k + 1}"] = ("RdBu_r", -1.0, 1.0)
    return image_rows(rows, title, scales)


def walk_figure(
    posterior: Posterior,
    shape: tuple[int, int, int],
    index: int = 0,
    components: int | tuple[Tensor, Tensor] = 3,
    reach: float = 3.0,
    refine: int = 0,
    clean: Tensor | None = None,
) -> Figure:
    """What an image may be: a row for each principal component, the mean moved along it by −reach … +reach standard
    deviations. With scores of three orders there is beside it the distribution along it,
    `Posterior.marginal(directions, differentiate=True)`.

    Args:
        posterior: at some images.
        shape: of an image, `(C, H, W)`.
        index: of the image.
        components: how many rows, or what `Posterior.principal_components` gave already.
        reach: of the walk, in standard deviations of each component.
        refine: see `Posterior.principal_components`.
        clean: the clean images `(n, D)`, where they are known: a line in each distribution says where the image lies.

    Raises:
        ValueError: where the posterior is not of images of that shape, there is no such image, or the components cannot
            be had or refined; see `Posterior.principal_components`.
    """
    _check_images(posterior, shape)
    positive_number("reach", reach)
    if not 0 <= whole_number("index", index) < len(posterior):
        raise ValueError(f"index is {index}; a number below {len(posterior)} is expected, the images of the posterior")
    variances, directions = _components(posterior, components, refine)
    stops = torch.linspace(-reach, reach, 7)
    rows, beside, known = {}, [], posterior.scores.s3 is not None
    if known:
        one = slice(index, index + 1)
        skewness = posterior[one].skewness(directions[one], differentiate=True)[0]
    for k in range(variances.shape[1]):
        length = variances[index, k].sqrt()
        walk = posterior.mean[index] + (stops.to(length) * length)[:, None] * directions[index, :, k]
        rows[f"PC {k + 1}\nstd {float(length):.2g}"] = displayable(walk, shape, posterior.scores.values)
        if known:
            where = None
            if clean is not None:
                where = float((clean[index] - posterior.mean[index]) @ directions[index, :, k] / length)
            beside.append(partial(_draw_marginal, skewness=float(skewness[k]), reach=reach, where=where))
    headings = ["mean" if stop == 0 else f"{stop:+g} std" for stop in stops.tolist()]
    return image_rows(rows, headings=headings, beside=beside)


def _draw_marginal(axis: Axes, skewness: float, reach: float, where: float | None) -> None:
    """The distribution along a component in its standard deviations, and the normal one, dashed."""
    zero, grid = torch.zeros(1), torch.linspace(-reach, reach, 121)
    skewed, normal = (SplitNormal.of_moments(zero, zero + 1, zero + value) for value in (skewness, 0.0))
    axis.plot(grid, normal.log_prob(grid).exp(), color="gray", linestyle="--", linewidth=1)
    axis.plot(grid, skewed.log_prob(grid).exp(), color="tab:red")
    if where is not None:
        axis.axvline(where, color="black", linewidth=1)
    axis.set(yticks=[], xticks=[-2, 0, 2], xlim=(-reach, reach))
    axis.set_title(f"skewness {skewness:+.2f}", fontsize=8)
    axis.tick_params(labelsize=7)


def _components(posterior: Posterior, components: int | tuple[Tensor, Tensor], refine: int) -> tuple[Tensor, Tensor]:
    return components if isinstance(components, tuple) else posterior.principal_components(components, refine)


def _check_images(posterior: Posterior, shape: tuple[int, int, int]) -> None:
    dimension = posterior.mean.shape[1]
    if len(shape) != 3 or math.prod(shape) != dimension:
        raise ValueError(f"shape is {tuple(shape)}; that of an image (C, H, W) of {dimension} entries is expected")


@torch.no_grad()
def score_fields(
    scores: dict[str, Scores],
    log_density: Callable[[Tensor], Tensor],
    reach: float = 3.0,
    device: torch.device | str = "cpu",
) -> Figure:
    """s1 as arrows and the three entries of s2 as colours over the plane, a column for each entry.

    Args:
        scores: name to scores in two dimensions; where they have no second order, the Jacobian of s1 is taken for it.
        log_density: of the noisy points `(B, 2)`; s1 is drawn upon its density, and s2 is faded where that is below a
            thousandth of its largest, since nothing was learned there.
        reach: the plane is shown from −reach to reach.
        device: where the points are that the scores are given; the density is given those of the CPU.

    Each row has one scale, that of the first entry.

    Raises:
        ValueError: where there are no scores, or `reach` is not positive.
    """
    if not scores:
        raise ValueError("no scores; a name and models.Scores in two dimensions at least are expected")
    positive_number("reach", reach)
    side = torch.linspace(-reach, reach, 81)
    points = torch.cartesian_prod(side, side).flip(1)  # rows from low to high y
    density = log_density(points).exp().view(81, 81).numpy()
    known = (density > 1e-3 * density.max()).astype(float)
    sparse = points.view(81, 81, 2)[4::6, 4::6].reshape(-1, 2)
    box = (-reach, reach, -reach, reach)
    figure = Figure(figsize=(2.9 * len(scores) + 0.6, 11), layout="constrained")
    axes = figure.subplots(4, len(scores), squeeze=False)
    limits = None
    for column, (name, pair) in zip(axes.T, scores.items(), strict=True):
        inputs = points.to(device)
        s2 = (linalg.jacobian(pair.s1, inputs) if pair.s2 is None else pair.s2(inputs).dense()).cpu()
        entries = [s2[:, i, j].view(81, 81).numpy() for i, j in ((0, 0), (0, 1), (1, 1))]
        if limits is None:
            limits = [float(abs(entry * known).max()) for entry in entries]
        arrows = pair.s1(sparse.to(device)).cpu()
        column[0].imshow(density, origin="lower", extent=box, cmap="Greys", alpha=0.6)
        column[0].quiver(*sparse.T.numpy(), *arrows.T.numpy(), color="tab:blue", angles="xy")
        column[0].set_title(f"{name}: s1")
        for axis, entry, limit, label in zip(column[1:], entries, limits, ("xx", "xy", "yy"), strict=True):
            shown = axis.imshow(
                entry, origin="lower", extent=box, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.15 + 0.85 * known
            )
            axis.set_title(f"{name}: s2, {label}")
            figure.colorbar(shown, ax=axis, fraction=0.046)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure


def calibration_figure(predictions: dict[str, Predictions]) -> Figure:
    """Predicted variance against squared error, in ten bins of equal count; the dashed diagonal is perfect.

    Args:
        predictions: name to those of a test set, in units² of the data on both axes.

    Raises:
        ValueError: where an entry has no batch.
    """
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    highest = 0.0
    for name, collected in predictions.items():
        predicted, observed = collected.bins()
        axis.plot(predicted.numpy(), observed.numpy(), "o-", label=name)
        highest = max(highest, float(predicted.max()), float(observed.max()))
    axis.plot([0, highest], [0, highest], color="gray", linewidth=1, linestyle="--", zorder=0)
    axis.set(xlabel="predicted variance", ylabel="squared error", title="Calibration: ten bins of equal count")
    axis.legend()
    return figure
