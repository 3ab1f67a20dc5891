import numpy as np
import pytest
import torch
from reference import group_convolution, turn_kernel_se2cnn

from roteq.errors import UsageError
from roteq.filters import disc_basis, harmonic_basis, make_basis, pixel_basis, pixel_grid
from roteq.groups import group
from roteq.nn import GroupConv2d, LiftingConv2d

generator = torch.Generator().manual_seed(0)


def turned(kernel, basis, g):
    k = kernel.shape[-1]
    return (kernel.flatten() @ basis[g]).reshape(k, k)


@pytest.mark.parametrize("name", ["C4", "D4", "C8", "C12", "D6"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("mask", [False, True])
def test_exact_elements_permute_the_pixels(name, k, mask):
    if mask and k % 2 == 0:
        with pytest.raises(UsageError, match=rf"expected an odd kernel_size.*got {k}; nearest: {k - 1} or {k + 1}"):
            make_basis("disc", group(name), k)
        return
    g = group(name)
    basis = make_basis("disc" if mask else "pixel", g, k)
    kernel = torch.randn(k, k, dtype=torch.float64, generator=generator)
    upright = turned(kernel, basis, 0)
    for element in g.exact_elements:
        assert torch.equal(turned(kernel, basis, element), g.act_on_image(upright, element))


@pytest.mark.parametrize(("k", "rotations"), [(3, 8), (5, 8), (5, 12), (7, 16)])
@pytest.mark.parametrize("mask", [False, True])
def test_pixel_basis_is_the_operator_of_se2cnn(k, rotations, mask):
    kernel = torch.randn(k, k, dtype=torch.float64, generator=generator)
    basis = make_basis("disc" if mask else "pixel", group(f"C{rotations}"), k)
    for g in range(rotations):
        expected = turn_kernel_se2cnn(kernel.numpy(), g, rotations, mask)
        np.testing.assert_allclose(turned(kernel, basis, g).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("k", "kept"), [(3, 9), (5, 21), (7, 37)])
def test_disc_mask_keeps_the_published_pixels(k, kept):
    assert int((disc_basis(group("Z2"), k)[0].sum(0) > 0).sum()) == kept


@pytest.mark.parametrize(
    ("k", "rotations", "g", "energy"),
    [(5, 12, 0, 0.84), (5, 12, 1, 0.396), (5, 8, 1, 0.364), (3, 12, 1, 0.377), (3, 8, 1, 0.416)],
)
def test_bilinear_turning_loses_the_published_energy(k, rotations, g, energy):
    basis = disc_basis(group(f"C{rotations}"), k)
    assert basis[g].square().sum().item() / k**2 == pytest.approx(energy, abs=0.002)


@pytest.mark.parametrize("name", ["C4", "D4", "C8", "D3"])
@pytest.mark.parametrize("mask", [False, True])
def test_group_convolution_is_its_definition(name, mask):
    g, k = group(name), 3
    layer = GroupConv2d(2, 3, k, bias=False, group=g, basis="disc" if mask else "pixel").double()
    basis = make_basis("disc" if mask else "pixel", g, k)
    x = torch.randn(1, 2 * g.order, 5, 6, dtype=torch.float64, generator=generator)
    weight = layer.weight.detach().unflatten(-1, (k, k))
    expected = group_convolution(
        x[0].unflatten(0, (2, g.order)).numpy(),
        weight.numpy(),
        g,
        lambda kernel, e: turned(torch.from_numpy(kernel), basis, e).numpy(),
    )
    got = layer(x)[0].unflatten(0, (3, g.order)).detach().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("name", ["C3", "C4", "D4", "C8", "C12", "D6", "D5"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 7, 11])
def test_exact_elements_permute_the_pixels_of_a_harmonic(name, k):
    g = group(name)
    basis = harmonic_basis(g, k)
    assert basis.shape == (g.order, k * (k + 1) // 2, k * k)
    weight = torch.randn(basis.shape[1], dtype=torch.float64, generator=generator)
    filters = torch.einsum("p,gpk->gk", weight, basis).unflatten(1, (k, k))
    for e in g.exact_elements:
        torch.testing.assert_close(filters[e], g.act_on_image(filters[0], e), atol=1e-12, rtol=0)
    assert k == 1 or filters[0].std() > 0.1


@pytest.mark.parametrize("name", ["C3", "C8", "D6", "D5"])
@pytest.mark.parametrize("k", [2, 3, 4, 5, 7])
def test_harmonics_are_a_representation(name, k):
    """Turning mixes the basis filters linearly, L_g psi = M(g) psi, and M(g h) = M(h) M(g): R30 R30 is R60."""
    g = group(name)
    basis = harmonic_basis(g, k)
    mixing = [torch.linalg.lstsq(basis[0].T, basis[e].T).solution.T for e in range(g.order)]
    for e in range(g.order):
        torch.testing.assert_close(mixing[e] @ basis[0], basis[e], atol=1e-10, rtol=0)
        for h in range(g.order):
            torch.testing.assert_close(mixing[g.product(e, h)], mixing[h] @ mixing[e], atol=1e-9, rtol=0)


def test_bilinear_turning_is_no_representation():
    basis = pixel_basis(group("C12"), 5)
    assert (basis[1] @ basis[1] - basis[2]).abs().max() > 0.1


@pytest.mark.parametrize("k", [3, 4, 5, 7])
def test_the_energy_of_a_harmonic_does_not_depend_on_its_orientation(k):
    energy = harmonic_basis(group("D8"), k).square().sum((1, 2))
    torch.testing.assert_close(energy, energy[:1].expand(16), rtol=1e-12, atol=0)


def polynomial_responses(basis, g, k):
    """Response of every basis filter turned by e to every monomial of degree below k turned by e: (e, P, monomials)."""
    points = torch.stack(pixel_grid(k))
    responses = []
    for e in range(g.order):
        x, y = g.matrix(e).T @ points  # f(g^-1 x)
        monomials = torch.stack([x**a * y**b for a in range(k) for b in range(k - a)])
        responses.append(basis[e] @ monomials.T)
    return torch.stack(responses)


@pytest.mark.parametrize(("name", "k"), [("C8", 3), ("C12", 5), ("D5", 5), ("C7", 6), ("D8", 7)])
def test_responses_to_polynomials_below_degree_k_are_exactly_equivariant(name, k):
    g = group(name)
    responses = polynomial_responses(harmonic_basis(g, k), g, k)
    scale = responses[0].abs().max()
    assert (responses - responses[:1]).abs().max() < 1e-10 * scale
    bilinear = polynomial_responses(pixel_basis(g, k), g, k)
    assert (bilinear - bilinear[:1]).abs().max() > 0.1 * bilinear[0].abs().max()  # the control fails


def waves(size, degrees):
    """Eight smooth random images, each a sum of plane waves of at most 4 cycles, sampled exactly at any angle."""
    random = torch.Generator().manual_seed(3)
    radius, angle, phase = torch.rand(3, 8, 12, dtype=torch.float64, generator=random)
    side = (torch.arange(size, dtype=torch.float64) * 2 + 1) / size - 1
    y, x = torch.meshgrid(-side, side, indexing="ij")
    angle = 2 * np.pi * angle + np.radians(degrees)  # turning the picture turns its waves
    kx, ky = 4 * np.pi * radius.sqrt() * angle.cos(), 4 * np.pi * radius.sqrt() * angle.sin()
    argument = kx[..., None, None] * x + ky[..., None, None] * y + 2 * np.pi * phase[..., None, None]
    return argument.cos().sum(1, keepdim=True)


@pytest.mark.parametrize(("basis", "below", "above"), [("harmonic", 0.0005, 0), ("pixel", 1, 0.05)])
def test_one_layer_turns_with_a_smooth_picture(basis, below, above):
    """The centre pixel of a 65x65 map under 45 degrees, C8, 5x5: the response moves on by one element of the group."""
    torch.manual_seed(0)
    layer = LiftingConv2d(1, 8, 5, padding="same", bias=False, group="C8", basis=basis).double()
    with torch.no_grad():
        upright, turned = (layer(waves(65, degrees))[:, :, 32, 32].unflatten(1, (8, 8)) for degrees in (0, 45))
    error = ((turned - upright.roll(1, 2)).norm() / upright.norm()).item()
    assert above <= error < below


def test_lifting_by_hand():
    """A filter that looks one pixel to the right, and one bright pixel: the four answers lie around it."""
    layer = LiftingConv2d(1, 1, 3, bias=False, group="p4")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[0.0, 0, 0, 0, 0, 1, 0, 0, 0]]]))
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1.0
    y = layer(x)[0]  # (4, 3, 3): y[g](p) = x(p + offset turned by g), so the answer stands opposite the offset
    assert [tuple(np.unravel_index(int(channel.argmax()), (3, 3))) for channel in y] == [(1, 0), (2, 1), (1, 2), (0, 1)]
    assert y.sum() == 4


def test_kernel_below_one_is_refused():
    with pytest.raises(UsageError, match=r"kernel_size: expected one whole number of at least 1 .*got 0"):
        pixel_basis(group("p4"), 0)
