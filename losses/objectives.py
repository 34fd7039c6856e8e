"""The table of objectives: what each needs evaluated, and how its loss is put together.

A new objective is one entry of `OBJECTIVES`; the configuration's choices, the runners and the experiments read it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from linalg import SymmetricMatrix
from losses.first_order import dsm, dsm_vr
from losses.perturbation import Perturbation, perturb
from losses.second_order import d2sm, d2sm_centered, d2sm_centered_vr, d2sm_vr, jacobian_matching

__all__ = ["OBJECTIVES", "OBJECTIVE_NAMES", "Objective", "trace_weight"]

POINTS = ("plus", "minus", "clean")


@dataclass(frozen=True)
class Objective:
    """What a training step minimises: `w · L1/σ² + L2`, or L1 where there is no second order.

    Attributes:
        first_order: L1, from s1 at `points` and the perturbed batch.
        second_order: L2, from s1, s2, the perturbed batch, and by keyword what the next attributes ask for; None where
            s1 is trained alone.
        points: where s1 is needed: of `"plus"` (x + σz), `"minus"` (x − σz), `"clean"` (x), in that order.
        s2_points: where s2 is needed, the first of `points` or all of them.
        probes: L2 takes `probe`, a random v `(B, D)` with E vvᵀ = I, and `product`, `∇s1 v` at x + σz.
        weighted: L2 takes `weight`, of each point of s2 (see `trace_weight`).
        published: w is the factor of the published runner; 1 otherwise.
    """

    first_order: Callable[[Tensor, Perturbation], Tensor]
    second_order: Callable[..., Tensor] | None = None
    points: tuple[str, ...] = ("plus",)
    s2_points: tuple[str, ...] = ()
    probes: bool = False
    weighted: bool = False
    published: bool = False

    @property
    def evaluations(self) -> int:
        """Of the network for each point of a batch; a product with the Jacobian counts two."""
        return len(self.points) + 2 * self.probes

    def perturb(self, clean: Tensor, sigma: float | Tensor, noise: Tensor | None = None) -> Perturbation:
        """The batch `(B, D)`, perturbed for the points of this objective; see `losses.perturb`."""
        return perturb(clean, sigma, "minus" in self.points, noise, "clean" in self.points)

    def rows(self, p: Perturbation) -> int:
        """At how many of `p.inputs`, from the first on, s2 is needed."""
        return len(self.s2_points) * len(p.clean)

    def __call__(
        self,
        p: Perturbation,
        s1: Tensor,
        s2: SymmetricMatrix | Tensor | None = None,
        first_order_weight: float = 1.0,
        **needs: Tensor,
    ) -> dict[str, Tensor]:
        """The scalars of one step.

        Args:
            p: the batch, from `perturb`.
            s1: at `p.inputs`, `(n·B, D)`.
            s2: at the first `rows(p)` of them.
            first_order_weight: w, where `published`.
            needs: `weight`, `probe`, `product`, as this objective asks for them.

        Returns:
            `loss`, to be minimised; and of both orders `first_order`, in units of 1/σ², and `second_order`, of 1/σ⁴.
        """
        first = self.first_order(s1, p)
        if self.second_order is None:
            return {"loss": first}
        second = self.second_order(s1, s2, p, **needs)
        weight = first_order_weight if self.published else 1
        return {"loss": weight * first / p.sigma**2 + second, "first_order": first, "second_order": second}


def trace_weight(s2: SymmetricMatrix, sigma: float, pool: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """`D / t²` with `t = tr Cov/σ²` as it is predicted, held fixed: the weight of each point in a centred loss.

    The target `eeᵀ − I` has a spread of the size of E‖e‖² = t, and least squares is most efficient where each
    point is weighted by one over its variance: 1/t². With the factor D, σ⁴ L2 is of the order of D whatever the
    noise level, whether the denoiser is still bad or already good; σ² L1 begins there. A weight may depend on the
    noisy points and on the networks, but not on the noise itself: so it does not move the minimiser.

    Args:
        s2: at n points, in units of 1/σ².
        sigma: σ.
        pool: the mean over the batch of t `(n,)`, a scalar, for a free covariance: that can predict a trace near zero
            or below, and such a point would count for thousands. No t is taken for less than D/100.

    Returns:
        `(n,)`, without units.

    Source: ours; the weight is that of weighted least squares (Aitken 1935).
    """
    t = (sigma**2 * s2.trace() + s2.dimension).detach()
    if pool is not None:
        t = pool(t).expand(len(s2))
    return s2.dimension / t.clamp(min=s2.dimension / 100).square()


def _jacobian(s1: Tensor, s2: SymmetricMatrix, p: Perturbation, probe: Tensor, product: Tensor) -> Tensor:
    return jacobian_matching(s2, probe, product)


OBJECTIVES: dict[int, dict[str, Objective]] = {
    1: {
        "dsm": Objective(dsm),
        "dsm_vr": Objective(dsm_vr, points=("plus", "clean")),
    },
    2: {
        "dsm": Objective(dsm_vr, d2sm, points=("plus", "clean"), s2_points=("plus",), published=True),
        "dsm_vr": Objective(dsm_vr, d2sm_vr, points=POINTS, s2_points=POINTS, published=True),
        "centered": Objective(dsm, d2sm_centered, s2_points=("plus",), weighted=True),
        "centered_vr": Objective(dsm_vr, d2sm_centered_vr, points=POINTS, s2_points=POINTS, weighted=True),
        "jacobian": Objective(dsm_vr, _jacobian, points=("plus", "clean"), s2_points=("plus",), probes=True),
    },
}
"""By the highest order that is trained, and by the name in the configuration (`loss`)."""

OBJECTIVE_NAMES = tuple(dict.fromkeys(name for table in OBJECTIVES.values() for name in table))
