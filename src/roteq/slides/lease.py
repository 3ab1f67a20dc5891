"""One process at a time works on a slide, also where several hosts share its folder.

A lease is a file that says who holds it and that is touched while it is held. Locks of the file system are not enough:
many shared ones have none, or keep those of a host that is gone. A lease ends with its holder: at once on the same
host, where one can see that the process is over; elsewhere when it was not touched for `STALE` seconds on the clock of
whoever waits, since clocks of hosts differ. A holder that slept and finds its lease taken ends its process: there are
never two.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import RoteqError

BEAT = 3.0  # seconds from touch to touch
STALE = 30.0  # seconds without one after which a holder is gone
SETTLE = 1.0  # seconds after which of several that took a lease over the last has it
DEATHS = 2  # of holders in one run, after which the slide is to blame


@dataclass(frozen=True)
class Holder:
    """The content of a lease."""

    id: str
    host: str  # one kernel and its numbers of processes
    pid: int
    began: str  # tells a process from a later one of the same number
    run: str
    deaths: int = 0  # of earlier holders in the same run


@contextmanager
def leased(path: Path, run: str) -> Iterator[None]:
    """Hold a lease; wait while another holds it.

    run: the call of `map_slides`. Raises: RoteqError if holders died twice in this run, or `path` cannot be written.
    """
    mine = _take(path, Holder(uuid.uuid4().hex, _host(), os.getpid(), _began(os.getpid()), run))
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, mine, ended), daemon=True)
    beating.start()
    try:
        if mine.deaths >= DEATHS:
            raise RoteqError(f"the process that worked on it died, {mine.deaths} times; out of memory?")
        yield
    finally:
        ended.set()
        beating.join()
        found = _look(path)
        if found and found[0] == mine:
            path.unlink(missing_ok=True)


def _take(path: Path, mine: Holder) -> Holder:
    seen, since = None, 0.0
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(mine)))
            return mine
        except FileExistsError:
            pass
        except OSError as error:
            raise RoteqError(f"{path}: could not be written: {error.strerror or error}") from None
        found = _look(path)
        if found is None:
            continue  # given back in this moment
        if found != seen:
            seen, since = found, time.monotonic()
        holder = found[0]
        if _is_over(holder) or time.monotonic() - since > STALE:
            deaths = holder.deaths + 1 if holder and holder.run == mine.run else 0
            taken = Holder(**asdict(mine) | {"deaths": deaths})
            own = path.with_name(f".{path.name}.{mine.id}")  # two hosts may have processes of the same number
            own.write_text(json.dumps(asdict(taken)), encoding="utf-8")
            own.replace(path)
            time.sleep(SETTLE)
            found = _look(path)
            if found and found[0] == taken:
                return taken
        else:
            time.sleep(BEAT / 3)


def _look(path: Path) -> tuple[Holder | None, int] | None:
    """Who holds it (None: not legible, or not yet) and when it was touched; None: nobody has it."""
    try:
        with path.open(encoding="utf-8") as file:  # opening asks the server; a mere stat may be an old answer
            touched, text = os.fstat(file.fileno()).st_mtime_ns, file.read()
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text)), touched
    except (ValueError, TypeError):
        return None, touched


def _beat(path: Path, mine: Holder, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        try:
            found = _look(path)
            if found and found[0] != mine:
                print(f"{path}: was taken over while this process slept; it ends", file=sys.stderr, flush=True)
                os._exit(1)
            os.utime(path)
        except OSError:
            pass  # a shared folder may be away for a moment


def _is_over(holder: Holder | None) -> bool:
    """Whether it is known that this process ended."""
    return holder is not None and holder.host == _host() and bool(holder.began) and _began(holder.pid) != holder.began


def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _began(pid: int) -> str:
    """When the process started; nothing if it is over, or the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
