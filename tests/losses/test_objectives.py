"""The table of objectives: what an entry asks for is what its loss takes, and its total is that of the design."""

import pytest
import torch

import losses
from datasets import GaussianMixture
from linalg import DiagonalPlusLowRank, SymmetricCP
from losses import OBJECTIVES, perturb

SIGMA = 0.5
close = torch.testing.assert_close


def needs(objective: losses.Objective, rows: int, batch: int) -> dict[str, torch.Tensor]:
    """Random values of what an objective takes by keyword."""
    options = {}
    if objective.weighted:
        options["weight"] = torch.linspace(0.5, 2, rows, dtype=torch.float64)
    if objective.probes:
        options["probe"] = torch.randn(batch, 6, dtype=torch.float64).sign()
        options["product"] = torch.randn(batch, 6, dtype=torch.float64)
    return options


def third_needs(objective: losses.Objective, rows: int, batch: int) -> dict[str, torch.Tensor]:
    """Random values of what its third order takes."""
    options = {}
    if objective.weighted:
        options["weight"] = torch.linspace(0.5, 2, rows, dtype=torch.float64)
        options["entries"] = torch.rand(batch, 6, dtype=torch.float64)
    if objective.third_probes:
        options["probe"], options["product"] = torch.randn(2, -(-batch // 4), 6, dtype=torch.float64)
        if objective.weighted:
            options["along"] = torch.rand(-(-batch // 4), dtype=torch.float64)
    return options


@pytest.mark.parametrize(("order", "name"), [(order, name) for order, table in OBJECTIVES.items() for name in table])
def test_what_it_asks_for_is_what_its_loss_takes(order, name):
    torch.manual_seed(0)
    objective = OBJECTIVES[order][name]
    p = objective.perturb(torch.randn(4, 6, dtype=torch.float64), SIGMA)
    assert p.points == objective.points
    rows = objective.rows(p)
    leaves = [torch.randn(len(p.inputs), 6, dtype=torch.float64, requires_grad=True)]
    s2, third = None, {}
    if order >= 2:
        leaves += [torch.randn(rows, 6, *more, dtype=torch.float64, requires_grad=True) for more in ((), (2,))]
        s2 = DiagonalPlusLowRank(*leaves[1:])
    if order == 3:
        count = objective.third_rows(p)
        shapes = (count, 2), (count, 6, 2), (count, 6)
        leaves += [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        third = {"s3": SymmetricCP(*leaves[3:]), "third": third_needs(objective, count, 4)}
    values = objective(p, leaves[0], s2, first_order_weight=10.0, **third, **needs(objective, rows, 4))
    names = ["loss", "first_order", "second_order", "third_order"]
    assert set(values) == ({"loss"} if order == 1 else set(names[: order + 1]))
    gradients = torch.autograd.grad(values["loss"], leaves)
    assert all((gradient != 0).any() for gradient in gradients)
    if order >= 2:
        weight = 10 if name in ("dsm", "dsm_vr") else 1
        total = weight * values["first_order"] / SIGMA**2 + values["second_order"]
        close(values["loss"], total + (SIGMA**2 * values["third_order"] if order == 3 else 0))


@pytest.mark.parametrize("name", OBJECTIVES[3])
def test_the_third_order_alone(name):
    """Where s1 and s2 are those of another run, L3 is all that is minimised, and it is the same."""
    torch.manual_seed(0)
    objective = OBJECTIVES[3][name]
    alone = objective.on_frozen_orders()
    clean, noise = torch.randn(2, 4, 6, dtype=torch.float64)
    p = objective.perturb(clean, SIGMA, noise)
    fewer = alone.perturb(clean, SIGMA, noise)
    count = objective.third_rows(p)
    assert alone.third_rows(fewer) == alone.rows(fewer) == len(fewer.inputs) == count
    s1, alpha = torch.randn(2, len(p.inputs), 6, dtype=torch.float64)
    s3 = SymmetricCP.diagonal_only(torch.randn(count, 6, dtype=torch.float64))
    options = {"s3": s3, "third": third_needs(objective, count, 4)}
    rows = objective.rows(p)
    whole = objective(p, s1, DiagonalPlusLowRank(alpha[:rows]), **options, **needs(objective, rows, 4))
    own = alone(fewer, s1[:count], DiagonalPlusLowRank(alpha[:count]), **options)
    assert set(own) == {"loss"}
    close(own["loss"], whole["third_order"])


def test_the_published_totals():
    """10·DSM-VR/σ² + D2SM on the reference heads is what the runner minimises."""
    density = GaussianMixture([1.0], torch.zeros(1, 6), torch.eye(6)[None])
    clean = density.sample(5, torch.Generator().manual_seed(0)).double()
    noise = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = perturb(clean, SIGMA, antithetic=True, noise=noise)
    s1, s2 = density.at(SIGMA)(p.inputs)
    total = OBJECTIVES[2]["dsm_vr"](p, s1, s2, first_order_weight=10.0)["loss"]
    close(total, 10 * losses.dsm_vr(s1, p) / SIGMA**2 + losses.d2sm_vr(s1, s2, p))


def test_evaluations_of_the_network():
    counts = {name: objective.evaluations for name, objective in OBJECTIVES[2].items()}
    assert counts.items() >= {"dsm": 2, "dsm_vr": 3, "centered": 1, "centered_vr": 3, "jacobian": 4}.items()
    assert (OBJECTIVES[1]["dsm"].evaluations, OBJECTIVES[1]["dsm_vr"].evaluations) == (1, 2)


class TestTraceWeight:
    s2 = DiagonalPlusLowRank(torch.tensor([[0.0, 0.0], [-2.0, -2.0], [-3.9, -4.1]], requires_grad=True))

    def test_is_the_dimension_over_the_squared_trace(self):
        """Cov/σ² = I + σ² s2: traces of 2, 1 and 0 at σ = 1/2."""
        weight = losses.trace_weight(self.s2, SIGMA)
        close(weight, torch.tensor([2 / 4, 2 / 1, 2 / 0.02**2]))
        assert not weight.requires_grad

    def test_is_in_other_units_where_levels_differ(self):
        """`unit` u = σ⁴/v: t = tr Cov/v."""
        sigma = torch.tensor([[0.5], [0.5], [0.25]])
        v = torch.tensor([[0.1], [0.2], [0.05]])
        covariance = [0.0625 * self.s2.alpha[i] + 0.25 for i in (0, 1)] + [0.25**4 * self.s2.alpha[2] + 0.25**2]
        t = torch.stack([c.sum() for c in covariance]) / v.flatten()
        close(losses.trace_weight(self.s2, sigma, sigma**4 / v), (2 / t.square()).detach())

    def test_can_be_that_of_the_batch(self):
        weight = losses.trace_weight(self.s2, SIGMA, pool=torch.mean)
        close(weight, torch.full((3,), 2.0))


@pytest.mark.parametrize("name", OBJECTIVES[3])
def test_a_level_for_each_point_is_the_mean_over_levels_of_the_third_order_too(name):
    torch.manual_seed(0)
    objective = OBJECTIVES[3][name].on_frozen_orders()
    points = 1 if objective.third_probes else 3  # of a batch every fourth has a probe
    clean, noise = torch.randn(2, points, 6, dtype=torch.float64)
    sigma = torch.tensor([[0.1], [0.5], [2.0]], dtype=torch.float64)[:points]
    unit = sigma**4 / (sigma**2 / (1 + sigma**2))
    p = objective.perturb(clean, sigma, noise)
    rows = objective.third_rows(p)
    s1, alpha, diagonal = torch.randn(3, rows, 6, dtype=torch.float64)
    s2, s3 = DiagonalPlusLowRank(alpha), SymmetricCP.diagonal_only(diagonal)
    options = third_needs(objective, rows, points)
    together = objective(p, s1, s2, s3=s3, unit=unit, third=options)["loss"]
    alone = []
    for i in range(points):
        own = slice(i, None, points)
        one = objective.perturb(clean[i : i + 1], sigma[i].item(), noise[i : i + 1])
        options_of_it = {key: value[own] if key == "weight" else value[i : i + 1] for key, value in options.items()}
        alone.append(unit[i] ** 3 * objective(one, s1[own], s2[own], s3=s3[own], third=options_of_it)["loss"])
    close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("name", OBJECTIVES[2])
def test_a_level_for_each_point_is_the_mean_over_levels(name):
    """The loss of a batch of several σ is the mean of those of its points, each in units of its own v."""
    torch.manual_seed(0)
    objective = OBJECTIVES[2][name]
    clean, noise = torch.randn(2, 3, 6, dtype=torch.float64)
    sigma = torch.tensor([[0.1], [0.5], [2.0]], dtype=torch.float64)
    unit = sigma**4 / (sigma**2 / (1 + sigma**2))
    p = objective.perturb(clean, sigma, noise)
    assert p.levels.shape == (len(p.inputs), 1)
    rows = objective.rows(p)
    s1, alpha = torch.randn(2, len(p.inputs), 6, dtype=torch.float64)
    s2 = DiagonalPlusLowRank(alpha[:rows], torch.randn(rows, 6, 2, dtype=torch.float64))
    options = needs(objective, rows, 3)
    together = objective(p, s1, s2, 10.0, unit=unit, **options)["loss"]
    alone = []
    for i in range(3):
        own = slice(i, None, 3)
        one = objective.perturb(clean[i : i + 1], sigma[i].item(), noise[i : i + 1])
        options_of_it = {key: value[own] if key == "weight" else value[i : i + 1] for key, value in options.items()}
        values = objective(one, s1[own], s2[own], **options_of_it)
        factor = 10.0 if objective.published else 1.0
        alone.append(factor * unit[i] * values["first_order"] + unit[i] ** 2 * values["second_order"])
    close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("sigma", [SIGMA, torch.full((3, 1), SIGMA, device="meta")], ids=["one level", "levels"])
def test_the_weight_is_computed_where_s2_is(sigma):
    s2 = DiagonalPlusLowRank(torch.zeros(9, 4, device="meta"))
    unit = None if isinstance(sigma, float) else sigma**2
    assert losses.trace_weight(s2, sigma, unit).device.type == "meta"


def test_levels_without_a_unit_are_refused():
    p = OBJECTIVES[1]["dsm"].perturb(torch.zeros(3, 4), torch.full((3, 1), SIGMA))
    with pytest.raises(ValueError, match="a unit for each is expected"):
        OBJECTIVES[1]["dsm"](p, torch.zeros(3, 4))
