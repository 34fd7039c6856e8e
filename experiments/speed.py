"""How fast a training step is: `python -m experiments.speed step`.

Figures of one run on one machine; only ratios between rows of the same run carry over to another.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import configs
import datasets
import runners
from runners import world

__all__ = ["measure", "step_time"]

STEP_CONFIGS = {
    "digits_dsm.yml": "UnetDSMRunner",
    "dsm_mnist.yml": "UnetDSMRunner",
    "dsm_cifar10.yml": "UnetDSMRunner",
}
STEP_VARIANTS = {
    "fp32": {},
    "fp32, channels last": {"channels_last": True},
    "fp32, compiled": {"compile": True},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "compile": True},
    "bf16, compiled, channels last": {"precision": "bf16", "compile": True, "channels_last": True},
}


def measure(call, device: torch.device, repeats: int) -> float:
    """The median time of `call`, in seconds, after two calls that are not counted."""
    times = []
    for _ in range(repeats + 2):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_time(name: str, device: torch.device, repeats: int, **changes) -> tuple[float, int]:
    """The time of a training step of a configuration, everything in it but the reading of data.

    Returns:
        seconds and batch size.
    """
    config = configs.load(configs.find(name), runner=STEP_CONFIGS[name])
    config = config.model_copy(update=changes)
    shape = (config.batch_size, config.data.image_size, config.data.image_size, config.data.channels)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        np.savez(file, images=np.random.default_rng(0).integers(256, size=(2 * shape[0], *shape[1:]), dtype=np.uint8))
        blank = config.data.model_copy(update={"dataset": "npz"})
        config = config.model_copy(update={"data": blank, "data_dir": str(file)})
        runner = runners.get(config.runner)(config, Path(folder), world.World(device), Path(folder))
        runner.set_up()
        batch = next(datasets.batches(runner.train_data, torch.arange(shape[0])[None]))

        def step():
            runner.take_step(batch, slice(0, shape[0]))
            runner.unread.clear()

        return measure(step, device, repeats), shape[0]


def machine(device: torch.device) -> str:
    """The machine in words, for the head of a table."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def print_step_table(device: torch.device, batch_size: int | None, repeats: int) -> None:
    """Images a second of each configuration in each variant, and the ratio to plain fp32."""
    print(f"training step on {machine(device)}, median of {repeats}")
    print(f"{'config':<18}{'batch':>6}  {'variant':<30}{'images/s':>10}{'ratio':>8}")
    for name in STEP_CONFIGS:
        plain = None
        for variant, changes in STEP_VARIANTS.items():
            if batch_size:
                changes = changes | {"batch_size": batch_size}
            seconds, batch = step_time(name, device, repeats, **changes)
            plain = plain or seconds
            print(f"{name:<18}{batch:>6}  {variant:<30}{batch / seconds:>10.1f}{plain / seconds:>8.2f}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.speed", description=__doc__)
    parser.add_argument("what", choices=("step",), help="step: a whole training step of each configuration")
    parser.add_argument("--device", default=world.best_device())
    parser.add_argument("--batch-size", type=int, help="in place of the configurations' own")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args(arguments)
    print_step_table(world.join(args.device).device, args.batch_size, args.repeats)


if __name__ == "__main__":
    main()
