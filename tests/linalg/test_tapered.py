"""Against dense matrices in float64; see also `test_matrices`, which every kind of matrix passes."""

from dataclasses import replace

import pytest
import torch

from linalg import DiagonalPlusLowRank, TaperedLowRank, block_krylov, logdet_estimate, tapered

close = torch.testing.assert_close
INFINITE = torch.inf


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(shape=(3, 4, 5), ranges=(0.7, 2.0, 2.0, 2.0, 2.0, 1.5, INFINITE), batch=3, dtype=torch.float64):
    dimension = shape[0] * shape[1] * shape[2]
    alpha = normal(batch, dimension, seed=0).abs() + 0.1
    beta = normal(batch, dimension, len(ranges), seed=1) / dimension**0.5
    ranges = torch.tensor(ranges, dtype=torch.float64)
    return TaperedLowRank(alpha.to(dtype), beta.to(dtype), ranges.to(dtype), shape)


def taper(ranges: torch.Tensor, shape) -> torch.Tensor:
    """Entry by entry, `(r, D, D)`."""
    places = [(h, w) for _ in range(shape[0]) for h in range(shape[1]) for w in range(shape[2])]
    squares = torch.tensor([[float((a - c) ** 2 + (b - d) ** 2) for c, d in places] for a, b in places])
    return torch.exp(-squares.double() * ranges[:, None, None] ** -2 / 2)


def dense(m: TaperedLowRank) -> torch.Tensor:
    products = m.beta.mT[:, :, :, None] * m.beta.mT[:, :, None]
    return torch.diag_embed(m.alpha) + (products * taper(m.ranges, m.shape)).sum(1)


def smooth_fields(batch: int, shape, seed: int = 0, dtype=torch.float32, window: float = 3.0) -> TaperedLowRank:
    """Like those of a trained network: a smooth α, columns that are smooth and live where the strokes are."""
    channels, height, width = shape

    def field(count, length, seed):
        noise = normal(batch, count, height, width, seed=seed)
        tall, wide = (torch.arange(size, dtype=torch.float64) for size in (height, width))
        tall, wide = (torch.exp(-((x[:, None] - x) ** 2) / (2 * length**2)) for x in (tall, wide))
        tall, wide = (k / k.square().sum(1).sqrt()[:, None] for k in (tall, wide))
        return tall @ noise @ wide.mT

    alpha = 0.02 * torch.exp(0.7 * field(channels, 3.0, seed))
    strokes = torch.sigmoid(3 * field(1, window, seed + 1) - 1).repeat(1, channels, 1, 1)
    size = torch.linspace(0.15, 0.06, 16, dtype=torch.float64)
    beta = field(16 * channels, 1.5, seed + 2).view(batch, 16, channels, height, width) * strokes[:, None]
    beta = (size[:, None, None, None] * beta).flatten(2).mT
    ranges = torch.tensor([2.0] * 4 + [4.0] * 6 + [8.0] * 3 + [INFINITE] * 3)
    return TaperedLowRank(alpha.flatten(1).to(dtype), beta.to(dtype), ranges.to(dtype), shape)


@pytest.mark.parametrize("shape", [(1, 6, 3), (3, 4, 5)])
@pytest.mark.parametrize("each", ["squared norm", "quadratic", "trace", "product", "inner", "solve", "logdet"])
def test_gradients_to_all_it_is_made_of(shape, each):
    """Columns of one range have gradients of their own to it: it may be learned for each."""
    m, other = make(shape), make(shape, (1.0, INFINITE))
    v = normal(3, m.dimension, 2, seed=5)
    ours, exact = {
        "squared norm": (lambda m: m.squared_norm(), lambda d: d.square().sum((1, 2))),
        "quadratic": (lambda m: m.quadratic(v), lambda d: torch.einsum("bik,bij,bjk->bk", v, d, v)),
        "trace": (lambda m: m.trace(), lambda d: d.diagonal(dim1=1, dim2=2).sum(1)),
        "product": (lambda m: m @ v, lambda d: d @ v),
        "inner": (lambda m: m.inner(other), lambda d: (d * dense(other)).sum((1, 2))),
        "solve": (lambda m: m.solve(v), lambda d: torch.linalg.solve(d, v)),
        "logdet": (lambda m: m.logdet(), torch.logdet),
    }[each]
    values, gradients = [], []
    for function, form in ((ours, lambda m: m), (exact, dense)):
        leaves = [part.clone().requires_grad_() for part in (m.alpha, m.beta, m.ranges)]
        value = function(form(TaperedLowRank(*leaves, shape)))
        weights = torch.linspace(0.5, 2, value.numel(), dtype=torch.float64).view(value.shape)
        gradients.append(
            torch.autograd.grad((weights * value).sum(), leaves, materialize_grads=True, allow_unused=True)
        )
        values.append(value)
    close(*values, rtol=1e-10, atol=1e-11)
    assert gradients[1][2][0] != 0 or each == "trace"
    for one, expected in zip(*gradients, strict=True):
        close(one, expected, rtol=1e-9, atol=1e-10)


def test_squared_norm_in_pieces_of_a_batch(monkeypatch):
    m = make(batch=7)
    expected = dense(m).square().sum((1, 2))
    for entries in (1, 500, 2**20):
        monkeypatch.setattr("linalg.tapers.CACHED_ENTRIES", entries)
        close(m.squared_norm(), expected)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 20), (1, 100, 3)])
def test_single_precision(shape):
    m = smooth_fields(2, shape)
    exact = m.to(torch.float64)
    v = normal(2, m.dimension, seed=3)
    for ours, expected in (
        (m @ v.float(), exact.dense() @ v[:, :, None]),
        (m.quadratic(v.float()), exact.quadratic(v)),
        (m.squared_norm(), exact.dense().square().sum((1, 2))),
        (m.solve(v.float()), torch.linalg.solve(exact.dense(), v)),
    ):
        assert ours.dtype == torch.float32
        close(ours.double(), expected.view(ours.shape), rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_a_taper_of_any_range():
    """From hardly any neighbour to the whole image, where it is plain low rank."""
    m = make(ranges=(1e-3, 1e6))
    off = m.beta[:, :, 1:] @ m.beta[:, :, 1:].mT
    same = taper(torch.tensor([1e-3]).double(), m.shape)[0]
    close(m.dense(), torch.diag_embed(m.alpha) + off + same * (m.beta[:, :, :1] @ m.beta[:, :, :1].mT))
    plain = make(ranges=(INFINITE, INFINITE))
    close(plain.dense(), DiagonalPlusLowRank(plain.alpha, plain.beta).dense())
    with pytest.raises(ValueError, match="beta has no columns; a diagonal matrix is a DiagonalPlusLowRank"):
        make(ranges=())


@pytest.mark.parametrize("window", [1.5, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenpairs_without_the_dense_problem(dtype, window):
    m = smooth_fields(4, (1, 28, 28), dtype=dtype, window=window)
    expected = torch.linalg.eigvalsh(m.dense().double()).flip(1)[:, :5]
    values, vectors = m.eigh_top(5)
    tolerance = torch.finfo(dtype).eps ** 0.5
    close(values.double(), expected, rtol=tolerance, atol=0)
    residual = (m @ vectors - vectors * values[:, None]).norm(dim=1)
    assert (residual < 1.01 * tolerance * values[:, :1]).all()
    close(vectors.mT @ vectors, torch.eye(5, dtype=dtype).expand(4, 5, 5), rtol=0, atol=1e-5)
    _, rough = m.eigh_top(5, tolerance=0.05)
    close(rough.mT @ rough, torch.eye(5, dtype=dtype).expand(4, 5, 5), rtol=0, atol=1e-5)
    assert (m.quadratic(rough).double().sum(1) > 0.995 * expected.sum(1)).all()


@pytest.mark.parametrize("tolerance", [None, 0.05])
@pytest.mark.parametrize("kind", ["axis", "no gaps", "constant", "double"])
def test_eigenpairs_that_are_hard_to_find(kind, tolerance):
    m = smooth_fields(2, (1, 18, 18), dtype=torch.float64)
    if kind == "axis":  # that no column reaches
        m.alpha[:, 77] += 20
        m.beta[:, 77] = 0
    elif kind == "no gaps":
        m = replace(m, alpha=normal(2, 324, seed=0).abs(), beta=0.01 * m.beta)
    elif kind == "constant":
        m = replace(m, alpha=torch.ones_like(m.alpha), beta=0 * m.beta)
    elif tolerance is None:
        m.alpha[:, [5, 77, 200]] += 20
        m.alpha[:, [5, 77, 200]] = 30
        m.beta[:, [5, 77, 200]] = 0
    values, vectors = m.eigh_top(5, tolerance)
    expected = torch.linalg.eigvalsh(m.dense()).flip(1)[:, :5]
    close(values, expected, rtol=0, atol=(1e-8 if tolerance is None else 0.05) * float(expected.max()))
    close(vectors.mT @ vectors, torch.eye(5, dtype=torch.float64).expand(2, 5, 5))


def test_determinants_of_large_matrices_are_estimated():
    m = smooth_fields(2, (1, 40, 27), dtype=torch.float64)
    m = replace(m, alpha=m.alpha.requires_grad_(), ranges=m.ranges.requires_grad_())
    value, error = logdet_estimate(m)
    exact = torch.logdet(m.dense())
    assert ((value - exact).abs() < 4 * error).all()
    assert (error < 0.01 * m.dimension).all()
    close(m.logdet(), value)  # D = 1080: the same every time
    ours, expected = (torch.autograd.grad(one.sum(), (m.alpha, m.ranges)) for one in (value, exact))
    assert (ours[0] - expected[0]).norm() < 0.5 * expected[0].norm()  # entry by entry it is noisy; the sums are not
    close(ours[0].sum(), expected[0].sum(), rtol=0.05, atol=0)
    close(ours[1].sum(), expected[1].sum(), rtol=0.1, atol=0)


@pytest.mark.parametrize("way", ["by pieces", "by products", "in double precision"])
def test_whitening_of_large_matrices(monkeypatch, way):
    """Against the dense form in float64; by products the length is near, and the determinant an estimate."""
    m, v = smooth_fields(3, (1, 20, 20)), normal(3, 400, seed=7)
    if way == "by products":
        monkeypatch.setattr(tapered, "FACTORISED_UP_TO", 300)
    elif way == "by pieces":
        monkeypatch.setattr(tapered, "CACHED_ENTRIES", 2 * 400**2)
    else:
        m = replace(m, alpha=1e-8 * m.alpha)  # Cholesky factors in single precision are wrong, or there are none
    white, logdet = m.whiten(v.float())
    exact = m.to(torch.float64).dense()
    close(white.square().sum(1).double(), (v * torch.linalg.solve(exact, v)).sum(1), rtol=1e-3, atol=0)
    close(logdet.double(), torch.logdet(exact), rtol=0, atol=1e-5 * 400)


def test_draws_have_the_tapers():
    m = smooth_fields(1, (3, 5, 6), dtype=torch.float64)
    draws = m.draw(20000, torch.Generator().manual_seed(0))[:, 0]
    exact = dense(m)[0]
    spread = ((exact.diagonal()[:, None] * exact.diagonal() + exact.square()) / len(draws)).sqrt()
    assert ((draws.mT @ draws / len(draws) - exact).abs() < 6 * spread).all()


def test_one_batch_of_several():
    parts = [make(), make(batch=2)]
    close(TaperedLowRank.cat(parts).dense(), torch.cat([dense(part) for part in parts]))
    for misfit in ([], [make(), make(shape=(3, 5, 4))], [make(), make(ranges=(1.0,) * 7)]):
        with pytest.raises(ValueError, match="one kind is expected"):
            TaperedLowRank.cat(misfit)


def test_what_cannot_be_is_refused():
    m = make()
    for change, message in (
        ({"beta": m.beta[:, 1:]}, "does not fit"),
        ({"shape": (3, 4, 4)}, "do not have D = 60 entries"),
        ({"ranges": m.ranges[1:]}, "7 positive numbers are expected"),
        ({"ranges": -m.ranges}, "7 positive numbers are expected"),
        ({"ranges": 0 * m.ranges}, "7 positive numbers are expected"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(m, **change)
    with pytest.raises(ValueError, match="scale is negative"):
        -1.0 * m
    for ask in (lambda: (m - 1).solve(m.alpha), (m - 1).logdet):
        with pytest.raises(ValueError, match="not positive"):
            ask()
    with pytest.raises(ValueError, match="at least 2"):
        logdet_estimate(m, probes=1)
    with pytest.raises(ValueError, match="from 1 to 60"):
        m.eigh_top(61, tolerance=0.1)


def test_block_krylov_takes_it_too():
    m = smooth_fields(2, (1, 12, 12), dtype=torch.float64)
    values, _ = block_krylov(m, m._krylov_start(9), 5)
    close(values, torch.linalg.eigvalsh(m.dense()).flip(1)[:, :5])


def test_forward_derivatives_reach_products():
    """Through a matrix that is made of the point, where no graph is kept."""
    generator = torch.Generator().manual_seed(0)
    x, v, w = torch.randn(3, 2, 12, generator=generator, dtype=torch.float64)
    ranges = torch.tensor([1.5, torch.inf], dtype=torch.float64)

    def quadratic(points: torch.Tensor) -> torch.Tensor:
        beta = torch.stack([points.sin(), points.square()], dim=2)
        return TaperedLowRank(points.exp(), beta, ranges, (1, 3, 4)).quadratic(w)

    with torch.no_grad():
        _, derivative = torch.func.jvp(quadratic, (x,), (v,))
    difference = (quadratic(x + 1e-6 * v) - quadratic(x - 1e-6 * v)) / 2e-6
    torch.testing.assert_close(derivative, difference, rtol=1e-6, atol=1e-6)
