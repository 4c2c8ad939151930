"""Which way to a peer: chosen by measurement, and held until another is better for long enough.

    class of path     same host (in-process, Unix)  >  network (LAN, direct, WireGuard)  >  relay
    within a class    control: the shortest round trip; bulk: the highest goodput
    when equal        in-process > Unix > LAN > direct > WireGuard > relay; bulk: the cheaper lane

A path of a higher class is taken at once when it is trusted, one of a lower class only when no
higher one is. Within a class a path takes over when it is better by 20 percent (control: or by
10 ms, and in any case by more than both vary), or as good and of a preferred kind, as
mesh/choice.py says. A path that loses trust is left at once; each time it does, it has to wait
longer before it is taken again, 30 s, 60 s, up to 8 minutes, as long as there is another one.
"""

import ipaddress
from enum import Enum, IntEnum
from functools import lru_cache
from typing import NamedTuple

from core import limits
from mesh.choice import Choice
from mesh.quality import Goodput, Quality
from mesh.wire import Address

BETTER_BY = 0.20
BETTER_BY_SECONDS = 0.010
HOLD_SECONDS = 30.0
HOLD_SECONDS_MAX = 480.0
_ABOUT_AS_FAST = 0.10
_SPREADS = 2.0  # a gain within so many mean deviations may be noise
_LOSS_TOLD_MIN = 0.001

_LOOPBACK_BONUS, _PRIVATE_BONUS, _IPV6_BONUS = 0.5, 0.2, 0.1


class Tier(IntEnum):
    """Kinds of paths, the preferred first."""

    INPROC = 0
    UNIX = 1
    LAN = 2
    DIRECT = 3
    WIREGUARD = 4
    RELAY = 5

    @property
    def rank(self) -> int:
        """Its class."""
        return 0 if self <= Tier.UNIX else 1 if self < Tier.RELAY else 2


class Lane(Enum):
    """How bytes move: name, and nanoseconds of processor per byte, from the goals' rates."""

    MEMORY = ("memory", 0.1)
    UNIX = ("unix", 1.1)
    TCP = ("tcp", 4.0)
    QH3 = ("qh3", 13.0)
    AIOQUIC = ("aioquic", 84.0)

    @property
    def cpu_ns_per_byte(self) -> float:
        """What moving a byte costs."""
        return self.value[1]


class Path(NamedTuple):
    """A way to a peer."""

    tier: Tier
    remote: Address | None = None  # where there are addresses
    via: str = ""  # the socket's name, the hub, the interface: what tells it from others

    def __str__(self) -> str:
        parts = (self.tier.name.lower(), str(self.remote or ""), self.via)
        return " ".join(part for part in parts if part)


class Route(NamedTuple):
    """A way for bulk data."""

    path: Path
    lane: Lane


class Tiers:
    """The paths to one peer. Tell it what happens, ask `control` and `bulk` when it matters."""

    def __init__(self, *, cap_bytes_per_s: float = float("inf")) -> None:
        self._paths: dict[Path, Quality] = {}
        self._goodput: dict[Route, Goodput] = {}
        self._control = Choice(_ByRoundTrip(self._paths))
        self._bulk = Choice(_ByGoodput(self._goodput, cap_bytes_per_s))

    @property
    def switches(self) -> int:
        """How often the choices changed, for metrics."""
        return self._control.switches + self._bulk.switches

    # --- what happens -----------------------------------------------------------------------------

    def offer(self, path: Path) -> bool:
        """A way that may work; measured from now on. Refused when there are too many."""
        if path not in self._paths and len(self._paths) < limits.PATHS_MAX:
            self._paths[path] = Quality()
        return path in self._paths

    def withdraw(self, path: Path) -> None:
        """A way that is gone."""
        for lane in Lane:
            self.remove_lane(Route(path, lane))
        self._control.drop(path)
        self._paths.pop(path, None)

    def add_lane(self, route: Route) -> None:
        """Bulk data may go this way."""
        if route.path in self._paths:
            self._goodput.setdefault(route, Goodput())

    def remove_lane(self, route: Route) -> None:
        """Bulk data cannot go this way any more."""
        self._bulk.drop(route)
        self._goodput.pop(route, None)

    def asked(self, path: Path, now: float) -> None:
        """A ping left on a path."""
        if path in self._paths:
            self._paths[path].asked(now)

    def answered(self, path: Path, rtt_s: float, now: float) -> None:
        """A ping was answered on a path: one sample of it."""
        if path in self._paths:
            self._paths[path].answered(rtt_s, now)
            self._control.sampled([path], self._usable_paths(now), now)

    def missed(self, path: Path, now: float) -> None:
        """A ping was given up on a path."""
        if path in self._paths:
            self._paths[path].missed(now)

    def moved(
        self, route: Route, moved_bytes: int, seconds: float, now: float, *, was_bottleneck: bool
    ) -> None:
        """Bulk data went this way for a while: one sample.

        Others are seldom used at the same time, so what they did before counts against it.
        """
        if route in self._goodput:
            self._goodput[route].slice(moved_bytes, seconds, was_bottleneck=was_bottleneck)
            is_held = route == self._bulk.held
            measured = list(self._goodput) if is_held else [route]
            self._bulk.sampled(measured, self._usable_routes(now), now)

    # --- what to do -------------------------------------------------------------------------------

    def control(self, now: float) -> Path | None:
        """The path for small things; nothing while nothing ever answered."""
        return self._control.settle(self._usable_paths(now), now)

    def bulk(self, now: float) -> Route | None:
        """The path and lane for much; nothing while there is none."""
        return self._bulk.settle(self._usable_routes(now), now)

    def untried(self, now: float) -> list[Route]:
        """Lanes nothing was ever moved on, of paths that are trusted: worth a first transfer."""
        return [
            route for route in self._usable_routes(now) if self._goodput[route].bytes_per_s is None
        ]

    def explain(self, now: float) -> str:
        """A line for each path, those in use first, for people."""
        control, bulk = self.control(now), self.bulk(now)
        used = {control, bulk.path if bulk else None}
        order = sorted(self._paths, key=lambda path: (path not in used, path.tier, str(path)))
        return "\n".join(self._line(path, control, bulk, now) for path in order)

    # --- what may be chosen -----------------------------------------------------------------------

    def _usable_paths(self, now: float) -> list[Path]:
        trusted = [path for path, quality in self._paths.items() if quality.is_trusted(now)]
        return self._steady(trusted, self._control.held, now)

    def _usable_routes(self, now: float) -> list[Route]:
        trusted = [path for path in self._paths if self._paths[path].is_trusted(now)]
        held = self._bulk.held.path if self._bulk.held else None
        with_lanes = {route.path for route in self._goodput}
        steady = self._steady([path for path in trusted if path in with_lanes], held, now)
        return [route for route in self._goodput if route.path in steady]

    def _steady(self, trusted: list[Path], held: Path | None, now: float) -> list[Path]:
        """Paths that keep losing trust count only if there is no other."""
        steady = [path for path in trusted if path == held or not self._on_hold(path, now)]
        return steady or trusted

    def _on_hold(self, path: Path, now: float) -> bool:
        quality = self._paths[path]
        if quality.distrusted_at is None:
            return False
        doubled_s = HOLD_SECONDS * 2.0 ** (quality.losses_of_trust - 1)
        return now - quality.distrusted_at < min(HOLD_SECONDS_MAX, doubled_s)

    def _line(self, path: Path, control: Path | None, bulk: Route | None, now: float) -> str:
        quality = self._paths[path]
        uses = ["control"] * (path == control)
        if bulk is not None and bulk.path == path:
            uses.append(f"bulk by {bulk.lane.value[0]}")
        words = [str(path), " and ".join(uses) or "spare"]
        if quality.srtt_s is None:
            return ", ".join([*words, "never answered"])
        words.append(f"{quality.srtt_s * 1_000:.1f} ms ± {quality.rttvar_s * 1_000:.1f}")
        if quality.loss >= _LOSS_TOLD_MIN:
            words.append(f"{quality.loss:.1%} of pings lost")
        for route, goodput in self._goodput.items():
            if route.path == path and goodput.bytes_per_s is not None:
                words.append(f"{route.lane.value[0]} {goodput.bytes_per_s * 8 / 1e6:.0f} Mbit/s")
        if not quality.is_trusted(now):
            words.append("does not answer")
        elif self._on_hold(path, now):
            words.append("answers again, but was lost lately")
        return ", ".join(words)


class _ByRoundTrip:
    """For small things. Judges only paths that have answered."""

    def __init__(self, paths: dict[Path, Quality]) -> None:
        self._paths = paths

    def rank(self, one: Path) -> int:
        """The class of its kind."""
        return one.tier.rank

    def order(self, one: Path) -> tuple[object, ...]:
        """By kind."""
        return (one.tier, str(one))

    def is_better(self, one: Path, than: Path) -> bool:
        """By 20 percent or 10 ms."""
        mine, other = self._score_s(one), self._score_s(than)
        return mine <= other * (1 - BETTER_BY) or other - mine >= BETTER_BY_SECONDS

    def takes_over(self, one: Path, current: Path) -> bool:
        """Better, and not by noise; or of a preferred kind and no worse."""
        gain_s = self._score_s(current) - self._score_s(one)
        if one.tier < current.tier and gain_s >= 0:
            return True
        spread_s = max(self._paths[one].rttvar_s, self._paths[current].rttvar_s)
        return gain_s >= _SPREADS * spread_s and self.is_better(one, current)

    def _score_s(self, path: Path) -> float:
        """The round trip, with a bonus for ways that are likely to stay good."""
        return (self._paths[path].srtt_s or 0.0) / (1 + _bonus(path.remote))


class _ByGoodput:
    """For bulk data."""

    def __init__(self, goodput: dict[Route, Goodput], cap_bytes_per_s: float) -> None:
        self._goodput = goodput
        self._cap_bytes_per_s = cap_bytes_per_s  # more than this nobody wants: policy

    def rank(self, one: Route) -> int:
        """The class of its path's kind."""
        return one.path.tier.rank

    def order(self, one: Route) -> tuple[object, ...]:
        """By kind, then the cheaper lane."""
        return (one.path.tier, one.lane.cpu_ns_per_byte, str(one.path))

    def is_better(self, one: Route, than: Route) -> bool:
        """By 20 percent, as measured."""
        mine, other = self._rate(one), self._rate(than)
        return mine is not None and other is not None and mine >= other * (1 + BETTER_BY)

    def takes_over(self, one: Route, current: Route) -> bool:
        """Better; or about as fast, and cheaper or of a preferred kind."""
        mine, other = self._rate(one), self._rate(current)
        if mine is None or other is None:
            return False
        as_fast = mine >= other * (1 - _ABOUT_AS_FAST)
        return self.is_better(one, current) or (as_fast and self._is_preferred(one, current))

    @staticmethod
    def _is_preferred(one: Route, current: Route) -> bool:
        mine, other = one.lane.cpu_ns_per_byte, current.lane.cpu_ns_per_byte
        return (mine, one.path.tier) < (other, current.path.tier)

    def _rate(self, route: Route) -> float | None:
        measured = self._goodput[route].bytes_per_s
        return None if measured is None else min(measured, self._cap_bytes_per_s)


@lru_cache(maxsize=1_024)
def _bonus(remote: Address | None) -> float:
    try:
        ip = ipaddress.ip_address(remote.host.partition("%")[0]) if remote else None
    except ValueError:
        ip = None
    if ip is None:
        return 0.0
    near = _LOOPBACK_BONUS if ip.is_loopback else _PRIVATE_BONUS if ip.is_private else 0.0
    return near + (_IPV6_BONUS if ip.version == 6 else 0.0)
