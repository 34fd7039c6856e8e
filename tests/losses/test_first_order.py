import pytest
import torch

import losses
from losses import perturb

FILES = ["losses_B3_D12_r4.npz", "losses_B4_D20_r3.npz"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_equal_the_published_losses(reference, file, as_tensor):
    numbers = reference(file)
    sigma = round(float(numbers["sigma"]), 6)  # 0.1 and 0.5, kept as float32 in the files
    if as_tensor:
        sigma = torch.full((len(numbers["clean"]), 1), sigma, dtype=torch.float64)
    p = perturb(numbers["clean"], sigma, antithetic=True, noise=numbers["noise"])
    s1 = torch.cat([numbers["s1_plus"], numbers["s1_minus"], numbers["s1_clean"]])
    torch.testing.assert_close(losses.dsm(s1, p), numbers["loss_dsm"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(losses.dsm_vr(s1, p), numbers["loss_dsm_vr"], rtol=1e-10, atol=1e-10)


def test_order_and_shape_of_the_points():
    x, z = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.equal(perturb(x, 0.5, noise=z).inputs, x + 0.5 * z)
    p = perturb(x, 0.5, antithetic=True, noise=z)
    assert torch.equal(p.inputs, torch.cat([x + 0.5 * z, x - 0.5 * z, x]))
    assert torch.equal(p.at("minus", p.inputs), x - 0.5 * z)
    p = perturb(x, 0.5, noise=z, with_clean=True)
    assert torch.equal(p.at("clean", p.inputs), x)
    assert perturb(x, torch.full((4, 1), 0.5)).inputs.shape == (4, 3)


def test_noise_has_the_stated_level():
    torch.manual_seed(0)
    p = perturb(torch.zeros(1000, 100), 0.3)
    assert p.inputs.std().item() == pytest.approx(0.3, rel=0.01)


def test_wrong_shapes_are_refused():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="flatten each point"):
        perturb(x[None], 0.5)
    with pytest.raises(ValueError, match="noise has shape"):
        perturb(x, 0.5, noise=x[:2])
    with pytest.raises(ValueError, match="sigma has shape"):
        perturb(x, torch.ones(3))
    with pytest.raises(ValueError, match="do not include those at 'clean'"):
        losses.dsm_vr(x, perturb(x, 0.5))


@pytest.mark.parametrize("name", ["dsm", "dsm_vr"])
def test_the_minimiser_is_the_exact_score(name):
    """For x ~ N(0, C), s1(x̃) = −(C + σ²I)⁻¹ x̃: among linear maps s1 = W x̃ the losses' gradient vanishes there,
    within five standard errors of 200 000 samples, and at W / 2 it does not."""
    torch.manual_seed(1)
    sigma, root = 0.4, torch.tensor([[1.0, 0.0], [0.8, 0.3]], dtype=torch.float64)
    x = torch.randn(200_000, 2, dtype=torch.float64) @ root.T
    exact = -torch.linalg.inv(root @ root.T + sigma**2 * torch.eye(2, dtype=torch.float64))
    p = perturb(x, sigma, with_clean=True)

    def gradient(w: torch.Tensor) -> torch.Tensor:
        """Of the loss in W, in twenty parts."""
        parts = []
        for rows in torch.arange(len(x)).split(len(x) // 20):
            part = perturb(x[rows], sigma, noise=p.noise[rows], with_clean=True)
            leaf = w.clone().requires_grad_()
            getattr(losses, name)(part.inputs @ leaf.T, part).backward()
            parts.append(leaf.grad)
        return torch.stack(parts)

    parts = gradient(exact)
    assert (parts.mean(0).abs() < 5 * parts.std(0) / 20**0.5).all()
    parts = gradient(exact / 2)  # the mean is 2 (W/2 · C̃ + I) = I, with C̃ the covariance of x̃
    torch.testing.assert_close(parts.mean(0), torch.eye(2, dtype=torch.float64), atol=0.05, rtol=0)


def test_variance_reduction_at_small_noise():
    """At σ = 0.001 the spread of DSM-VR over the noise stays bounded where DSM's grows like 1/σ²."""
    torch.manual_seed(0)
    x = torch.randn(64, 5, dtype=torch.float64)

    def spread(name: str) -> float:
        values = []
        for _ in range(50):
            p = perturb(x, 0.001, with_clean=True)
            values.append(getattr(losses, name)(-p.inputs, p))
        return torch.stack(values).std().item()

    assert spread("dsm_vr") < 1
    assert spread("dsm") > 1e4
