import numpy as np
import pytest
import torch
from reference import group_convolution, turn_kernel_se2cnn

from roteq.errors import UsageError
from roteq.filters import disc_basis, make_basis, pixel_basis
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
