"""What all benchmarks share: time, peak memory, and processes of their own for those whose peak is measured."""

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

__all__ = ["in_own_process", "measure", "peak_memory"]

Result = TypeVar("Result")


def measure(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median time of `call`, in seconds, after two calls that are not counted."""
    times = []
    for _ in range(repeats + 2):
        wait_for(device)
        start = time.perf_counter()
        call()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """By how much `call` raises the memory in use at its peak, in bytes: the allocator's count on a GPU, the
    resident set on the CPU, where `call` must be the first large thing that the process does."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """What `function` returns when a fresh process calls it, so that its peak of memory stands alone.

    On Linux a process begins with the peak of the one that started it: that one must stay small itself.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, torch.set_float32_matmul_precision, ("high",)) as pool:
        return pool.submit(function, *arguments).result()
