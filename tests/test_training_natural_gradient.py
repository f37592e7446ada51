"""Natural gradient: Hessian products, eigenvectors and solvers against dense matrices of a small metric."""

from functools import cache, partial
from pathlib import Path

import pytest
import torch
from test_training_stylegan2 import tiny
from torch import Tensor, nn
from toys import resumed, same

from mi_utils.data.augment import blurred
from mi_utils.errors import UserError
from mi_utils.models import perceptual
from mi_utils.models.perceptual import Perceptual
from mi_utils.runtime import generator
from mi_utils.stage import StageFailed
from mi_utils.training import natural_gradient as ng
from mi_utils.training.preconditioners import (
    Blurred,
    ConjugateGradients,
    Euclidean,
    Nystrom,
    PerceptualBasis,
    Plain,
    Random,
    Scaled,
)

EPS_REL = 1e-3  # at loose damping every solver agrees with every other
BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
WIDTHS = (5, 6, 7, 6, 5)


def toy(dtype: torch.dtype = torch.float64) -> Perceptual:
    """A perceptual network of smooth layers that takes images of 8 px."""
    rng, before, layers = generator("toy metric"), 3, []
    for width, size in zip(WIDTHS, (3, 4, 4, 2, 2), strict=True):
        conv = nn.Conv2d(before, width, 3, padding=1)
        conv.weight.data.normal_(0, (9 * before) ** -0.5, generator=rng)
        conv.bias.data.normal_(0, 0.1, generator=rng)
        # All maps see blurred images, so that eigenvalues fall off as those of a real metric do.
        block = [nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv, nn.Softplus()]
        layers += block[-size:] + [nn.Identity()] * (size - 3)
        before = width
    heads = [torch.rand(width, generator=rng) for width in WIDTHS]
    return Perceptual("st-lpips-alex", nn.Sequential(*layers), heads).to(dtype).requires_grad_(False)


def embed(dtype: torch.dtype = torch.float64) -> ng.Embedding:
    return partial(ng.smooth_embedding, toy(dtype))


def drawn(word: str, n: int = 3, dtype: torch.dtype = torch.float64, side: int = 8) -> Tensor:
    return torch.randn(n, 3, side, side, generator=generator(word), dtype=torch.float64).to(dtype)


def hessians(e: ng.Embedding, x: Tensor) -> Tensor:
    """The Hessian of q at each image by double differentiation, (n, d, d)."""

    def q(moved: Tensor, image: Tensor) -> Tensor:
        return (e(moved.view(image[None].shape)) - e(image[None])).square().sum()

    return torch.stack([torch.autograd.functional.hessian(partial(q, image=i), i.flatten()) for i in x])


def damped(h: Tensor, relative: float = EPS_REL) -> tuple[Tensor, float]:
    """H + eps I of one matrix or of each, and eps of the first one's largest eigenvalue."""
    epsilon = relative * float(torch.linalg.eigvalsh(h.double()).flatten()[-1])
    return h.double() + epsilon * torch.eye(h.shape[-1]), epsilon


# --- products --------------------------------------------------------------------------------------------------


def test_products_are_those_of_the_hessian_of_the_distance() -> None:
    x, e = drawn("x", 2), embed()
    h = hessians(e, x)
    v = torch.stack([drawn("v", 2), drawn("u", 2)])
    torch.testing.assert_close(ng.products(e, x, v).flatten(2), torch.einsum("nde,mne->mnd", h, v.flatten(2)))
    torch.testing.assert_close(h, h.mT)


def test_products_are_the_curvature_of_the_distance_along_a_line() -> None:
    x, v, e = drawn("x"), drawn("v"), embed()
    curved = ng.dots(v, ng.products(e, x, v[None])[0])
    t = 1e-4
    torch.testing.assert_close(2 * (e(x + t * v) - e(x)).square().sum(1) / t**2, curved, rtol=1e-4, atol=0)
    assert (curved > 0).all()


def test_products_of_a_real_metric_are_never_negative() -> None:
    e = partial(ng.smooth_embedding, perceptual.load("st-lpips-alex"))
    x = torch.nn.functional.interpolate(drawn("x", 2, torch.float32, 4), (32, 32), mode="bilinear").clamp(-1, 1)
    v = torch.stack([drawn(word, 2, torch.float32, 32) for word in ("u", "v", "w")])
    seen = ng.products(e, x, v)
    assert torch.isfinite(seen).all() and ((seen * v).flatten(2).sum(2) > 0).all()


def test_the_smooth_embedding_is_the_metrics_own_where_that_has_a_derivative() -> None:
    net = perceptual.load("st-lpips-alex")
    x = torch.nn.functional.interpolate(drawn("x", 2, torch.float32, 4), (32, 32), mode="bilinear").clamp(-1, 1)
    a, b = net(x), ng.smooth_embedding(net, x)
    assert a.numel() == b.numel()
    own, smooth = ((e[0] - e[1]).square().sum().item() for e in (a, b))
    assert smooth == pytest.approx(own, rel=1e-4)
    grey = x[:, :1]
    assert torch.equal(ng.smooth_embedding(net, grey), ng.smooth_embedding(net, grey.repeat(1, 3, 1, 1)))


def test_dead_positions_have_a_derivative() -> None:
    net = toy()
    net.pieces[2] = nn.Sequential(nn.Conv2d(6, 7, 3, padding=1).double().requires_grad_(False), nn.ReLU())
    net.pieces[2][0].bias.data.fill_(-1e3)  # every channel is 0 from here on
    seen = ng.products(partial(ng.smooth_embedding, net), drawn("x"), drawn("v")[None])
    assert torch.isfinite(seen).all()


def test_chunks_of_the_mean_change_nothing() -> None:
    x, e = drawn("x", 5), embed()
    columns = torch.randn(192, 4, generator=generator("c"), dtype=torch.float64)
    found = ng.mean_products(e, x, columns, 5)
    torch.testing.assert_close(found, hessians(e, x).mean(0) @ columns)
    torch.testing.assert_close(ng.mean_products(e, x, columns, 2), found)


# --- eigenvectors ----------------------------------------------------------------------------------------------


@cache
def spectrum(k: int, dtype: torch.dtype = torch.float64) -> tuple[ng.Spectrum, Tensor]:
    """By the subspace iteration, and the dense mean Hessian."""
    x, e = drawn("x", 3, dtype), embed(dtype)
    found = ng.leading(lambda v: ng.mean_products(e, x, v, 64), x, k, 2, generator("spectrum"))
    return found, hessians(embed(), x.double()).mean(0)


def test_leading_eigenvectors_are_those_of_the_dense_matrix() -> None:
    found, h = spectrum(20)
    exact = torch.linalg.eigvalsh(h).flip(0)
    torch.testing.assert_close(found.values[:8], exact[:8], rtol=1e-2, atol=0)
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(20, dtype=torch.float64))
    assert found.trace == pytest.approx(float(h.trace()), rel=0.05)
    assert found.captured == pytest.approx(float(exact[:20].sum() / h.trace()), abs=0.05)
    assert (found.values.diff() <= 0).all()


def test_damping_does_not_go_below_what_is_known() -> None:
    few, all_of_it = spectrum(5)[0], spectrum(192)[0]
    assert few.epsilon(EPS_REL) == float(few.values[-1]) > EPS_REL * float(few.values[0])
    assert all_of_it.epsilon(EPS_REL) == pytest.approx(EPS_REL * float(all_of_it.values[0]))
    assert all_of_it.captured == pytest.approx(1, abs=1e-9)


@BOTH
def test_all_eigenvectors_together_are_the_dense_solution(dtype: torch.dtype) -> None:
    found, h = spectrum(192, dtype)
    a, epsilon = damped(h)
    g = drawn("g", 4, dtype)
    p = ng.held_back(g, found.vectors, found.values, found.epsilon(EPS_REL))
    exact = epsilon * torch.linalg.solve(a, g.double().flatten(1).T).T
    assert (p.double().flatten(1) - exact).norm() <= 1e-4 * exact.norm()
    assert (p - g).norm() > 0.1 * g.norm()  # at this damping it is another vector


def test_projected_gradients_are_shorter_and_plain_without_damping() -> None:
    found, _ = spectrum(30)
    g = drawn("g", 8)
    for relative in (1e-5, EPS_REL, 1.0):
        p = ng.held_back(g, found.vectors, found.values, relative * float(found.values[0]))
        assert (ng.dots(p, p) < ng.dots(g, g)).all() and (ng.dots(p, g) > 0).all()
    torch.testing.assert_close(ng.held_back(g, found.vectors, found.values, 1e12), g)


def test_a_metric_that_sees_nothing_and_too_many_eigenvectors_are_refused() -> None:
    x = drawn("x", 2)
    with pytest.raises(UserError, match="metric: expected one that sees changes.*found a largest eigenvalue of 0"):
        ng.leading(torch.zeros_like, x, 4, 1, generator("a"))
    with pytest.raises(UserError, match="k: expected 1 to 192 eigenvectors.*found 193"):
        ng.leading(torch.zeros_like, x, 193, 1, generator("a"))


# --- conjugate gradients ---------------------------------------------------------------------------------------


@BOTH
def test_conjugate_gradients_are_the_dense_solution_of_each_image(dtype: torch.dtype) -> None:
    x, g, e = drawn("x", 3, dtype), drawn("g", 3, dtype), embed(dtype)
    h = hessians(embed(), x.double())
    epsilon = EPS_REL * float(torch.linalg.eigvalsh(h[0])[-1])
    solved = ng.conjugate_gradients(lambda v: ng.products(e, x, v[None])[0] + epsilon * v, g, 1e-6, 500)
    exact = torch.linalg.solve(h + epsilon * torch.eye(192), g.double().flatten(1)[..., None])[..., 0]
    error = (solved.p.double().flatten(1) - exact).norm(dim=1) / exact.norm(dim=1)
    assert (error <= 1e-4).all() and (solved.residual <= 1e-6).all()
    assert 10 < solved.iterations < 500


def test_a_solved_image_rests_and_a_zero_gradient_is_solved() -> None:
    scale = torch.tensor([1.0, 1.0, 1.0])
    scales = torch.linspace(1, 100, 192, dtype=torch.float64).view(1, 3, 8, 8)
    many = torch.cat([torch.ones(1, 3, 8, 8), scales, scales]).double() * scale[:, None, None, None]
    g = drawn("g", 3)
    g[2] = 0
    solved = ng.conjugate_gradients(lambda v: many * v, g, 1e-8, 200)
    torch.testing.assert_close(solved.p[0], g[0])  # in one step
    torch.testing.assert_close(solved.p[1], g[1] / scales[0], rtol=1e-5, atol=1e-8)
    assert not solved.p[2].any() and solved.residual[2] == 0


def test_an_unsolved_image_says_how_far_it_came() -> None:
    scales = torch.linspace(1e-4, 1, 192, dtype=torch.float64).view(1, 3, 8, 8)
    g = drawn("g", 2)
    with pytest.raises(StageFailed, match=r"residual of 1e-08 within 5 iterations, found 0\.\d+ in 2 of 2 images"):
        ng.conjugate_gradients(lambda v: scales * v, g, 1e-8, 5)
    kept = ng.conjugate_gradients(lambda v: scales * v, g, 1e-8, 5, fallback=True)
    assert kept.iterations == 5 and (kept.residual > 1e-8).all() and torch.isfinite(kept.p).all()


def test_a_metric_that_curves_down_or_is_no_number_is_reported() -> None:
    g = drawn("g", 2)
    with pytest.raises(StageFailed, match="expected a positive definite metric, found a curvature of -"):
        ng.conjugate_gradients(lambda v: -v, g, 1e-2, 5)
    with pytest.raises(StageFailed, match="positive definite"):
        ng.conjugate_gradients(lambda v: v * torch.nan, g, 1e-2, 5, fallback=True)


# --- length ----------------------------------------------------------------------------------------------------


def test_lengths_of_the_projected_gradient() -> None:
    p, g = drawn("p", 2), drawn("g", 2)
    assert ng.of_norm("eps", p, g, 0.1) is p
    torch.testing.assert_close(ng.of_norm("raw", p, g, 0.1), 10 * p)
    turned = ng.of_norm("l2", p, g, 0.1)
    torch.testing.assert_close(turned.flatten(1).norm(dim=1), g.flatten(1).norm(dim=1))
    torch.testing.assert_close(turned / turned.norm(), ng.of_norm("l2", 3 * p, g, 0.1) / turned.norm())
    assert not ng.of_norm("l2", torch.zeros_like(p), g, 0.1).any()


# --- stage and preconditioners ---------------------------------------------------------------------------------

PRIOR = tiny()
BASIS = PerceptualBasis(prior=PRIOR, k=12, images=2, chunk=32)
CPU = torch.device("cpu")


def test_a_basis_holds_eigenvectors_of_its_generators_images() -> None:
    stored = BASIS.result("cpu")
    u, values, meta = stored.tensors["vectors"], stored.tensors["values"], stored.meta
    assert u.shape == (3072, 12) and (values[:-1] >= values[1:]).all()
    x = BASIS._images(CPU)
    e = partial(ng.smooth_embedding, perceptual.load("st-lpips-alex"))
    top = u[:, :1]
    torch.testing.assert_close(ng.mean_products(e, x, top, 64), values[0] * top, rtol=0, atol=0.02 * float(values[0]))
    assert meta["epsilon"] == pytest.approx(float(values[-1])) and meta["effective"] > 1e-3
    assert 0.3 < meta["captured"] < 1 and meta["net"] == "ST-LPIPS (AlexNet)"
    assert meta["captured"] == pytest.approx(float(values.sum()) / meta["trace"])


def test_an_interrupted_basis_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every loop is broken before its second step; the first one is taken up there.
    found, steps = resumed(BASIS.model_copy(update={"chunk": 16}), tmp_path, monkeypatch, 1)
    expected = BASIS.model_copy(update={"chunk": 16}).result("cpu").tensors
    assert same(found, expected) and steps[0] == 1


def test_networks_and_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="perceptual network: expected one of"):
        PerceptualBasis(prior=PRIOR, net="lpips")
    with pytest.raises(UserError, match="net: lpips-alex cannot be loaded"):
        PerceptualBasis(prior=PRIOR, net="lpips-alex")


def gradients() -> tuple[Tensor, Tensor]:
    """Images of the generator, and a smooth gradient there."""
    x = BASIS._images(CPU)
    return x, torch.nn.functional.interpolate(drawn("g", len(x), torch.float32, 4), (32, 32), mode="bilinear")


def test_nystrom_is_the_stored_projection_and_random_has_its_eigenvalues() -> None:
    x, g = gradients()
    stored = BASIS.result("cpu")
    u, values, epsilon = stored.tensors["vectors"], stored.tensors["values"], stored.meta["epsilon"]
    a = torch.eye(3072) + u @ torch.diag(values / epsilon) @ u.T
    p = Nystrom(basis=BASIS).ready(CPU)(x, g)
    torch.testing.assert_close(p.flatten(1), torch.linalg.solve(a, g.flatten(1).T).T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(Nystrom(basis=BASIS, norm="raw").ready(CPU)(x, g) * epsilon, p)
    other = Random(basis=BASIS).ready(CPU)(x, g)
    lost = [float((g - v).norm() / g.norm()) for v in (p, other)]
    assert 0 < 5 * lost[1] < lost[0]  # what twelve random directions hold of a smooth gradient is little


def test_one_images_own_metric_is_the_shared_one_of_that_image() -> None:
    basis = BASIS.model_copy(update={"images": 1, "k": 200, "chunk": 128})
    x, g = basis._images(CPU), gradients()[1][:1]
    shared = Nystrom(basis=basis).ready(CPU)(x, g)
    own = ConjugateGradients(basis=basis, tolerance=1e-4).ready(CPU)(x, g)
    assert (own - shared).norm() < 0.15 * own.norm() < 0.15 * g.norm()
    with pytest.raises(StageFailed, match="within 1 iterations"):
        ConjugateGradients(basis=basis, most=1).ready(CPU)(x, g)
    short = ConjugateGradients(basis=basis, most=1, fallback=True, norm="l2").ready(CPU)(x, g)
    assert float(short.norm()) == pytest.approx(float(g.norm()), rel=1e-5)


def test_controls_are_what_they_say() -> None:
    x, g = gradients()
    assert Plain().ready(CPU)(x, g) is g
    torch.testing.assert_close(Blurred(sigma=2.0).ready(CPU)(x, g), blurred(g, torch.tensor([2.0])))
    p, scaled = (c(basis=BASIS).ready(CPU)(x, g) for c in (Nystrom, Scaled))
    ratios = p.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1)
    torch.testing.assert_close(scaled, g * ratios.mean())
    torch.testing.assert_close(Euclidean().ready(CPU)(x, g), g * (1e-3 / 1.001))
    torch.testing.assert_close(Euclidean(norm="l2").ready(CPU)(x, g), g)
    h = hessians(lambda v: v.flatten(1), drawn("x", 1))[0]
    torch.testing.assert_close(h, 2 * torch.eye(192, dtype=torch.float64))
