"""Small networks with one mechanism each: what the tests of `convert` run over."""

import copy

import torch
from timm.layers import Conv2dSame, GroupNorm1, StdConv2d, StdConv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn
from torch.nn import functional as F

from roteq.groups import group as named_group
from roteq.testing import equivariance_error


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(make):
    """With biases, scales and running statistics that are not those of the start, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make()
        random = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, value in [*net.named_parameters(), *net.named_buffers()]:
                drawn = torch.randn(value.shape, generator=random)
                if name.endswith("running_var"):
                    value.mul_(1 + 0.5 * drawn.tanh())
                elif value.ndim == 1:
                    value.add_(0.2 * drawn)
    return net.eval()


def head(channels, classes=5):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Residual(nn.Module):
    """A strided block of a ResNet, with the norm of one's choice."""

    def __init__(self, inputs, outputs, stride=1, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return self.act(y + self.downsample(x))


def resnet(norm=nn.BatchNorm2d, width=8):
    stem = [nn.Conv2d(3, width, 3, 2, 1, bias=False), norm(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, Residual(width, 2 * width, 2, norm), head(2 * width))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return x * self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


def mobilenet():
    """Depthwise, strided, with squeeze and excitation."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.SiLU()),
        *(nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.BatchNorm2d(16), nn.SiLU(), SqueezeExcite(16)),
        *(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8), head(8)),
    )


class Permuted(nn.Module):
    """ConvNeXt: layer norm and linear maps with channels last, and a scale learnt for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(F.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext():
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), Permuted(8), nn.Conv2d(8, 8, 2, 2), head(8))


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide, self.high = nn.Conv2d(8, 6, (1, 7), padding=(0, 3)), nn.Conv2d(6, 6, (7, 1), padding=(3, 0))
        self.pool, self.point = nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 2, 1)
        self.head = head(8)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(torch.cat([self.high(self.wide(x)).relu(), self.point(self.pool(x))], 1))


def alexnet():
    """A map that is flattened: the classifier sees all its pixels."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.LocalResponseNorm(3), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3)),
    )
    return nn.Sequential(features, nn.Flatten(), nn.Linear(108, 16), nn.ReLU(), nn.Linear(16, 5))


class Shuffled(nn.Module):
    """The unit of a ShuffleNet, which splits, joins and shuffles by hand."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, 1, 1, groups=4))
        self.last = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.head = head(12)

    def forward(self, x):
        left, right = self.stem(x).relu().chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), 1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.head(self.last(x).relu())


class Cut(nn.Module):
    """Splits with numbers of channels that are written into the code."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.rest = nn.Conv2d(12, 12, (1, 3), padding=(0, 1))
        self.head = head(8)

    def forward(self, x):
        a, b = torch.split(self.stem(x).relu(), [4, 12], dim=1)
        x = torch.cat([self.first(a), self.rest(b)], 1)
        x = torch.cat([x[:, :8].relu(), x[:, 8:]], 1)
        return self.head(self.last(x))


def sequence(*layers, outputs=8):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers, head(outputs))


class Dense(nn.Module):
    """A fully convolutional network: its map turns with the picture."""

    def __init__(self, as_dict=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.answer, self.as_dict = nn.Conv2d(8, 2, 1), as_dict

    def forward(self, x):
        y = F.interpolate(self.answer(self.body(x).relu()), x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": y, "pair": (y.mean((2, 3)), [y])} if self.as_dict else y


class UNet(nn.Module):
    """Down and up again; `up` is the transposed convolution."""

    def __init__(self, up):
        super().__init__()
        self.into, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.up, self.out = up, nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, x):
        x = self.into(x).relu()
        y = self.up(self.down(x).relu())
        return self.out(torch.cat([x, y], 1))


CLASSIFIERS = {  # name -> (network, side of the picture)
    "residual": (resnet, 20),
    "group norm": (lambda: resnet(lambda c: nn.GroupNorm(4, c)), 20),
    "group norm of another library": (lambda: resnet(GroupNorm1), 20),
    "instance norm": (lambda: resnet(lambda c: nn.InstanceNorm2d(c, affine=True)), 32),
    "instance norm with statistics": (lambda: resnet(lambda c: nn.InstanceNorm2d(c, track_running_stats=True)), 32),
    "depthwise, squeeze and excitation": (mobilenet, 20),
    "layer norm, linear maps of pixels": (convnext, 20),
    "rectangular pairs": (Inception, 12),
    "flattened map": (alexnet, 24),
    "shuffled by hand": (Shuffled, 12),
    "cut by numbers": (Cut, 12),
    "channel shuffle": (lambda: sequence(nn.ChannelShuffle(2), nn.Conv2d(8, 8, 3, groups=2)), 9),
    "grouped": (lambda: sequence(nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1, groups=4), nn.ReLU(), outputs=16), 10),
    "dilated": (lambda: sequence(nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 2, dilation=2), nn.ReLU()), 10),
    "ceil_mode": (lambda: sequence(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True)), 12),
    "pools that leave pixels over": (lambda: sequence(nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 2, 1)), 12),
    "reflect": (lambda: sequence(nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, padding_mode="reflect"), nn.ReLU()), 10),
    "circular": (lambda: sequence(nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2, padding_mode="circular"), nn.ReLU()), 9),
    "padding same": (lambda: sequence(nn.ReLU(), nn.Conv2d(8, 8, 5, padding="same"), nn.ReLU()), 9),
    "standardised filters": (
        lambda: nn.Sequential(StdConv2d(3, 8, 3, 2, 1), nn.ReLU(), StdConv2d(8, 8, 3), head(8)),
        12,
    ),
    "standardised, padded by size": (lambda: sequence(nn.ReLU(), StdConv2dSame(8, 8, 3, 2, bias=True), nn.ReLU()), 11),
    "padded by size": (
        lambda: nn.Sequential(Conv2dSame(3, 8, 3, 2), nn.ReLU(), MaxPool2dSame(3, 2), Conv2dSame(8, 8, 3), head(8)),
        14,
    ),
    "PReLU": (lambda: sequence(nn.PReLU(8), nn.Conv2d(8, 8, 3), nn.PReLU()), 9),
    "Dropout2d": (lambda: sequence(nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(8, 8, 3, 2), nn.ReLU()), 10),
}
MAPS = {
    "dense": (Dense, 17),
    "u-net, odd": (lambda: UNet(nn.ConvTranspose2d(8, 4, 3, 2, 1)), 13),
    "u-net": (lambda: UNet(nn.ConvTranspose2d(8, 4, 2, 2)), 12),
    "u-net, kernel 4": (lambda: UNet(nn.ConvTranspose2d(8, 4, 4, 2, 1)), 12),
    "u-net, output_padding": (lambda: UNet(nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1)), 12),
    "u-net, output_padding, no padding": (lambda: UNet(nn.ConvTranspose2d(8, 4, 1, 2, 0, output_padding=1)), 12),
}
ALL = CLASSIFIERS | MAPS
ONE_SIZE = [name for name in MAPS if name != "dense"]  # what comes up must have the size of what went down
NOT_THE_AVERAGE = [name for name in ALL if "standard" in name or "output_padding" in name]


def network(name):
    make, side = ALL[name]
    return made(make), noise(3, 3, side, side, seed=1)


def average(model, x, group):
    """The group average written out, with torch.rot90 and flip alone."""
    group, answers = named_group(group), []
    for mirror in (False, True)[: 1 + (group.order == 8)]:
        for turns in range(4):
            y = model(torch.rot90(x.flip(-1) if mirror else x, turns, (-2, -1)))
            if y.ndim == 4:
                y = torch.rot90(y, -turns, (-2, -1))
                y = y.flip(-1) if mirror else y
            answers.append(y)
    return torch.stack(answers).mean(0)


def errors(net, x, group, output):
    """Between-image errors in float64 of a quarter turn and a mirror, from which all others follow, in both modes."""
    group, found = named_group(group), []
    for training in (False, True):
        twin = copy.deepcopy(net).double().train(training)
        for g in (group.rotations // 4, *[group.rotations] * group.mirrors):
            found.append(equivariance_error(twin, group, x.double(), g, output=output))
    return found
