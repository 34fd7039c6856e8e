"""Random numbers by their seed: no two seeds, and no two numbers of one seed, share any."""

import numbers
from typing import overload

import numpy as np
import torch

__all__ = ["derived_seed", "generator_of"]

SEEDS = 2**63
SEEDS_OF_TORCH = 2**32  # its generator on the CPU takes 32 bits and drops the others
STATE = slice(3, 627)  # of the 64-bit words of that generator's state: the 624 numbers of its Mersenne twister


@overload
def generator_of(seed: int, device: torch.device | str = "cpu") -> torch.Generator: ...
@overload
def generator_of(seed: None, device: torch.device | str = "cpu") -> None: ...
@overload
def generator_of(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator | None: ...
def generator_of(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator | None:
    """The random numbers of a seed; None, for torch's own generator, where there is none.

    A seed from 2³² on, one of the clock say, counts in full: on the CPU, where torch drops all but 32 bits, the whole
    state of the generator is filled from a hash of the seed.

    Raises:
        ValueError: where the seed is not a whole number from 0 to 2⁶³ − 1.

    Source: O'Neill, *Developing a seed_seq alternative* (2015), as `numpy.random.SeedSequence` has it.
    """
    if seed is None:
        return None
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed < SEEDS:
        raise ValueError(f"seed is {seed!r}; a whole number from 0 to 2⁶³ − 1 is expected")
    generator = torch.Generator(device)
    if seed < SEEDS_OF_TORCH or generator.device.type != "cpu":
        return generator.manual_seed(int(seed))
    state = generator.manual_seed(0).get_state()
    words = np.random.SeedSequence(int(seed)).generate_state(STATE.stop - STATE.start)
    state.view(torch.int64)[STATE] = torch.from_numpy(words.astype(np.int64))
    return generator.set_state(state)


def derived_seed(seed: int, number: int) -> int:
    """A seed for the `number`-th use of `seed`, where its draws must not be those of another use: a hash of both.

    Args:
        seed: from 0 to 2⁶³ − 1.
        number: from 0.

    Returns:
        a seed from 0 to 2⁶³ − 1.
    """
    return int(np.random.SeedSequence(seed + SEEDS * number).generate_state(1, np.uint64)[0] >> np.uint64(1))
