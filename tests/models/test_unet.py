import numpy as np
import pytest
import torch
from torch.func import jvp, vjp, vmap

from models.unet import DDPMUNet, Norm, ResidualBlock, UNet
from tests.conftest import REFERENCE


def ddpm_weights(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """The weights of the reference numbers: the fill rule of their README."""
    state = {}
    for number, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        w = np.sin(0.7 * np.arange(np.prod(shape)) + number)
        if len(shape) > 1:
            w = w * np.sqrt((2 if len(shape) == 4 else 1) / np.prod(shape[1:]))
        else:
            w = 0.1 * w + ("norm" in name and name.endswith("weight"))
        state[name] = torch.tensor(w.reshape(shape), dtype=torch.float32)
    return state


def small(size=(8, 8), channels=1, **arguments) -> UNet:
    """A network in float64 whose last convolution does not begin at zero."""
    torch.manual_seed(0)
    arguments = {"widths": (8, 16), "last_scale": 1.0} | arguments
    return UNet(channels, size, **arguments).double()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# -- The published form


def test_equals_the_published_network(reference):
    numbers = reference("ddpm_unet_ch32_mult12_blocks1_attn8_3x16x16.npz")
    network = DDPMUNet(image_size=16, ch=32, multipliers=(1, 2), blocks=1, attention=(8,)).eval()
    network.load_state_dict(ddpm_weights({name: value.shape for name, value in network.state_dict().items()}))
    output = network(numbers["input"], numbers["t"])
    torch.testing.assert_close(output, numbers["output"], atol=1e-4, rtol=0)


def test_names_and_shapes_are_those_of_the_published_cifar10_network():
    with torch.device("meta"):
        state = DDPMUNet().state_dict()
    found = [" ".join([name, *map(str, value.shape)]) for name, value in state.items()]
    assert found == (REFERENCE / "ddpm_cifar10_parameters.txt").read_text().splitlines()


@pytest.mark.parametrize("size", [(10, 14), (7, 13)])
def test_the_published_form_takes_other_sizes(size):
    network = DDPMUNet(1, 16, ch=32, multipliers=(1, 1, 1), blocks=1, attention=(4,))
    assert network(torch.randn(2, 1, *size), torch.tensor([0, 999])).shape == (2, 1, *size)


def test_the_published_form_takes_multiples_of_its_groups():
    with pytest.raises(ValueError, match="multiples of 32"):
        DDPMUNet(ch=48)


# -- The fast form


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (6, 11), (5, 4)])
@pytest.mark.parametrize("positions", [True, False])
def test_any_size(size, positions):
    network = small(size, channels=2, out_channels=6, positions=positions, widths=(8, 8, 8))
    assert network(images(3, 2, *size), torch.tensor(0.1)).shape == (3, 6, *size)


def test_images_below_the_padding_are_refused():
    with pytest.raises(ValueError, match="too small"):
        small((1, 8), widths=(8, 8, 8))(images(1, 1, 1, 8), torch.tensor(0.0))


def test_a_position_map_fixes_the_size():
    c = torch.tensor(0.0)
    assert small(positions=False)(images(1, 1, 6, 12), c).shape == (1, 1, 6, 12)
    with pytest.raises(ValueError, match="the position map is"):
        small()(images(1, 1, 6, 12), c)


def test_begins_with_outputs_of_the_size_asked_for():
    x, c = torch.randn(4, 1, 16, 16), torch.tensor(0.0)
    assert torch.equal(UNet(1, (16, 16))(x, c), torch.zeros_like(x))
    size = UNet(1, (16, 16), out_channels=64, last_scale=0.02)(x, c).std().item()
    assert 0.01 < size < 0.04


def test_an_image_depends_on_its_own_noise_level_and_on_no_other_image():
    network = small(widths=(8, 16), attention=2)
    x, c = images(3, 1, 8, 8), images(3)
    out = network(x, c)
    torch.testing.assert_close(network(x[1:2], c[1:2]), out[1:2])
    other = network(x, c + torch.tensor([0.0, 0.05, 0.0]))
    torch.testing.assert_close(other[::2], out[::2])
    assert (other[1] - out[1]).abs().max() > 1e-3


def test_without_a_noise_level():
    network = small(conditional=False)
    assert network.embed is None
    assert network(images(2, 1, 8, 8)).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="takes c"):
        small()(images(2, 1, 8, 8))


@pytest.mark.parametrize("level_bypass", [True, False])
@pytest.mark.parametrize("conditional", [True, False])
def test_the_gradient_reaches_every_parameter(conditional, level_bypass):
    network = small((7, 6), conditional=conditional, level_bypass=level_bypass, blocks=2, dropout=0.1)
    network(images(4, 1, 7, 6), images(4)).square().sum().backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # Softmax takes no notice of what is added to all of its inputs: the bias of k has gradient 0, but for rounding.
    assert [name for name in unused if not name.endswith("k.bias")] == []


@pytest.mark.parametrize("conditional", [True, False])
def test_the_level_that_the_last_norm_removes_goes_around_it(conditional):
    h = images(2, 8, 8, 8)
    for level_bypass in (True, False):
        network = small(conditional=conditional, level_bypass=level_bypass)
        embedded = network.embed(images(2)) if conditional else None
        low, high = (network._head(scale * h, embedded) for scale in (1, 3))
        assert ((low - high).abs().max() > 1e-2) == level_bypass


@pytest.mark.parametrize("size", [(8, 8), (7, 6)])
def test_forward_mode_agrees_with_finite_differences(size):
    network, c = small(size), images(2)
    x, v = images(2, 1, *size), torch.ones(2, 1, *size).double().cumsum(3)
    value, tangent = jvp(lambda x: network(x, c), (x,), (v,))
    eps = 1e-5
    torch.testing.assert_close(tangent, (network(x + eps * v, c) - network(x - eps * v, c)) / (2 * eps))
    torch.testing.assert_close(value, network(x, c))


def test_products_from_the_left_can_be_mapped():
    network, c = small((7, 6)), images(2)
    x, v = images(2, 1, 7, 6), images(3, 2, 1, 7, 6)
    _, pullback = vjp(lambda x: network(x, c), x)
    (mapped,) = vmap(pullback)(v)
    for probe, product in zip(v, mapped, strict=True):
        torch.testing.assert_close(pullback(probe)[0], product)
    _, tangent = jvp(lambda x: network(x, c), (x,), (v[0],))
    torch.testing.assert_close((tangent * v[1]).sum(), (v[0] * mapped[1]).sum())


@pytest.mark.parametrize("form", [UNet, DDPMUNet])
def test_autocast_gives_nearly_the_same_in_the_type_of_the_input(form):
    network = small().float() if form is UNet else DDPMUNet(1, 8, ch=32, multipliers=(1, 1), blocks=1)
    x, c = images(2, 1, 8, 8).float(), torch.tensor([0.1, 0.3])
    network.eval()
    exact = network(x, c)
    with torch.autocast("cpu", torch.bfloat16):
        out, pullback = vjp(lambda x: network(x, c), x)
        (product,) = pullback(x)
    out.square().sum().backward()
    assert out.dtype == product.dtype == torch.float32
    assert (out - exact).norm() < 0.03 * exact.norm()
    assert (product - vjp(lambda x: network(x, c), x)[1](x)[0]).norm() < 0.05 * product.norm()


LOCAL = {"norm": "none", "positions": False, "attention": 0, "level_bypass": False}


@pytest.mark.parametrize(("widths", "blocks"), [((8,), 1), ((8, 8), 1), ((8, 8), 2), ((8, 8, 8), 1)])
def test_a_local_network_looks_no_further_than_its_reach(widths, blocks):
    """Where the gradient of a row of outputs is not zero; it is as far as that for one of the rows."""
    size = 128 if len(widths) == 3 else 64
    network, c = small(widths=widths, blocks=blocks, **LOCAL), torch.tensor(0.1)
    for block in (module for module in network.modules() if isinstance(module, ResidualBlock)):
        block.conv2.reset_parameters()  # which begins at zero
    x = images(1, 1, size, size).requires_grad_()
    out, middle, furthest = network(x, c), size // 2, 0
    for row in range(middle, middle + network.multiple):
        (gradient,) = torch.autograd.grad(out[0, 0, row, middle], x, retain_graph=True)
        seen = gradient[0, 0].nonzero() - torch.tensor([row, middle])
        assert seen.abs().max() <= network.reach
        furthest = max(furthest, int(seen.abs().max()))
    assert furthest == network.reach


@pytest.mark.parametrize("missing", LOCAL)
def test_what_looks_at_the_whole_image_has_no_reach(missing):
    network = UNet(1, (16, 16), **{name: value for name, value in LOCAL.items() if name != missing})
    assert network.reach is None


def test_without_norms_a_block_begins_as_the_identity():
    block = UNet(1, (8, 8), widths=[4, 4], norm="none", attention=0).down[0].blocks[0]
    x = images(2, 4, 8, 8).float()
    torch.testing.assert_close(block(x, torch.randn(2, 16)), x)


def test_without_norms_scale_and_shift_stay():
    x = images(2, 4, 3, 3).float()
    norm = Norm(4, 2, "none")
    torch.nn.init.normal_(norm.affine.weight)
    embedded = torch.randn(2, 2)
    gamma, beta = norm.affine(embedded).unflatten(1, (2, 4)).unbind(1)
    expected = torch.stack([(1 + gamma[i])[:, None, None] * x[i] + beta[i][:, None, None] for i in range(2)])
    torch.testing.assert_close(norm(x, embedded), expected)
