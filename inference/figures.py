"""Pictures a person looks at."""

from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["image_rows"]


def image_rows(rows: dict[str, Tensor], title: str = "") -> Figure:
    """A figure with a labelled row of images for each entry.

    Args:
        rows: label to pictures `(n, C, H, W)` in [0, 1]; the same n for all.
        title: above the whole.
    """
    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(0.9 * columns + 1, 0.95 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return figure
