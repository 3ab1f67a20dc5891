"""Where the answers of a dense network lie, and what they see."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """A dense network as one convolution: answer i of a side sees the pixels i*stride - padding ... + window - 1.

    A side of n pixels gives (n + 2*padding - window) // stride + 1 answers. Each stands for the stride x stride cell in
    the middle of its window (half a pixel up and left of it where window - stride is odd), so they cover a side from
    pixel `begin` on. Answers that see beyond the border of a tile (padding > 0) are not those of the whole image, but
    at its own border. Two tiles have the same answers only if they lie a multiple of `grid` pixels apart and their
    sides are equal modulo `grid`.

    >>> Geometry(window=96, stride=16).answers(128), Geometry(window=96, stride=16).begin
    (3, 40)
    >>> Geometry(window=45, stride=1, padding=22, grid=8).answers(100)
    100
    """

    window: int
    stride: int = 1
    padding: int = 0
    grid: int = 0  # 0: the stride

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", self.grid or self.stride)

    @property
    def begin(self) -> int:
        """The first pixel for which an answer stands."""
        return (self.window - self.stride) // 2 - self.padding

    def framing(self, side: int) -> int:
        """Zeros that a padded network of several levels adds on both ends of a side, so that every step down and up is
        symmetric: the side is then 0 or 1 modulo grid."""
        return (side % 2 - side) % self.grid // 2 if self.padding else 0

    def answers(self, side: int) -> int:
        """Answers along a side of so many pixels."""
        return max(0, (side + 2 * self.padding - self.window) // self.stride + 1)
