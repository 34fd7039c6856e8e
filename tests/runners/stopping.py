"""Runs `main.py` and sends its own process a signal at a named moment.

    python stopping.py SIGNAL MOMENT NUMBER [arguments of main.py]

The signal comes before the NUMBER-th call of the function that the moment names.
"""

import os
import signal
import sys
from pathlib import Path

import torch

import main
from runners import training

MOMENTS = {
    "step": (training, "take_step"),
    "write": (torch, "save"),
    "flush": (os, "fsync"),
    "rename": (Path, "replace"),
}


def run(number: str, moment: str, count: str, *arguments: str) -> int:
    owner, name = MOMENTS[moment]
    function, calls = getattr(owner, name), 0

    def stop_first(*args, **options):
        nonlocal calls
        calls += 1
        if calls == int(count):
            os.kill(os.getpid(), signal.Signals[number])
        return function(*args, **options)

    setattr(owner, name, stop_first)
    return main.main(list(arguments))


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
