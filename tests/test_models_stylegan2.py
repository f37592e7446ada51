"""StyleGAN2: equations against loops over numbers, both forms of the modulated convolution, the official layout."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.models import stylegan2 as sg
from tests.benchmarks.stylegan2 import grouped_convolution


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lively(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Float64, and biases and noise other than the initial zeros, so that every part matters."""
    rng = torch.Generator().manual_seed(seed)
    net = sg.init_stylegan2(net, rng).double().eval()
    for name, value in net.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            value.data.add_(torch.randn(value.shape, generator=rng, dtype=torch.float64) * 0.3)
    return net


# --- an independent reading of the equations: one row, one output channel, one pixel at a time -----------------


def plain_fir(x: Tensor, pad: tuple[int, int], gain: float) -> Tensor:
    """The filter over maps (c, h, w) as a sum of shifted copies."""
    line = (1, 3, 3, 1)
    x = F.pad(x, (*pad, *pad))
    h, w = x.shape[1] - 3, x.shape[2] - 3
    return gain * sum(line[i] * line[j] * x[:, i : i + h, j : j + w] for i in range(4) for j in range(4)) / 64


def zeros_between(x: Tensor) -> Tensor:
    spread = x.new_zeros(x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
    spread[:, ::2, ::2] = x
    return spread


def plain_modulated(x: Tensor, kernel: Tensor, style: Tensor, demodulate: bool, up: bool) -> Tensor:
    """Maps (i, h, w) of one row; `up`: a true convolution of the zero-filled map, then the filter with gain 4."""
    out = []
    for k in kernel:
        own = k * style[:, None, None]
        own = own / math.sqrt(float(own.square().sum()) + 1e-8) if demodulate else own
        if up:
            wide = F.pad(zeros_between(x)[:, :-1, :-1], (2, 2, 2, 2))
            out.append(F.conv2d(wide[None], own.flip(1, 2)[None])[0, 0])
        else:
            out.append(F.conv2d(x[None], own[None], padding=kernel.shape[2] // 2)[0, 0])
    y = torch.stack(out)
    return plain_fir(y, (1, 1), 4) if up else y


def plain_dense(p: dict, name: str, a: Tensor, rate: float = 1.0) -> Tensor:
    return p[f"{name}.weight"] @ a * rate / math.sqrt(len(a)) + p[f"{name}.bias"] * rate


def plain_lrelu(x: Tensor, gain: float = 1.0) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2) * gain


def plain_generator(p: dict, sides: list[int], z: Tensor, residual: bool) -> dict[str, Tensor]:
    """Everything on the way of one latent, by the official names."""
    w = z / math.sqrt(float(z.square().mean()) + 1e-8)
    for i in range(8):
        w = plain_lrelu(plain_dense(p, f"mapping.fc{i}", w, 0.01))
    seen, x, image = {"w": w}, p["synthesis.b4.const"], None
    for side in sides:
        block, before, gain = f"synthesis.b{side}", x, 1.0
        for conv in ("conv1",) if side == 4 else ("conv0", "conv1"):
            name = f"{block}.{conv}"
            gain = math.sqrt(0.5) if residual and side > 4 and conv == "conv1" else 1.0
            y = plain_modulated(x, p[f"{name}.weight"], plain_dense(p, f"{name}.affine", w), True, conv == "conv0")
            y = y + p[f"{name}.noise_strength"] * p[f"{name}.noise_const"] + p[f"{name}.bias"][:, None, None]
            x = seen[name] = plain_lrelu(y, gain)
        if residual and side > 4:
            kernel = p[f"{block}.skip.weight"]
            through = torch.einsum("oi,ihw->ohw", kernel[:, :, 0, 0], before) / math.sqrt(kernel.shape[1])
            x = x + plain_fir(zeros_between(through), (2, 1), 4) * math.sqrt(0.5)
        if image is not None:
            image = plain_fir(zeros_between(image), (2, 1), 4)
        if f"{block}.torgb.weight" in p:
            kernel = p[f"{block}.torgb.weight"]
            style = plain_dense(p, f"{block}.torgb.affine", w) / math.sqrt(kernel.shape[1])
            colours = plain_modulated(x, kernel, style, False, False) + p[f"{block}.torgb.bias"][:, None, None]
            image = seen[f"{block}.torgb"] = colours if image is None else image + colours
    return seen | {"image": image}


@pytest.mark.parametrize("residual", [False, True], ids=["skip", "residual"])
def test_generator_equals_a_plain_reading_layer_by_layer(residual: bool) -> None:
    widths = {4: 7, 8: 6, 16: 5}
    g = lively(sg.Generator(widths, 9, 8, outputs="residual" if residual else "skip"))
    seen: dict[str, Tensor] = {}
    for name, module in g.named_modules():
        if isinstance(module, sg.StyledConv):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    z = normal(1, 3, 9)
    seen |= {"w": g.mapping(z), "image": g(z)}
    for row in range(3):
        expected = plain_generator(dict(g.state_dict()), list(widths), z[row], residual)
        for name in seen:
            assert torch.allclose(seen[name][row], expected[name], rtol=1e-10, atol=1e-10), name


def test_discriminator_equals_a_plain_reading() -> None:
    d = lively(sg.Discriminator({4: 6, 8: 5, 16: 4}))
    p, x = dict(d.state_dict()), normal(2, 8, 3, 16, 16)

    def conv(name: str, x: Tensor, gain: float = 1.0, down: bool = False) -> Tensor:
        kernel = p[f"{name}.weight"]
        side = kernel.shape[2]
        kernel = kernel / math.sqrt(kernel[0].numel())
        if down:
            x = torch.stack([plain_fir(row, (1 + side // 2,) * 2, 1) for row in x])
            y = F.conv2d(x, kernel)[:, :, ::2, ::2]
        else:
            y = F.conv2d(x, kernel, padding=side // 2)
        return y * gain if f"{name}.bias" not in p else plain_lrelu(y + p[f"{name}.bias"][:, None, None], gain)

    y, half = conv("b16.fromrgb", x), math.sqrt(0.5)
    for side in (16, 8):
        y = conv(f"b{side}.skip", y, half, True) + conv(f"b{side}.conv1", conv(f"b{side}.conv0", y), half, True)
    # Rows n and n + 2 and n + 4 and n + 6 are a group of four.
    stds = [(y[i::2].var(0, unbiased=False) + 1e-8).sqrt().mean() for i in range(2)]
    extra = torch.stack([stds[i % 2] for i in range(8)])[:, None, None, None].expand(-1, 1, 4, 4)
    y = conv("b4.conv", torch.cat([y, extra], 1)).flatten(1)
    logits = [plain_dense(p, "b4.out", plain_lrelu(plain_dense(p, "b4.fc", row))) for row in y]
    assert torch.allclose(d(x), torch.cat(logits), rtol=1e-10)


# --- both forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_both_forms_are_equal_with_their_gradients(kernel: int, demodulate: bool, up: bool) -> None:
    def run(form: Callable[..., Tensor]) -> list[Tensor]:
        inputs = [normal(3, 4, 6, 8, 8).float(), normal(4, 5, 6, kernel, kernel).float(), normal(5, 4, 6).float()]
        for value in inputs:
            value.requires_grad_()
        y = form(*inputs, demodulate, up)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]

    for one, other in zip(run(sg.scaled_convolution), run(grouped_convolution), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


def test_a_demodulated_output_has_unit_variance_for_white_input() -> None:
    x, kernel, style = normal(6, 64, 32, 8, 8), normal(7, 4, 32, 3, 3), 1 + normal(8, 64, 32) / 3
    inner = sg.scaled_convolution(x, kernel, style, True, False)[..., 1:-1, 1:-1]
    assert inner.var(dim=(0, 2, 3)).sub(1).abs().max() < 0.1


# --- parts -------------------------------------------------------------------------------------------------


def test_truncation_moves_towards_the_mean_and_styles_can_differ_by_layer() -> None:
    g = lively(sg.Generator({4: 4, 8: 4, 16: 4}, 5, 6))
    g.mapping.w_avg.copy_(normal(9, 6))
    z = normal(10, 2, 5)
    w = g.mapping(z)
    assert torch.allclose(g.mapping(z, psi=0.5), (w + g.mapping.w_avg) / 2)
    assert torch.allclose(g.mapping(z, psi=0.0), g.mapping.w_avg.expand(2, -1))
    assert g.synthesis.inputs == 2 * math.log2(16) - 2
    assert torch.equal(g.synthesis(w), g.synthesis(w[:, None].expand(-1, 6, -1)))
    mixed = w[:, None].repeat(1, 6, 1)
    mixed[:, 5] = w.flip(0)  # the last one is read by the last colours alone
    assert not torch.equal(g.synthesis(mixed), g.synthesis(w))
    with pytest.raises(ValueError, match="expected 6 styles for images of 16 px, found 5"):
        g.synthesis(mixed[:, :5])


def test_colours_of_a_block_share_their_style_with_the_next_first_layer() -> None:
    g = lively(sg.Generator({4: 4, 8: 4}, 5, 6))
    w = normal(11, 1, 4, 6).requires_grad_()
    seen: dict[str, Tensor] = {}
    g.synthesis.b4.torgb.register_forward_hook(lambda _m, inputs, _o: seen.__setitem__("colours", inputs[1]))
    g.synthesis.b8.conv0.register_forward_hook(lambda _m, inputs, _o: seen.__setitem__("first", inputs[1]))
    g.synthesis(w)
    assert torch.equal(seen["colours"], w[:, 1]) and torch.equal(seen["first"], w[:, 1])


def test_noise_is_constant_absent_or_drawn() -> None:
    g = lively(sg.Generator({4: 4, 8: 4}, 5, 6))
    z = normal(12, 2, 5)
    assert torch.equal(g(z), g(z)) and not torch.equal(g(z), g(z, noise="none"))

    def drawn(seed: int) -> Tensor:
        return g(z, noise=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    same = g(z[:1].expand(2, -1), noise=torch.Generator().manual_seed(0))
    assert not torch.equal(same[0], same[1]), "every row has its own draws"


def test_new_weights_are_normal_and_activations_keep_their_size() -> None:
    g = sg.init_stylegan2(sg.Generator(sg.widths(32, 64, 128), 64, 64), torch.Generator().manual_seed(0))
    assert g.mapping.fc0.weight.std().item() == pytest.approx(100, rel=0.05)
    assert g.synthesis.b8.conv0.weight.std().item() == pytest.approx(1, rel=0.05)
    assert (g.synthesis.b8.conv0.affine.bias == 1).all() and (g.synthesis.b8.conv0.bias == 0).all()
    with torch.no_grad():
        w = g.mapping(torch.randn(256, 64, generator=torch.Generator().manual_seed(1)))
        assert 0.5 < w.std().item() < 2 and 0.3 < g.synthesis(w[:32]).std().item() < 5


def test_activations_and_colours_are_held_in_range() -> None:
    assert sg.lrelu(torch.tensor([1e6, -1e6])).tolist() == [256, -256]
    assert sg.lrelu(torch.tensor([1e6]), 0.5).tolist() == [128]


@pytest.mark.parametrize("size", [0, 4, 48, 100])
def test_other_sizes_are_refused_in_one_line(size: int) -> None:
    with pytest.raises(UserError, match="power of two from 8 px on"):
        sg.widths(size, 32, 128)


def test_widths_double_with_each_half_up_to_the_most() -> None:
    assert sg.widths(32, 32, 128) == {4: 128, 8: 128, 16: 64, 32: 32}
    with torch.device("meta"):
        full = sg.Generator(sg.widths(1024, 32, 512), 512, 512)
        assert sum(p.numel() for p in full.parameters()) == 30_370_060
