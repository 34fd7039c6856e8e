"""The table of objectives: what each needs evaluated, and how its loss is put together.

A new objective is one entry of `OBJECTIVES`; the configuration's choices, the runners and the experiments read it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from linalg import SymmetricCP, SymmetricMatrix
from losses.first_order import dsm, dsm_vr
from losses.perturbation import Perturbation, perturb
from losses.principal_components import nppc
from losses.second_order import d2sm, d2sm_centered, d2sm_centered_vr, d2sm_vr, jacobian_matching
from losses.third_order import d3sm, d3sm_centered, d3sm_diagonal, d3sm_vr, second_derivative_matching

__all__ = [
    "OBJECTIVES",
    "OBJECTIVE_NAMES",
    "PROBES",
    "Objective",
    "centered_and_jacobian",
    "entry_weight",
    "draw_probes",
    "probe_weight",
    "trace_weight",
]

POINTS = ("plus", "minus", "clean")
SMALLEST = 0.05  # a variance, in units of v


@dataclass(frozen=True)
class Objective:
    """What a training step minimises: `w · L1/σ² + L2 + σ²·L3`, as far as there are orders; L1 where there is one.

    No gradient of L3 reaches s1 or s2.

    Attributes:
        first_order: L1, from s1 at `points`, the perturbed batch and a weight for each of its points.
        second_order: L2, from s1, s2, the perturbed batch, a weight for each point of s2 (or None), and where there are
            probes both `probe` `(B, D)` and its `product` with the Jacobian of s1 at x + σz; None for s1 alone.
        points: where s1 is needed: always `"plus"` (x + σz), then `"minus"` (x − σz), then `"clean"` (x).
        s2_points: where s2 is needed, the first of `points` or all of them.
        probes: what the probes are, a name in `PROBES`, or None. Signs have v_i² = 1: `vᵀMv` tells of the diagonal of M
            no more than its trace.
        weighted: L2's points are weighted by `trace_weight`.
        orthogonal: L2 is for an s2 of orthogonal columns (`model.orthogonal`), and takes `progress`, the share of the
            training that is done.
        published: w is the factor of the published runner; 1 otherwise.
        third_order: L3, from s1, s2, s3, the perturbed batch, a weight for each point of s3 (or None), and what else
            it takes: `entries`, the weight of each entry `(B, D)`, where `weighted`; where there are `third_probes`
            `probe` and `product`, at the first `third_probed(p)` of the points, and `along`, the weight of each
            probe, where it is `weighted` too. None for lower orders alone.
        s3_points: where s3 is needed, the first of `points`.
        third_probes: what the probes of L3 are, a name in `PROBES`, or None.
        third_of: what is differentiated along them, s1 twice or s2 once.
        third_alone: L3 is minimised and nothing else, s1 and s2 being those of another run.
    """

    first_order: Callable[..., Tensor]
    second_order: Callable[..., Tensor] | None = None
    points: tuple[str, ...] = ("plus",)
    s2_points: tuple[str, ...] = ()
    probes: str | None = None
    weighted: bool = False
    orthogonal: bool = False
    published: bool = False
    third_order: Callable[..., Tensor] | None = None
    s3_points: tuple[str, ...] = ()
    third_probes: str | None = None
    third_of: Literal["s1", "s2"] = "s1"
    third_alone: bool = False

    @property
    def evaluations(self) -> int:
        """Of the network for each point of a batch; a product with the Jacobian counts two, and the derivatives of the
        third order, four at most at a quarter of the points, one."""
        return len(self.points) + 2 * (self.probes is not None) + (self.third_probes is not None)

    def on_frozen_denoiser(self) -> "Objective":
        """The same for s2, where s1 is not trained: it is needed only where s2 is, and L1 is measured by `dsm`."""
        return replace(self, first_order=dsm, points=self.points[: len(self.s2_points)])

    def on_frozen_orders(self) -> "Objective":
        """The same for s3 alone, where neither s1 nor s2 is trained."""
        return replace(self, points=self.points[: len(self.s3_points)], s2_points=self.s3_points, probes=None,
                       third_alone=True)  # fmt: skip

    def perturb(self, clean: Tensor, sigma: float | Tensor, noise: Tensor | None = None) -> Perturbation:
        """The batch `(B, D)`, perturbed for the points of this objective; see `losses.perturb`."""
        return perturb(clean, sigma, "minus" in self.points, noise, "clean" in self.points)

    def rows(self, p: Perturbation) -> int:
        """At how many of `p.inputs`, from the first on, s2 is needed."""
        return len(self.s2_points) * len(p.clean)

    def third_rows(self, p: Perturbation) -> int:
        """At how many of them s3 is needed."""
        return len(self.s3_points) * len(p.clean)

    def third_probed(self, p: Perturbation) -> int:
        """At how many of them, from the first on, the third order has probes: a quarter, as each of its derivatives
        takes many evaluations."""
        return -(-len(p.clean) // 4)

    def __call__(
        self,
        p: Perturbation,
        s1: Tensor,
        s2: SymmetricMatrix | Tensor | None = None,
        first_order_weight: float = 1.0,
        *,
        s3: SymmetricCP | None = None,
        weight: Tensor | None = None,
        unit: Tensor | None = None,
        third: dict[str, Any] | None = None,
        **needs: Any,
    ) -> dict[str, Tensor]:
        """The scalars of one step.

        Args:
            p: the batch, from `perturb`.
            s1: at `p.inputs`, `(n·B, D)`.
            s2: at the first `rows(p)` of them.
            first_order_weight: w, where `published`.
            s3: at the first `third_rows(p)` of them, where there is a third order.
            weight: of each point of s2, where `weighted`.
            unit: where σ differs from point to point, `u = σ⁴/v` `(B, 1)`, v a variance of the size of Cov[x|x̃]: the
                sum is then `w · u·L1 + u²·L2 + u³·L3`, alike at every σ.
            third: what `third_order` takes besides: `weight`, `entries`, `along`, `probe` and `product`.
            needs: `probe` and `product`, `∇s1 probe` or `(∇s1)ᵀ probe` (the Jacobian of a true score is symmetric, and
                so is the s2 that is matched to it), where there are probes; `progress`, where it is `orthogonal`.

        Returns:
            `loss`, to be minimised; and of several orders `first_order`, in units of 1/σ², `second_order`, of 1/σ⁴,
            and `third_order`, of 1/σ⁶, or the last two without units where there is a `unit`.

        Raises:
            ValueError: where σ differs from point to point and there is no `unit`.
        """
        level = None if unit is None else unit.flatten()
        if level is None and isinstance(p.sigma, Tensor) and p.sigma.ndim:
            raise ValueError("sigma differs from point to point: a unit for each is expected")
        if self.third_alone:
            loss = self._third(p, s1, s2, s3, level, **(third or {}))
            return {"loss": loss}
        first = self.first_order(s1, p, level)
        if self.second_order is None:
            return {"loss": first}
        if level is not None:
            on_s2 = level.square().repeat(len(self.s2_points))
            weight = on_s2 if weight is None else weight * on_s2
        second = self.second_order(s1, s2, p, weight, **needs)
        factor = first_order_weight if self.published else 1
        scaled = first if unit is not None else first / p.sigma**2
        losses = {"loss": factor * scaled + second, "first_order": first, "second_order": second}
        if self.third_order is not None:
            losses["third_order"] = self._third(p, s1, s2, s3, level, **(third or {}))
            losses["loss"] = losses["loss"] + losses["third_order"] * (1 if unit is not None else p.sigma**2)
        return losses

    def _third(
        self,
        p: Perturbation,
        s1: Tensor,
        s2: SymmetricMatrix | Tensor | None,
        s3: SymmetricCP | None,
        level: Tensor | None,
        weight: Tensor | None = None,
        **needs: Tensor,
    ) -> Tensor:
        """L3, in the units of `unit` where there is one."""
        assert self.third_order is not None
        if level is not None:
            on_s3 = level**3
            weight = on_s3.repeat(len(self.s3_points)) * (1 if weight is None else weight)
            for name, own in (("entries", on_s3[:, None]), ("along", on_s3)):
                if name in needs:
                    needs[name] = own[: len(needs[name])] * needs[name]
        return self.third_order(s1, s2, s3, p, weight, **needs)


def trace_weight(
    s2: SymmetricMatrix,
    sigma: float | Tensor,
    unit: Tensor | None = None,
    pool: Callable[[Tensor], Tensor] | None = None,
    power: int = 2,
) -> Tensor:
    """`D / t^power` with `t = tr Cov/v` as it is predicted, held fixed: the weight of each point in a centred loss;
    v = σ² where there is one noise level.

    The target `eeᵀ − I` has a spread of the size of E‖e‖² = tr Cov/σ², and least squares is most efficient where each
    point is weighted by one over its variance: 1/t². With the factor D, the loss is of the order of D whatever the
    noise level, whether the denoiser is still bad or already good. A weight may depend on the noisy points and on the
    networks, but not on the noise itself: so it does not move the minimiser.

    Of the third order the same argument gives 1/t³; 1/t is better (docs/third_order.md): most of s3 is at uncertain
    points, of which there are few.

    Args:
        s2: at n points, in units of 1/σ².
        sigma: σ, a float or `(B, 1)`, n a multiple of B: that of B points, x₊ first, then x₋, then x.
        unit: `σ⁴/v`, likewise; σ² where it is not given.
        pool: the mean over the batch of t `(n,)`, a scalar, for a free covariance: that can predict a trace near zero
            or below, and such a point would count for thousands. No t is taken for less than D/100.
        power: of t.

    Returns:
        `(n,)`, without units.

    Source: ours; the weight is that of weighted least squares (Aitken 1935).
    """
    scale, variance = _units(len(s2), sigma, unit)
    t = (scale * (s2.trace() + s2.dimension / variance)).detach()
    if pool is not None:
        t = pool(t).expand(len(s2))
    return s2.dimension / t.clamp(min=s2.dimension / 100) ** power


def entry_weight(s2: SymmetricMatrix, sigma: float | Tensor, unit: Tensor | None = None) -> Tensor:
    """`1/(c_d + 0.05)²` with `c_d = Cov_dd/v` as it is predicted, held fixed: the weight of each entry in
    `d3sm_diagonal`, whose targets are cubes of entries; v = σ² where there is one noise level.

    Args:
        s2, sigma, unit: see `trace_weight`.

    Returns:
        `(n, D)`, without units: at most 400, where a variance is next to nothing and any error of the denoiser would
        count for thousands.

    Source: ours; weighted least squares (Aitken 1935) would take the cube, see docs/third_order.md.
    """
    scale, variance = _units(len(s2), sigma, unit)
    c = (scale * (s2.diagonal().mT + 1 / variance)).mT.detach()
    return (c.clamp(min=0) + SMALLEST) ** -2


def probe_weight(s2: SymmetricMatrix, probe: Tensor, sigma: float | Tensor, unit: Tensor | None = None) -> Tensor:
    """`D²/c³` with `c = vᵀCov v/v̄` as it is predicted, held fixed: the weight of each probe v in
    `second_derivative_matching`, with which κ3 is compared in units of the standard deviation along v; v̄ = σ² where
    there is one noise level.

    Args:
        s2: at n points.
        probe: v, `(n, D)`; of the length √D, as those of `predicted` are.
        sigma, unit: see `trace_weight`.

    Returns:
        `(n,)`, without units.

    Source: ours.
    """
    scale, variance = _units(len(s2), sigma, unit)
    c = (scale * (s2.quadratic(probe) + probe.square().sum(1) / variance)).detach()
    return probe.shape[1] ** 2 / c.clamp(min=SMALLEST * probe.shape[1]) ** 3


def _units(count: int, sigma: float | Tensor, unit: Tensor | None) -> tuple[float | Tensor, float | Tensor]:
    """σ⁴/v and σ² of so many points, a number or `(count,)` each: `Cov/v = σ⁴/v (s2 + I/σ²)`."""
    variance = _of_each_point(sigma, count) ** 2
    return variance if unit is None else _of_each_point(unit, count), variance


def _of_each_point(values: float | Tensor, count: int) -> float | Tensor:
    """`(B, 1)` as `(count,)`, repeated; a number as it is."""
    if not isinstance(values, Tensor) or not values.ndim:
        return values
    return values.flatten().repeat(count // len(values))


def signs(normal: Tensor, covariance: SymmetricMatrix, e: Tensor) -> Tensor:
    """±1: every direction alike."""
    return normal.sign()


def standard_normal(normal: Tensor, covariance: SymmetricMatrix, e: Tensor) -> Tensor:
    """N(0, I): every direction alike, and every entry of a tensor of order three seen."""
    return normal


def predicted(normal: Tensor, covariance: SymmetricMatrix, e: Tensor) -> Tensor:
    """`Cov ξ`, of the length √D: the directions of large predicted variance."""
    v = covariance.detach().matvec(normal)
    return v * (v.shape[1] ** 0.5 / v.norm(dim=1, keepdim=True))


def residual(normal: Tensor, covariance: SymmetricMatrix, e: Tensor) -> Tensor:
    """The denoiser's own error, of the length √D: the directions of large variance, predicted or not."""
    return e * (e.shape[1] ** 0.5 / e.norm(dim=1, keepdim=True))


PROBES: dict[str, Callable[[Tensor, SymmetricMatrix, Tensor], Tensor]] = {
    "signs": signs,
    "normal": standard_normal,
    "predicted": predicted,
    "residual": residual,
}
"""From standard normal numbers `(B, D)`, the predicted Cov[x|x̃] at x + σz and the residual e there, probes `(B, D)`."""


@torch.no_grad()
def draw_probes(name: str, normal: Tensor, sigma: float | Tensor, z: Tensor, s1: Tensor, s2: SymmetricMatrix) -> Tensor:
    """Probes of a kind at noisy points.

    Args:
        name: in `PROBES`.
        normal: standard normal numbers, `(B, D)`.
        sigma: σ, a number or `(B, 1)`.
        z: the noise, `(B, D)`.
        s1, s2: the scores at the noisy points, `(B, D)` and B matrices.

    Returns:
        `(B, D)`, outside the graph of gradients.
    """
    return PROBES[name](normal, sigma**4 * s2.detach() + sigma**2, z + sigma * s1)


def _jacobian(
    s1: Tensor, s2: SymmetricMatrix, p: Perturbation, weight: Tensor | None, probe: Tensor, product: Tensor
) -> Tensor:
    return jacobian_matching(s2, probe, product, weight)


def centered_and_jacobian(
    s1: Tensor,
    s2: SymmetricMatrix,
    p: Perturbation,
    weight: Tensor | None,
    probe: Tensor,
    product: Tensor,
    jacobian_weight: float = 10.0,
) -> Tensor:
    """Both kinds of target: the residual knows of the denoiser's error, the probe has no noise."""
    centered = d2sm_centered(s1, s2, p, weight)
    return centered + jacobian_weight * jacobian_matching(s2, probe, product, weight) / probe.shape[1]


def _third_centered(
    s1: Tensor, s2: Any, s3: SymmetricCP, p: Perturbation, weight: Tensor | None, entries: Tensor
) -> Tensor:
    """The tensor as a whole, in whose norm uncertain entries count, and its diagonal, in which all do."""
    return d3sm_centered(s1, s3, p, weight) + d3sm_diagonal(s1, s3, p, entries)


def _second_derivative(
    s1: Tensor, s2: Any, s3: SymmetricCP, p: Perturbation, weight: Tensor | None, probe: Tensor, product: Tensor
) -> Tensor:
    return second_derivative_matching(
        s3[: len(probe)], probe, product, None if weight is None else weight[: len(probe)]
    )


def centered_and_second_derivative(
    s1: Tensor,
    s2: Any,
    s3: SymmetricCP,
    p: Perturbation,
    weight: Tensor | None,
    entries: Tensor,
    along: Tensor,
    probe: Tensor,
    product: Tensor,
    derivative_weight: float = 10.0,
) -> Tensor:
    """Both kinds of target, see `centered_and_jacobian`."""
    matched = second_derivative_matching(s3[: len(probe)], probe, product, along)
    return _third_centered(s1, s2, s3, p, weight, entries) + derivative_weight * matched


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
        "jacobian": Objective(dsm_vr, _jacobian, points=("plus", "clean"), s2_points=("plus",), probes="signs"),
        "jacobian_predicted": Objective(dsm, _jacobian, s2_points=("plus",), probes="predicted"),
        "jacobian_residual": Objective(dsm, _jacobian, s2_points=("plus",), probes="residual"),
        "centered_jacobian": Objective(
            dsm, centered_and_jacobian, s2_points=("plus",), probes="predicted", weighted=True
        ),
        "nppc": Objective(dsm, nppc, s2_points=("plus",), orthogonal=True),
    },
}


def _beside(name: str, third_order: Callable[..., Tensor], points: tuple[str, ...], **probes: Any) -> Objective:
    """An objective of the second order with a third beside it."""
    return replace(OBJECTIVES[2][name], third_order=third_order, s3_points=points, **probes)


OBJECTIVES[3] = {
    "dsm": _beside("dsm", d3sm, ("plus",)),
    "dsm_vr": _beside("dsm_vr", d3sm_vr, ("plus", "minus")),
    "centered": _beside("centered", _third_centered, ("plus",)),
    "jacobian": _beside("jacobian", _second_derivative, ("plus",), third_probes="normal"),
    "centered_jacobian": _beside(
        "centered_jacobian", centered_and_second_derivative, ("plus",), third_probes="predicted"
    ),
    "centered_derivative": _beside(
        "centered", centered_and_second_derivative, ("plus",), third_probes="predicted", third_of="s2"
    ),
}
"""By the highest order that is trained, and by the name in the configuration (`loss`)."""

OBJECTIVE_NAMES = tuple(dict.fromkeys(name for table in OBJECTIVES.values() for name in table))
