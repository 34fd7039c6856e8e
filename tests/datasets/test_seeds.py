"""Against NumPy's Mersenne twister, and by counting what is drawn twice."""

import numpy as np
import pytest
import torch

import datasets
from configs import Config
from datasets import derived_seed, generator_of
from datasets.images import EPOCHS
from experiments import mixing
from runners.distributed import World
from runners.state import TrainingState

BIG = [2**32, 2**32 + 1, 2**33 + 1, 2**63 - 1]


def test_a_small_seed_is_torchs_own():
    for seed in (0, 1234, 2**32 - 1):
        expected = torch.randn(20, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.randn(20, generator=generator_of(seed)), expected)
    assert generator_of(None) is None


@pytest.mark.parametrize("seed", BIG)
def test_a_big_seed_fills_the_whole_state(seed):
    """The same state in NumPy's generator gives the same numbers."""
    twister = np.random.MT19937(0)
    key = np.random.SeedSequence(seed).generate_state(624)
    twister.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": 624}}
    drawn = torch.randint(0, 2**20, (2000,), generator=generator_of(seed))  # 32 bits each, modulo the bound
    assert np.array_equal(drawn.numpy(), twister.random_raw(2000) % 2**20)


def test_numbers_of_big_seeds_are_normal():
    values = torch.randn(4, 50_000, generator=generator_of(2**40 + 1), dtype=torch.float64)
    assert values.mean().abs() < 5 / 200_000**0.5
    assert (values.square().mean() - 1).abs() < 5 * (2 / 200_000) ** 0.5


def test_no_two_share_a_draw():
    """Seeds that agree in 32 bits, and uses of seeds that agree in their sum."""
    seeds = [1, 2, *BIG, *(derived_seed(seed, number) for seed in (0, 1, 2, 2**62) for number in range(4))]
    first = torch.stack([torch.randn(4, generator=generator_of(seed)) for seed in seeds])
    assert len(first.flatten().unique()) == 4 * len(seeds)


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, "1", True])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed is .*; a whole number from 0 to 2⁶³ − 1 is expected"):
        generator_of(seed)


class TestOrders:
    def test_of_small_seeds_are_those_of_the_checkpoints(self):
        """A change of them would be a change of every network that was trained."""
        expected = torch.randperm(50, generator=torch.Generator().manual_seed(1234 * 1_000_003 + 7))
        assert torch.equal(datasets.epoch_order(50, 50, seed=1234, epoch=7)[0], expected)

    def test_are_shared_by_no_two_seeds_and_epochs(self):
        """Among them pairs whose number, seed · EPOCHS + epoch, is the same, or the same in 32 bits."""
        near = (2**32 // EPOCHS + 1) * EPOCHS - 2**32
        pairs = [(s, e) for s in (0, 1, 5, 2**31, 2**32, 2**62 + 5) for e in (0, 1, EPOCHS, 2 * EPOCHS)]
        pairs += [(2**32 // EPOCHS + 1, 0), (0, near)]
        orders = {tuple(datasets.epoch_order(40, 40, seed, epoch)[0].tolist()) for seed, epoch in pairs}
        assert len(orders) == len(pairs)


def state_of(seed: int) -> TrainingState:
    config = Config(
        runner="SyntheticRunner", seed=seed, data={"dataset": "Synthetic"}, model={"network": "mlp", "ngf": 8}
    )
    return TrainingState(config, (2,), World(torch.device("cpu")))


def test_weights_and_noise_of_a_run_follow_from_all_bits_of_its_seed():
    states = [state_of(seed) for seed in (5, 2**32 + 5)]
    weights = [torch.cat([weight.flatten() for weight in state.network.parameters()]) for state in states]
    assert not torch.equal(*weights)
    assert not torch.equal(*(state.draw(torch.randn, 3) for state in states))


def test_runs_that_change_their_device_share_no_noise():
    """Neither those whose seed and step have one sum, nor with that of a beginning."""
    noise = [state_of(12).draw(torch.randn, 3)]
    for seed, step in ((10, 2), (11, 1), (12, 0)):
        state = state_of(seed)
        saved = state.state_dict() | {"step": step, "generator": ("cuda", torch.empty(0))}
        state.load_state_dict(saved)
        noise.append(state.draw(torch.randn, 3))
    assert len(torch.cat(noise).unique()) == torch.cat(noise).numel()


def test_points_of_a_large_set_are_not_those_of_others():
    data = datasets.DensityData(datasets.rings(), 10**5, "train", torch.device("cpu"))
    first, other = torch.tensor([8, 0]), torch.tensor([8 + 2**31 % 10**5, 2**31 // 10**5])  # 2³² apart
    assert not torch.equal(data.draw(first), data.draw(other))


def test_draws_and_chains_of_the_mixing_experiment_share_nothing():
    drawn = [torch.randn(4, generator=generator_of(seed)) for seed in (0, 1)]  # of the chains

    def draw(count, seed):
        drawn.append(torch.randn(4, generator=generator_of(seed)))
        return torch.randn(count, 2, generator=generator_of(seed))

    target = mixing.Target(datasets.gaussians().at(0.1), draw, unit=0.1, steps=2, crowd=(10, 2))
    for seed in (0, 1):
        mixing.mixing_of(target, grid=[], chains=4, seed=seed)
    assert len(torch.cat(drawn).unique()) == 4 * 8
