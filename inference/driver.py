"""One driver for every sampler: a sampler is a step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from inference.arguments import whole_number

__all__ = ["Callback", "Chain", "DivergedError", "Step", "run"]

Callback = Callable[[int, Tensor], None]
Chain = Tensor | tuple[Tensor, Tensor]
Step = Callable[[Tensor], Tensor]

LIMIT = 1e8


class DivergedError(ArithmeticError):
    """A chain left every reasonable range: the message names the step, and what to change."""


@torch.no_grad()
def run(
    name: str,
    steps: Sequence[Step],
    x: Tensor,
    keep_every: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    advice: Callable[[int], str] = lambda number: "",
) -> Chain:
    """Takes one step after the other.

    Args:
        name: of the sampler, for the bar and the message.
        steps: each from states `(B, D)` to the next; their noise is their own.
        x: the first states.
        keep_every: keep every so many-th state, 1 for all.
        callback: called with the step's number, from 1, and the states.
        progress: show a bar, where the output is a terminal.
        advice: what the message of a step that diverged ends with, from its number.

    Returns:
        the last states `(B, D)`; with `keep_every` also the chain, `(len(steps) // keep_every, B, D)`.

    Raises:
        ValueError: where `keep_every` is not a whole number from 1.
        DivergedError: where a state is not finite or has left the range of 1e8.
    """
    if keep_every is not None:
        whole_number("keep_every", keep_every, least=1)
    kept = []
    bar = tqdm(steps, desc=name, disable=None if progress else True, leave=False)
    for number, step in enumerate(bar, start=1):
        try:
            x = step(x)
        except torch.linalg.LinAlgError:  # no eigenvalues: the scores are not finite
            x = torch.full_like(x, torch.nan)
        if not bool((x.abs() < LIMIT).all()):
            raise DivergedError(f"{name} diverged at step {number}{advice(number)}")
        if callback is not None:
            callback(number, x)
        if keep_every is not None and number % keep_every == 0:
            kept.append(x)
    if keep_every is None:
        return x
    return x, torch.stack(kept) if kept else x.new_empty(0, *x.shape)
