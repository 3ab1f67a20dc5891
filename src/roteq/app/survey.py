"""All given images judged by all models, one after the other: what the gallery shows and sorts by."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..errors import RoteqError, UsageError, nearest
from .album import Entry
from .explorer import COARSE, Explorer
from .networks import Answer, Network

SORTS = ("name", "flips", "confidence", "mistakes")
ORDERS = ("ascending", "descending")
Row = dict[str, Any]


class Survey:
    """Judges by the turns in steps of 15 degrees, without mirrors; the answers are those that the page shows.

    `work` in one thread, `rows` in any.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.total = len(explorer.album.entries)
        self._rows: dict[tuple[int, int], Row] = {}  # (image, model)

    def work(self) -> Iterator[None]:
        """Each step asks one model about one look, until all is judged; another call goes on where this one was."""
        for i, entry in enumerate(self.explorer.album.entries):
            for k in range(len(self.explorer.networks)):
                if (i, k) not in self._rows:
                    yield from self._judge(i, k, entry)

    def _judge(self, i: int, k: int, entry: Entry) -> Iterator[None]:
        network, found = self.explorer.networks[k], []
        try:
            for degrees in network.angles(COARSE):
                found.append(self.explorer.answer(k, entry.id, degrees))
                yield
        except RoteqError as error:
            self._rows[i, k] = _row(error=str(error))
            return
        summary = self.explorer.summary(k, found)
        self._rows[i, k] = _judged(network, entry, found[0], summary)

    def done(self) -> int:
        """Images that all models have judged."""
        judged = Counter(i for i, _ in self._rows.copy())
        return sum(models == len(self.explorer.networks) for models in judged.values())

    def rows(
        self, sort: str = "name", model: int = 0, offset: int = 0, limit: int = 60, order: str | None = None
    ) -> dict[str, Any]:
        """One part of the gallery, sorted by one model.

        flips: images with most exact ones first, and among those with most interpolated ones. confidence: the least
        sure first. mistakes: wrong decisions, the surest first. name: as people count (2 before 10). order: "ascending"
        or "descending" instead. What is not judged yet comes last. Raises: UsageError.
        """
        if sort not in SORTS:
            raise UsageError(f"sort: unknown {sort!r}; {nearest(sort, SORTS)}")
        if order not in (None, *ORDERS):
            raise UsageError(f"order: unknown {order!r}; {nearest(order, ORDERS)}")
        if not 0 <= model < len(self.explorer.networks):
            raise UsageError(f"model: expected 0 to {len(self.explorer.networks) - 1}, got {model}")
        rows, entries = self._rows.copy(), self.explorer.album.entries
        known = [
            (key, i) for i, entry in enumerate(entries) if (key := _key(sort, entry, rows.get((i, model)))) is not None
        ]
        down = sort not in ("name", "confidence") if order is None else order == "descending"
        placed = [i for _, i in sorted(known, key=lambda one: one[0], reverse=down)]
        placed += sorted(set(range(len(entries))) - set(placed))
        shown = placed[max(0, offset) : max(0, offset) + max(0, limit)]
        return {"total": self.total, "judged": self.done(), "items": [self._item(i, rows) for i in shown]}

    def _item(self, i: int, rows: dict[tuple[int, int], Row]) -> Row:
        entry = self.explorer.album.entries[i]
        models = [rows.get((i, k)) for k in range(len(self.explorer.networks))]
        return {"id": entry.id, "name": entry.name, "truth": entry.truth, "models": models}


def _row(**known: Any) -> Row:
    fields = ("decision", "confidence", "wrong", "exact_flips", "interpolated_flips", "changed", "error")
    return dict.fromkeys(fields) | known


def _judged(network: Network, entry: Entry, upright: Answer, summary: Row) -> Row:
    if network.kind == "map":
        changed = summary["interpolated_changed"]
        return _row(changed=summary["exact_changed"] if changed is None else changed, **summary)
    if upright.decision is None:
        sure = [network.classes[k] for k, p in upright.values.items() if p > 0.5] if network.kind == "labels" else None
        return _row(decision=None if sure is None else ", ".join(sure) or "none", **summary)
    truth = network.truth_of(entry)
    wrong = None if truth is None else truth != upright.decision
    confidence = upright.values[upright.decision]
    return _row(decision=network.classes[upright.decision], confidence=confidence, wrong=wrong, **summary)


def _key(sort: str, entry: Entry, row: Row | None) -> Any:
    """What to sort by; None: unknown."""
    if sort == "name":
        return [
            (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", entry.name)
        ]
    if row is None or row["error"] is not None:
        return None
    if sort == "flips":
        if row["exact_flips"] is None:
            return None if row["changed"] is None else (row["changed"],)
        return (row["exact_flips"][0], row["interpolated_flips"][0])
    if row["confidence"] is None:
        return None
    return (row["confidence"],) if sort == "confidence" else (bool(row["wrong"]), row["confidence"])
