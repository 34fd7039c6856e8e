"""Gram–Schmidt for columns that are learned in the order of their weight."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["orthogonal_columns"]


def orthogonal_columns(columns: Tensor) -> Tensor:
    """Each column less its projection on those before it, which get no gradient from that: so the first is learned as
    if it were alone, the second as if there were two, and so on.

    Args:
        columns: `(B, D, r)`.

    Returns:
        `(B, D, r)`, orthogonal, not of unit length.

    Source: Nehme, Yair, Michaeli, *Uncertainty Quantification via Neural Posterior Principal Components*, NeurIPS 2023,
        section 4.
    """
    units: list[Tensor] = []
    orthogonal = []
    for column in columns.unbind(2):
        for unit in units:
            column = column - unit * (unit * column).sum(1, keepdim=True)
        orthogonal.append(column)
        units.append(F.normalize(column.detach(), dim=1))
    return torch.stack(orthogonal, dim=2) if orthogonal else columns
