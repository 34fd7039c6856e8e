"""Reads checkpoints written by the published program.

A published `checkpoint.pth` is a list: `[s1, optimizer]` of the DSM runner and `[s2, s1, optimizer]`
of the two hybrid runners, followed by the EMA shadows of the networks in the same order where the run
kept them. Every name of a state dict begins with `module.`; those of a shadow don't.
"""

import re
from collections.abc import Callable

from torch import Tensor

__all__ = ["refinenet_state", "translate_checkpoint"]

RENAMED: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^begin_conv\.", "begin."),
    (r"^end_conv\.", "end."),
    (r"^normalizer\.", "norm."),
    (r"^res(\d)\.", r"stage\1."),
    (r"\.normalize(\d)\.", r".norm\1."),
    (r"\.(conv2|shortcut)\.conv\.", r".\1."),
    (r"\.adapt_convs\.", ".adapt."),
    (r"\.output_convs\.", ".output."),
    (r"\.msf\.", ".fuse."),
    (r"\.crp\.", ".pool."),
    (r"\.(\d)_(\d)_(norm|conv)\.", lambda m: f".{int(m[1]) - 1}.{m[3]}{m[2]}."),
    (r"\.embed\.weight$", ".weight"),
]


def refinenet_state(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of our `RefineNet` from that of a published one (names without `module.`)."""
    state = {}
    for name, value in published.items():
        if name.endswith("embed.weight"):  # (1, 3n) holding γ, α, β one after the other
            value = value.reshape(3, -1)
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    return state


def network_states(published: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Splits a published second-order state into those of its networks, by the attribute they have here."""
    networks = {"diagonal": "diagonal.", "factor": "low_rank_model."}
    if not any(name.startswith("low_rank_model.") for name in published):
        networks = {"diagonal": ""}
    return {
        ours: refinenet_state({k.removeprefix(prefix): v for k, v in published.items() if k.startswith(prefix)})
        for ours, prefix in networks.items()
    }


def translate_checkpoint(entries: list) -> tuple[str, dict[str, Tensor]]:
    """What a published checkpoint holds, in the names of this program.

    Args:
        entries: the list read from `checkpoint.pth`.

    Returns:
        the second-order head (`none`, `diagonal` or `low_rank`), and the state dict of the networks (see
        `models.build`): the EMA weights where there are any.

    Raises:
        ValueError: where the list has none of the published layouts.
    """
    places = [i for i, entry in enumerate(entries) if isinstance(entry, dict) and "param_groups" in entry]
    if places not in ([1], [2]) or len(entries) not in (places[0] + 1, 2 * places[0] + 1):
        raise ValueError("the list has none of the published layouts: [s1, optimizer] or [s2, s1, optimizer], and EMA")
    networks = entries[: places[0]]
    shadows = entries[places[0] + 1 :] or networks
    states = [{name.removeprefix("module."): value for name, value in entry.items()} for entry in shadows]
    state = {f"s1.{k}": v for k, v in refinenet_state(states[-1]).items()}
    if len(networks) == 1:
        return "none", state
    heads = network_states(states[0])
    for head, values in heads.items():
        state |= {f"s2.{head}.{k}": v for k, v in values.items()}
    return ("low_rank" if "factor" in heads else "diagonal"), state
