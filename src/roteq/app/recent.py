"""The few things of their kind that were used last."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `most` values, and together not heavier than `weight`; the newest is always kept. For any thread.

    >>> squares = Recent[int, int](2)
    >>> [squares.get(i, lambda i=i: i * i) for i in (2, 3, 4)], 2 in squares, 4 in squares
    ([4, 9, 16], False, True)
    """

    def __init__(self, most: int, weight: float = float("inf"), weigh: Callable[[V], float] = lambda value: 0) -> None:
        self.most, self.weight, self.weigh = most, weight, weigh
        self._kept: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._heavy, self._lock = 0.0, Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of the key, made if it is not kept; two threads may make it at once."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = make()
        self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._drop(key)
            self._kept[key] = (value, self.weigh(value))
            self._heavy += self._kept[key][1]
            while len(self._kept) > 1 and (len(self._kept) > self.most or self._heavy > self.weight):
                self._drop(next(iter(self._kept)))

    def _drop(self, key: K) -> None:
        if key in self._kept:
            self._heavy -= self._kept.pop(key)[1]

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __getitem__(self, key: K) -> V:
        with self._lock:
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def __len__(self) -> int:
        return len(self._kept)
