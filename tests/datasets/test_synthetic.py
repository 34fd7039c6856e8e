"""The named densities, and points of them as a data set."""

import math

import pytest
import torch

import datasets
from configs import Config


@pytest.mark.parametrize("name", datasets.DENSITIES)
def test_each_name_makes_a_density_that_can_be_drawn_from(name):
    density = datasets.DENSITIES[name](2)
    points = density.sample(50, torch.Generator().manual_seed(0))
    assert (density.shape, points.shape, points.dtype) == ((2,), (50, 2), torch.float32)
    assert density.log_prob(points, 0.1).isfinite().all()


@pytest.mark.parametrize("split", ["train", "test"])
def test_points_of_a_batch_follow_from_its_indices(split):
    data = datasets.load(Config(data={"dataset": "Synthetic", "density": "rings", "size": 64}), split)
    assert (len(data), data.shape) == (64, (2,))
    rows = datasets.epoch_order(64, 16, seed=0, epoch=0)
    points = torch.cat(list(datasets.batches(data, rows)))
    assert torch.equal(points, torch.cat(list(datasets.batches(data, rows))))
    assert len(points.unique(dim=0)) == 64
    seed = 2 * (int(rows[0, 0]) + 64 * int(rows[0, 1])) + (split == "test")
    expected = datasets.rings().sample(16, torch.Generator().manual_seed(seed))
    assert torch.equal(points[:16], expected)


def test_a_fixed_set_has_so_many_points_in_every_epoch():
    section = {"dataset": "Synthetic", "density": "rings", "size": 64, "points": 10}
    train, test = (datasets.load(Config(data=section), split) for split in ("train", "test"))
    epochs = [torch.cat(list(datasets.batches(train, datasets.epoch_order(64, 16, 0, epoch)))) for epoch in (0, 1)]
    assert all(len(points.unique(dim=0)) == 10 for points in epochs)
    assert torch.equal(epochs[0].unique(dim=0), epochs[1].unique(dim=0))
    assert test.points is None
    tested = torch.cat(list(datasets.batches(test, datasets.epoch_order(64, 16, 0, 0))))
    assert len(tested.unique(dim=0)) == 64


@pytest.mark.parametrize(
    ("name", "dimension", "size"),
    [("varied_logistics", 50, 26.4), ("paper_logistics", 50, 26.4), ("independent_normal", 100, 43.8)],
)
def test_mixtures_of_the_paper_have_its_size_of_s2(name, dimension, size):
    """Which its errors of plain DSM at σ = 0.01 to 0.1 say: it learns nothing there."""
    density = datasets.DENSITIES[name](dimension)
    x = density.sample(4000, torch.Generator().manual_seed(0)).double()
    diagonals = torch.cat([density.s2(part, 0.1).diagonal(dim1=1, dim2=2) for part in x.split(500)])
    assert float(diagonals.square().sum(1).mean()) == pytest.approx(size, rel=0.03)


def test_draws_are_those_of_the_checkpoints_and_reports():
    """A change of the random numbers would be a change of every number that was reported with them."""
    expected = {
        "normal": [0.375493526, 0.12313661],
        "logistics": [-0.541992128, -0.508713901],
        "gaussians": [-0.868848026, -0.80890286],
        "two_moons": [-0.959257543, 0.51074928],
        "rings": [1.20385325, -1.47223079],
        "checkerboard": [-0.944882035, -0.946139991],
    }
    for name, point in expected.items():
        data = datasets.DensityData(datasets.DENSITIES[name](2), 100, "train", torch.device("cpu"))
        torch.testing.assert_close(data.draw(torch.arange(3))[-1], torch.tensor(point), rtol=1e-6, atol=1e-7)


def test_two_moons_are_those_of_scikit_learn():
    from sklearn.datasets import make_moons

    points = torch.from_numpy(make_moons(40, noise=None)[0])
    density = datasets.two_moons(0.05)
    # on the arcs, away from their ends, the density is that of a line: 1/(2π spread) for each unit of length
    on_arcs = density.log_prob(points[(points[:, 1] - 0.25).abs() > 0.5])
    expected = -math.log(2 * math.pi * math.sqrt(2 * math.pi) * 0.05)
    torch.testing.assert_close(on_arcs, torch.full_like(on_arcs, expected), rtol=0, atol=0.01)
