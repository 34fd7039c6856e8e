"""Both orders together: s1 and a second-order head, trained on the same noise."""

from pathlib import Path

import torch
from torch import Tensor

import inference
import losses
from configs import Config
from models import DiagonalPlusLowRank
from runners.base import Runner

__all__ = ["DoubleDiagonalHybridRunner", "LowRankHybridRunner"]


class HybridRunner(Runner):
    """Trains s1 and s2 with the objective that `loss` names.

    `dsm` and `dsm_vr` are the paper's: DSM-VR for s1 and D2SM or D2SM-VR for s2, whose gradient reaches s1
    too, in the sum `first_order_weight · L1/σ² + L2`. The others leave s1 to its own loss, in the sum
    `L1/σ² + L2`; in the centred ones each point of L2 is weighted by `precision`.
    """

    first_order_weight: float
    objectives = ("dsm", "dsm_vr", "centered", "centered_vr", "jacobian")

    def losses(self, clean: Tensor, noise: Tensor) -> dict[str, Tensor]:
        sigma, objective = self.config.noise, self.config.loss
        antithetic = objective in ("dsm_vr", "centered_vr")
        p = losses.perturb(clean, sigma, antithetic, noise, with_clean=objective != "centered")
        s1, s2 = self.scores(p.inputs, rows=None if antithetic else len(clean))
        if objective in ("dsm", "dsm_vr"):
            first = losses.dsm_vr(s1, p)
            second = losses.d2sm_vr(s1, s2, p) if antithetic else losses.d2sm(s1, s2, p)
            total = self.first_order_weight * first / sigma**2 + second
        elif objective == "jacobian":
            probe = self.draw(torch.randn, clean.shape[1]).sign()
            product = inference.jacobian_product(self.model.s1, p.at("plus", p.inputs), probe[:, :, None])[:, :, 0]
            first, second = losses.dsm_vr(s1, p), losses.jacobian_matching(s2, probe, product)
            total = first / sigma**2 + second
        else:
            weight = self.precision(s2)
            if antithetic:
                first, second = losses.dsm_vr(s1, p), losses.d2sm_centered_vr(s1, s2, p, weight)
            else:
                first, second = losses.dsm(s1, p), losses.d2sm_centered(s1, s2, p, weight)
            total = first / sigma**2 + second
        return {"loss": total, "first_order": first, "second_order": second}

    def precision(self, s2: DiagonalPlusLowRank) -> Tensor:
        """`D / t²` with `t = tr Cov/σ²` as it is predicted, held fixed: the weight of each point in a centred loss.

        The target `eeᵀ − I` has a spread of the size of E‖e‖² = t, and least squares is most efficient where each
        point is weighted by one over its variance: 1/t². With the factor D, σ⁴ L2 is of the order of D whatever the
        noise level, whether the denoiser is still bad or already good; σ² L1 begins there. A weight may depend on the
        noisy points and on the networks, but not on the noise itself: so it does not move the minimiser.

        A free covariance can predict a trace near zero or below, and such a point would count for thousands: there t is
        the mean over the batch, of which each point is one in B. No t is taken for less than D/100.
        """
        dimension = s2.diagonal.shape[1]
        t = s2.affine(self.config.noise**2, 1.0).trace().detach()
        if self.config.model.covariance == "free":
            t = self.world.mean(t.mean()).expand(len(s2))
        return dimension / t.clamp(min=dimension / 100).square()

    def preview(self, model, clean: Tensor, noisy: Tensor) -> dict[str, Tensor]:
        s1, s2 = model(noisy)
        posterior = inference.posterior(s1, s2, noisy, self.config.noise)
        denoised, std = self.pictures(posterior.mean), posterior.std()
        std = (std / std.max()).unflatten(1, self.train_data.shape).cpu()  # on one scale: white is the largest of all
        columns = torch.stack([self.pictures(clean), self.pictures(noisy), denoised, std], dim=1)
        return {"denoised": denoised, "clean_noisy_denoised_std": columns.flatten(0, 1)}

    @torch.no_grad()
    def evaluate(self, model, picture: Path) -> dict:
        sigma, seed, data = self.config.noise, self.config.seed, self.test_data
        ours = inference.predictions(model, data, sigma, seed)
        low_rank = bool(ours.eigenvalues)
        jacobian = inference.jacobian_predictions(model.s1, data, sigma, seed, components=low_rank)
        metrics = inference.denoise_error(model.s1, data, sigma, seed) | ours.figures()
        metrics["jacobian_of_s1"] = {"images": len(jacobian.variances)}
        shown = {"s2": ours}
        if jacobian.variances:
            metrics["jacobian_of_s1"] |= jacobian.figures()
            shown["Jacobian of s1"] = jacobian
        figure = inference.calibration_figure(shown)
        figure.savefig(picture.with_name("calibration.png"), dpi=120)

        p = next(inference.noisy_batches(data, sigma, seed, batch_size=min(12, len(data))))
        posterior = inference.posterior(*model(p.inputs), p.inputs, sigma)
        components = min(3, self.config.rank) if low_rank else 0
        title = f"{self.config.data.dataset}, σ = {sigma:g}: {metrics['noisy_psnr']:.2f} dB → {metrics['psnr']:.2f} dB"
        inference.posterior_figure(posterior, data.shape, p.clean, components, title).savefig(picture, dpi=120)
        if low_rank:
            walks = inference.walk_figure(posterior, data.shape, components=components)
            walks.savefig(picture.with_name("walks.png"), dpi=120)
        return metrics


class LowRankHybridRunner(HybridRunner):
    """s2 = diag(α) + ββᵀ, β with `rank` columns; its run folder is `DOC_rankR`."""

    first_order_weight = 10

    @staticmethod
    def folder_name(doc: str, config: Config) -> str:
        return f"{doc}_rank{config.rank}"


class DoubleDiagonalHybridRunner(HybridRunner):
    """s2 = diag(α)."""

    first_order_weight = 1
