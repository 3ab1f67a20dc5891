"""What layers.py measures, measured for escnn 1.0.11; layers.py --peer runs it and prints its tables.

    python -m venv escnn && escnn/bin/pip install torch "numpy<2" scipy joblib autograd pymanopt requests lie_learn
    escnn/bin/pip install --no-deps escnn==1.0.11       without py3nj (Fortran, for SO(3) only)
    escnn/bin/python benchmarks/peer_escnn.py           the options of layers.py; one line of JSON, a list of cells

lie_learn is why numpy must be older than 2.
"""

import json
import warnings

from torch import Tensor, nn

with warnings.catch_warnings(action="ignore"):  # of py3nj
    from escnn import gspaces
    from escnn import nn as enn

from layers import Kit, arguments, measure


class Enter(nn.Module):
    def __init__(self, field: enn.FieldType) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor) -> enn.GeometricTensor:
        return enn.GeometricTensor(x, self.field)


class Leave(nn.Module):
    def forward(self, x: enn.GeometricTensor) -> Tensor:
        return x.tensor


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(Enter(layers[0].in_type), *layers, Leave())


def exported(net: nn.Module) -> nn.Module:
    """The same network in torch's own layers; what stands after the chain is torch's already."""
    inside, after = (net, []) if isinstance(net[0], Enter) else (net[0], list(net)[1:])
    return nn.Sequential(*(layer.export() for layer in inside[1:-1]), *after).eval()


def escnn(group: str, blur: bool = False) -> Kit:
    plane = gspaces.rot2dOnR2 if group[0] == "C" else gspaces.flipRot2dOnR2
    space = plane(int(group[1:]))

    def regular(features: int) -> enn.FieldType:
        return enn.FieldType(space, features * [space.regular_repr])

    def lift(channels: int, features: int, k: int) -> nn.Module:
        image = enn.FieldType(space, channels * [space.trivial_repr])
        return enn.R2Conv(image, regular(features), k, padding=k // 2, bias=False)

    def halve(features: int) -> nn.Module:
        if blur:
            return enn.PointwiseAvgPoolAntialiased2D(regular(features), sigma=0.66, stride=2)
        return enn.PointwiseMaxPool2D(regular(features), 2)

    return Kit(
        escnn,
        group,
        "escnn.gspaces, escnn.nn",
        lift=lift,
        conv=lambda inputs, outputs, k, bias: enn.R2Conv(
            regular(inputs), regular(outputs), k, padding=k // 2, bias=bias
        ),
        norm=lambda features: enn.InnerBatchNorm(regular(features)),
        halve=halve,
        group_pool=lambda features: enn.GroupPooling(regular(features)),
        relu=lambda features: enn.ReLU(regular(features)),
        chain=chain,
        written_out=lambda net, sample: {"plain": exported(net)},
        variants=lambda: {"max pool": escnn(group), "blur pool": escnn(group, blur=True)},
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(json.dumps(measure(escnn, arguments(__doc__))))
