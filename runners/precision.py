"""bf16 or fp32: which of them trains a network faster on this machine, measured before the training begins.

Not every CPU gains by bf16, nor every network: matrix products do where the processor has them, and what passes over
memory in between may lose.
"""

import logging
import time

import torch

import models
from configs import Config
from models import Networks

__all__ = ["faster", "step_time"]

log = logging.getLogger(__name__)

GAIN = 1.1
WARM_UP, REPEATS = 2, 5
FAR_SLOWER = 8
"""Where a pass in bf16 takes so many times as long as in fp32, no more are measured: a processor without bf16 may take
half a minute for each."""


def faster(config: Config, rows: int, device: torch.device) -> str:
    """`bf16` where a forward and backward pass of a configuration's network is a tenth faster than in fp32, by the
    shortest of five of each; else `fp32`, by the first pass alone where bf16 is eight times slower. The random numbers
    of the process stay as they are.

    Args:
        config: with what its network needs to know of the data.
        rows: points in a pass.
        device: where.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = models.build(config, config.data.shape).to(device)
        if config.channels_last:
            network.to(memory_format=torch.channels_last)
        seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
        for _ in range(WARM_UP + REPEATS):
            for precision, times in seconds.items():
                times.append(step_time(network, config, rows, precision == "bf16", device))
            if seconds["bf16"][-1] > FAR_SLOWER * seconds["fp32"][-1]:
                break
    fp32, bf16 = (min(times[WARM_UP:] or times) for times in seconds.values())
    chosen = "bf16" if GAIN * bf16 <= fp32 else "fp32"
    log.info("precision: %s (a pass of %d points: fp32 %.1f ms, bf16 %.1f ms)", chosen, rows, 1e3 * fp32, 1e3 * bf16)
    return chosen


def step_time(network: Networks, config: Config, rows: int, bf16: bool, device: torch.device) -> float:
    """Seconds that a forward and backward pass of a network takes, at random points and noise levels.

    Args:
        network: to be timed; its gradients are left empty.
        config: of it.
        rows: points in a pass.
        bf16: under autocast.
        device: of the network.
    """
    low, high = config.sigmas
    x = torch.randn(rows, *config.data.shape, device=device).flatten(1)
    sigma = low if low == high else low * (high / low) ** torch.rand(rows, 1, device=device)
    _wait(device)
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        s1, s2, *third = network(x, sigma)
    total = s1.sum() if s2 is None else s1.sum() + s2.trace().sum()
    (total + sum(s3.diagonal().sum() for s3 in third)).backward()
    _wait(device)
    seconds = time.perf_counter() - start
    network.zero_grad()
    return seconds


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
