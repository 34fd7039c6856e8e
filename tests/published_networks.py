"""Networks and run folders as the published program left them, with the weights of the reference numbers."""

from pathlib import Path

import numpy as np
import torch
import yaml

PARAMETERS = Path(__file__).parent / "reference" / "refinenet_parameters.txt"


def shapes(channels: int, outputs: int, ngf: int = 8) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published RefineNet, from the list for ngf = 64 and one channel."""
    named = {}
    for line in PARAMETERS.read_text().splitlines():
        name, _, numbers = line.partition(" (")
        sizes = [int(number) for number in numbers.rstrip(")").split(",") if number.strip()]
        named[name] = tuple(size if size < 64 else size * ngf // 64 for size in sizes)
    named["begin_conv.weight"] = (ngf, channels, 3, 3)
    named["end_conv.weight"] = (outputs, ngf, 3, 3)
    named["end_conv.bias"] = (outputs,)
    return named


def fill(all_shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The weights of the reference numbers: the fill rule of their README."""
    state = {}
    for number, name in enumerate(sorted(all_shapes)):
        shape = all_shapes[name]
        w = np.sin(0.7 * np.arange(np.prod(shape)) + number)
        if "embed" in name:
            w = 0.1 * w
            w[: 2 * len(w) // 3] += 1
        elif len(shape) == 4:
            w = w * np.sqrt(2 / np.prod(shape[1:]))
        else:
            w = 0.1 * w
        state[name] = torch.tensor(w.reshape(shape), dtype=torch.float32)
    return state


def low_rank_shapes(rank: int) -> dict[str, tuple[int, ...]]:
    parts = {"diagonal": shapes(1, 1), "low_rank_model": shapes(1, rank)}
    return {f"{part}.{name}": shape for part, names in parts.items() for name, shape in names.items()}


def optimizer_state(state: dict[str, torch.Tensor]) -> dict:
    """An Adam state as torch writes it, after one step."""
    parameters = [torch.nn.Parameter(value.clone()) for value in state.values()]
    adam = torch.optim.Adam(parameters)
    sum(p.sum() for p in parameters).backward()
    adam.step()
    return adam.state_dict()


def write_run_folder(folder: Path, entries: list, channels: int, image_size: int) -> Path:
    """A run folder with a published `config.yml`, tags and all, and the entries as its checkpoint."""
    (folder / "ckpt").mkdir(parents=True)
    name = "MNIST" if channels == 1 else "CIFAR10"
    model = {"ema": len(entries) in (3, 5), "ema_rate": 0.999, "sigma_begin": 1, "sigma_end": 0.01}
    model |= {"num_classes": 1, "batch_norm": False, "ngf": 8}
    data = {"dataset": name, "image_size": image_size, "channels": channels, "random_flip": False}
    config = {"loss": "dsm", "rank": 50, "dataset": name, "data_dir": "data/x", "channel": channels, "img": image_size}
    config |= {"batch_size": 40, "lr": 0.0002, "lr_decay": 0.999995, "max_epochs": 1000}
    config |= {"print_every": 50, "save_interval": 10}
    text = yaml.safe_dump(config)
    for key, section in (("model", model), ("data", data)):
        lines = "".join(f"  {line}\n" for line in yaml.safe_dump(section).splitlines())
        text += f"{key}: !!python/object:argparse.Namespace\n{lines}"
    (folder / "config.yml").write_text(text)
    torch.save(entries, folder / "ckpt" / "checkpoint.pth")
    return folder


def with_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": value for name, value in state.items()}
