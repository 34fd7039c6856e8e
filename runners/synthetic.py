"""Both orders of a synthetic density, whose exact scores say how well they were learned."""

from pathlib import Path

import torch
from torch import Tensor

import inference
from configs import Config, UserError
from datasets import DensityData
from models import ScoreModel
from runners.hybrid import HybridRunner
from runners.unet_dsm import UnetDSMRunner, first_order_losses

__all__ = ["SyntheticRunner", "score_errors"]


class SyntheticRunner(HybridRunner):
    """Trains multilayer perceptrons on `data.density`: s1, and s2 with the head that `model.head` names."""

    first_order_weight = 1
    synthetic = True

    def __init__(self, config: Config, *rest):
        if config.model.head == "none" and config.loss not in (known := UnetDSMRunner.objectives):
            raise UserError(
                f"loss: {config.loss} is of the second order, and model.head is none; one of {', '.join(known)}"
            )
        super().__init__(config, *rest)

    def losses(self, clean: Tensor, noise: Tensor) -> dict[str, Tensor]:
        if self.config.model.head == "none":
            return first_order_losses(self, clean, noise)
        return super().losses(clean, noise)

    def show_preview(self, model: ScoreModel) -> None:
        """The errors of `score_errors` on 1000 test points, as curves."""
        for name, value in score_errors(model, self.test_data, self.config.noise, self.config.seed, 1000).items():
            self.board().add_scalar(f"test/{name}", value, self.step)

    @torch.no_grad()
    def evaluate(self, model: ScoreModel, picture: Path) -> dict:
        sigma, data = self.config.noise, self.test_data
        metrics = score_errors(model, data, sigma, self.config.seed, len(data))
        if data.density.dimension == 2:
            exact_s1, exact_s2 = (lambda x, f=f: f(x.cpu(), sigma) for f in (data.density.s1, data.density.s2))
            scores = {"exact": (exact_s1, exact_s2)}
            scores["learned"] = model.s1, model.s2 or (lambda x: inference.jacobian(model.s1, x))
            figure = inference.score_fields(scores, lambda x: data.density.log_prob(x, sigma), device=self.device)
            figure.savefig(picture, dpi=120)
        return metrics


@torch.no_grad()
def score_errors(model: ScoreModel, data: DensityData, sigma: float, seed: int, count: int) -> dict[str, float]:
    """Errors against the exact scores of the noisy density, over test points.

    Args:
        model: of `models`; where it has no second order, the Jacobian of its s1 is taken for it.
        data: points of the density.
        sigma: the noise level.
        seed: of the noise.
        count: of points.

    Returns:
        `s1_error`: mean ‖s1 − exact‖²; `s2_error`: mean squared Frobenius error; `s2_diagonal_error`: that of the
        diagonals alone; and each with `relative_` before it, divided by the mean of the exact one's square.
    """
    totals: dict[str, float] = {}
    seen = 0
    for p in inference.noisy_batches(data, sigma, seed, batch_size=500):
        if seen >= count:
            break
        seen += len(p.clean)
        x = p.inputs.cpu()
        s1, s2 = model(p.inputs)
        curvature = inference.jacobian(model.s1, p.inputs, rows=10) if s2 is None else s2.dense()
        exact_s1, exact_s2 = data.density.s1(x, sigma), data.density.s2(x, sigma)
        pairs = {
            "s1": (s1.cpu(), exact_s1),
            "s2": (curvature.cpu(), exact_s2),
            "s2_diagonal": tuple(m.diagonal(dim1=1, dim2=2) for m in (curvature.cpu(), exact_s2)),
        }
        for name, (ours, exact) in pairs.items():
            for key, square in ((f"{name}_error", ours - exact), (f"relative_{name}_error", exact)):
                totals[key] = totals.get(key, 0.0) + float(square.square().sum(dtype=torch.float64))
    for name in ("s1", "s2", "s2_diagonal"):
        totals[f"relative_{name}_error"] = totals[f"{name}_error"] / totals[f"relative_{name}_error"]
        totals[f"{name}_error"] /= seen
    return totals
