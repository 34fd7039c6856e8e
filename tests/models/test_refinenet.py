import pytest
import torch

from models import LowRankHead, RefineNet
from models.published import network_states, refinenet_state
from tests.published_networks import fill, low_rank_shapes, shapes


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_equals_the_published_network(reference, channels, size):
    numbers = reference(f"refinenet_ngf8_{channels}x{size}x{size}.npz")
    network = RefineNet(channels, size, ngf=8)
    network.load_state_dict(refinenet_state(fill(shapes(channels, channels))))
    torch.testing.assert_close(network(numbers["input"]), numbers["output"], atol=1e-4, rtol=0)


def test_low_rank_head_equals_the_published_network(reference):
    numbers = reference("low_rank_s2_ngf8_rank4_1x28x28.npz")
    head = LowRankHead(RefineNet(1, 28, ngf=8), RefineNet(1, 28, ngf=8, out_channels=4), rank=4)
    networks = network_states(fill(low_rank_shapes(rank=4)))
    head.diagonal.load_state_dict(networks["diagonal"])
    head.factor.load_state_dict(networks["factor"])
    s2 = head(numbers["input"])
    torch.testing.assert_close(s2.alpha, numbers["diagonal"], atol=1e-4, rtol=0)
    torch.testing.assert_close(s2.beta, numbers["factor"], atol=1e-4, rtol=0)


def test_every_published_name_has_a_place_at_the_published_width():
    network = RefineNet(1, 28, ngf=64)
    state = refinenet_state({name: torch.zeros(shape) for name, shape in shapes(1, 1, ngf=64).items()})
    assert len(state) == 173
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }


def test_takes_flat_vectors_and_images_alike():
    network = RefineNet(3, 8, ngf=4, out_channels=6)
    x = torch.randn(2, 3, 8, 8)
    assert network(x).shape == (2, 6 * 64)
    assert torch.equal(network(x), network(x.flatten(1)))


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    network = RefineNet(1, 8, ngf=4).double()
    x = torch.randn(3, 64, dtype=torch.float64)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]))


@pytest.mark.parametrize("size", [2, 7])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match="even sizes from 4 on"):
        RefineNet(1, size, ngf=4)


def test_inputs_of_another_size_are_refused():
    with pytest.raises(ValueError, match="does not hold images"):
        RefineNet(1, 8, ngf=4)(torch.zeros(2, 65))
