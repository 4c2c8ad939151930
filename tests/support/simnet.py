"""A network in virtual time for the whole stack: hosts, wires, faults and enemies, from one seed.

    simulate(main, seed)          main(net) under trio's mock clock: waiting takes no time
    net.host("10.0.0.1")          a machine: its wires, its clock, its crash, its move
    host.wire(4000)               a mesh.wire.Wire; all of what mesh/ builds on it is the real thing
    net.link(a, b, Path(...))     what lies between: delay, loss, rate, queue (tests/support/hop.py)
    net.cut([a], [b]), heal()     nothing passes between these
    net.taps, net.inject(...)     somebody on the way, or anywhere: hears, bends, forges, repeats

One task delivers everything in the order of time, so with one seed the same happens again;
`net.trace.digest` tells whether it did. What sends random bytes must send them in fixed sizes.
"""

import errno
import heapq
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import blake2b
from random import Random
from typing import NamedTuple, TypeVar

import trio
from trio._core import _run
from trio.testing import MockClock

from core import limits
from mesh.wire import Address, Arrival
from tests.support.hop import HEADER_BYTES, Hop, Path

T = TypeVar("T")

EPOCH_S = 1_800_000_000  # what a right clock shows when a simulation begins
LATE_S = 1e-6
FLIGHT_MAX = 200_000  # datagrams under way at once; more is a storm, and an error
INBOX_BYTES = limits.UDP_BUFFER_BYTES
TOLD_MAX = 20  # last events shown when a simulation fails
_FIRST_PORT = 40_000


class Datagram(NamedTuple):
    """What was sent, or goes on in its place."""

    data: bytes
    source: Address
    to: Address


Tap = Callable[[Datagram], Iterable[Datagram]]


class Trace:
    """What arrived where and when: a digest of all of it, and the end of it to look at."""

    def __init__(self) -> None:
        self.events = 0
        self.last: deque[str] = deque(maxlen=TOLD_MAX)
        self._hash = blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """Equal if the same happened, at the same times."""
        return self._hash.hexdigest()

    def add(self, now: float, what: str, datagram: Datagram) -> None:
        """One event."""
        self.events += 1
        line = f"{now:.6f} {what} {datagram.source} -> {datagram.to} {len(datagram.data)}"
        self.last.append(line)
        self._hash.update(line.encode() + b"\n")


class SimNet:
    """The network. `run` delivers and is part of `simulate`."""

    def __init__(self, seed: int, path: Path | None = None) -> None:
        self.rng = Random(seed)
        self.trace = Trace()
        self.path = path or Path(delay_s=0.01)  # between hosts that were not linked otherwise
        self.taps: list[Tap] = []
        self.hosts: dict[str, Host] = {}  # by present address
        self._wires: dict[Address, SimWire] = {}  # by what others see
        self._hops: dict[tuple[Host, Host], Hop] = {}
        self._cuts: set[frozenset[Host]] = set()
        self._under_way: list[tuple[float, int, Datagram]] = []
        self._numbers = itertools.count()
        self._scope = trio.CancelScope()

    # --- building ---------------------------------------------------------------------------------

    def host(self, address: str | None = None) -> "Host":
        """A machine; the same again for the same address."""
        if address is None:
            number = len(self.hosts) + 1
            address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        if address not in self.hosts:
            self.hosts[address] = Host(self, address)
        return self.hosts[address]

    def wire(self, address: str, port: int = 0) -> "SimWire":
        """A wire of the machine at this address."""
        return self.host(address).wire(port)

    def link(self, one: "Host", other: "Host", path: Path, back: Path | None = None) -> None:
        """Say what lies between two machines, or change it."""
        self._hops[one, other] = Hop(path, self.rng)
        self._hops[other, one] = Hop(back or path, self.rng)

    def hop(self, one: "Host", other: "Host") -> Hop:
        """The way from one to the other."""
        if (one, other) not in self._hops:
            self._hops[one, other] = Hop(self.path, self.rng)
        return self._hops[one, other]

    # --- faults -----------------------------------------------------------------------------------

    def cut(self, ones: Iterable["Host"], others: Iterable["Host"]) -> None:
        """From now on nothing that is sent between these arrives."""
        self._cuts |= {frozenset(pair) for pair in itertools.product(ones, others)}

    def isolate(self, host: "Host") -> None:
        """Cut off one machine from all there are."""
        self.cut([host], [other for other in self.hosts.values() if other is not host])

    def heal(self) -> None:
        """Undo every cut."""
        self._cuts.clear()

    def inject(self, data: bytes, source: Address, to: Address, delay_s: float = 0.0) -> None:
        """Anybody may send anything and claim to be anyone. No tap and no path applies to it."""
        self._launch(trio.current_time() + delay_s, Datagram(data, source, to))

    # --- carrying ---------------------------------------------------------------------------------

    def send(self, sender: "Host", datagram: Datagram) -> None:
        """Take a datagram of a wire on its way."""
        going = [datagram]
        for tap in self.taps:
            going = [after for before in going for after in tap(before)]
        for one in going:
            self._carry(sender, one)

    def _carry(self, sender: "Host", datagram: Datagram) -> None:
        now = trio.current_time()
        receiver = self.hosts.get(datagram.to.host)
        if receiver is None or frozenset((sender, receiver)) in self._cuts:
            self.trace.add(now, "nowhere", datagram)
            return
        times = self.hop(sender, receiver).send(len(datagram.data), now)
        if not times:
            self.trace.add(now, "lost", datagram)
        for at in times:
            self._launch(at, datagram)

    def _launch(self, at: float, datagram: Datagram) -> None:
        if len(self._under_way) >= FLIGHT_MAX:
            raise RuntimeError("a storm: more datagrams under way than a simulation carries")
        heapq.heappush(self._under_way, (at, next(self._numbers), datagram))
        self._scope.deadline = min(self._scope.deadline, at)

    async def run(self) -> None:
        """Deliver everything at its time; until cancelled."""
        while True:
            due = self._under_way[0][0] if self._under_way else math.inf
            with trio.CancelScope(deadline=due) as self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._under_way and self._under_way[0][0] <= now:
                self._deliver(now, heapq.heappop(self._under_way)[2])

    def _deliver(self, now: float, datagram: Datagram) -> None:
        wire = self._wires.get(datagram.to)
        taken = wire is not None and wire.put(datagram)
        self.trace.add(now, "arrives" if taken else "refused", datagram)

    # --- what hosts and wires tell ----------------------------------------------------------------

    def settle(self, wire: "SimWire", outside: Address) -> None:
        """From now on a wire is seen at this address."""
        if outside in self._wires:
            raise OSError(errno.EADDRINUSE, f"address in use: {outside}")
        self.leave(wire)
        wire.outside = outside
        self._wires[outside] = wire

    def leave(self, wire: "SimWire") -> None:
        """It is seen nowhere any more."""
        if self._wires.get(wire.outside) is wire:
            del self._wires[wire.outside]

    def is_free(self, address: Address) -> bool:
        """Whether a wire can be had there."""
        return address not in self._wires


class Host:
    """A machine with an address, wires and a clock of its own."""

    def __init__(self, net: SimNet, address: str) -> None:
        self.address = address
        self.offset_s = 0.0  # how far its clock is ahead
        self.drift = 0.0  # seconds it gains in each
        self.wires: list[SimWire] = []
        self._net = net
        self._ports = itertools.count(_FIRST_PORT)

    def wire(self, port: int = 0) -> "SimWire":
        """Bind a port; 0: any."""
        if port == 0:
            addresses = (Address(self.address, number) for number in self._ports)
            local = next(address for address in addresses if self._net.is_free(address))
        else:
            local = Address(self.address, port)
        wire = SimWire(self._net, self, local)
        self._net.settle(wire, wire.local)
        self.wires.append(wire)
        return wire

    def now_ms(self) -> int:
        """What its wall clock shows."""
        now = trio.current_time()
        return round((EPOCH_S + self.offset_s + now * (1 + self.drift)) * 1_000)

    def move(self, address: str) -> None:
        """It is elsewhere from now on, and so are its wires; nobody is at the old address."""
        if address in self._net.hosts:
            raise OSError(errno.EADDRINUSE, f"address in use: {address}")
        del self._net.hosts[self.address]
        self._net.hosts[address] = self
        self.address = address
        for wire in self.wires:
            self._net.settle(wire, Address(address, wire.outside.port))

    def crash(self) -> None:
        """Its process is gone: wires closed, ports free. Whoever runs on it is to be cancelled."""
        for wire in list(self.wires):
            wire.close()


class SimWire:
    """A mesh.wire.Wire of a simulated machine."""

    def __init__(self, net: SimNet, host: Host, local: Address) -> None:
        self.local = local
        self.outside = local  # what others see: another after a move
        self.overflowed = 0  # datagrams that found the inbox full
        self._net = net
        self._host = host
        self._inbox: deque[Datagram] = deque()
        self._inbox_bytes = 0
        self._closed = False
        self._full = False
        self._news = trio.lowlevel.ParkingLot()

    def rebind(self, port: int) -> None:
        """A NAT in between forgot: others see it at another port."""
        self._net.settle(self, Address(self.outside.host, port))

    def fill(self, *, full: bool = True) -> None:
        """Its buffer is full, and takes nothing; or (False) has room again."""
        self._full = full
        self._news.unpark_all()

    # --- mesh.wire.Wire ---------------------------------------------------------------------------

    async def receive(self) -> list[Arrival]:
        """Wait for something to come; a bounded batch of what is there."""
        await trio.lowlevel.checkpoint()
        while not self._closed:
            if self._inbox:
                return self._batch()
            await self._news.park()
        raise trio.ClosedResourceError

    def send(self, datagrams: Sequence[bytes], to: Address) -> int:
        """How many of them were taken."""
        if self._full:
            return 0
        if not self._closed:
            for data in datagrams:
                self._net.send(self._host, Datagram(data, self.outside, to))
        return len(datagrams)

    async def writable(self) -> None:
        """Wait until `send` may take more."""
        await trio.lowlevel.checkpoint()
        while self._full and not self._closed:
            await self._news.park()
        if self._closed:
            raise trio.ClosedResourceError

    def close(self) -> None:
        """Free it."""
        if not self._closed:
            self._closed = True
            self._inbox.clear()
            self._host.wires.remove(self)
            self._net.leave(self)
            self._news.unpark_all()

    # --- what the network tells -------------------------------------------------------------------

    def put(self, datagram: Datagram) -> bool:
        """Something arrives: whether there was room."""
        size = HEADER_BYTES + len(datagram.data)
        if self._inbox_bytes + size > INBOX_BYTES:
            self.overflowed += 1
            return False
        self._inbox.append(datagram)
        self._inbox_bytes += size
        self._news.unpark_all()
        return True

    def _batch(self) -> list[Arrival]:
        """As a kernel that gathers: what came from one sender in equal sizes is one train."""
        batch: list[Arrival] = []
        while self._inbox and len(batch) < limits.UDP_BATCH_ARRIVALS_MAX:
            first = self._inbox.popleft()
            size, train = len(first.data), [first.data]
            most = min(limits.UDP_TRAIN_SEGMENTS_MAX, limits.UDP_TRAIN_BYTES_MAX // max(1, size))
            while self._inbox and size and len(train) < most and len(train[-1]) == size:
                then = self._inbox[0]
                if then.source != first.source or not 0 < len(then.data) <= size:
                    break
                train.append(self._inbox.popleft().data)
            data = b"".join(train)
            self._inbox_bytes -= len(train) * HEADER_BYTES + len(data)
            batch.append(Arrival(data, max(1, size), first.source))
        return batch


# --- enemies and listeners ------------------------------------------------------------------------


class Recorder:
    """A tap that keeps what passes, to look at or to send again."""

    def __init__(self, most: int = 10_000) -> None:
        self.datagrams: deque[Datagram] = deque(maxlen=most)

    def __call__(self, datagram: Datagram) -> Iterable[Datagram]:
        self.datagrams.append(datagram)
        return [datagram]


class Corrupter:
    """A tap that flips a bit in some of what passes."""

    def __init__(self, rng: Random, chance: float) -> None:
        self.flipped = 0
        self._rng = rng
        self._chance = chance

    def __call__(self, datagram: Datagram) -> Iterable[Datagram]:
        if datagram.data and self._rng.random() < self._chance:
            bent = bytearray(datagram.data)
            bent[self._rng.randrange(len(bent))] ^= 1 << self._rng.randrange(8)
            self.flipped += 1
            return [datagram._replace(data=bytes(bent))]
        return [datagram]


# --- running --------------------------------------------------------------------------------------


def virtual_clock() -> MockClock:
    """Waiting takes no time, and every timer fires a little late, as on every machine.

    On the dot, sums of times may say that what is due is not: aioquic compares `sent + delay` here
    and `now - delay` there, and with a clock that stands still would be woken for ever.
    """
    clock = MockClock(autojump_threshold=0)
    vars(clock)["jump"] = lambda seconds: MockClock.jump(clock, seconds + LATE_S)
    return clock


def simulate(main: Callable[[SimNet], Awaitable[T]], seed: int, path: Path | None = None) -> T:
    """What `main(net)` returns; with one seed always the same. A failure tells its seed."""
    net = SimNet(seed, path)

    async def whole() -> T:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net.run)
            result = await main(net)
            nursery.cancel_scope.cancel()
        return result

    before = _run._ALLOW_DETERMINISTIC_SCHEDULING
    state = _run._r.getstate()
    vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    _run._r.seed(seed)
    try:
        return trio.run(whole, clock=virtual_clock())
    except BaseException as e:
        last = "\n  ".join(net.trace.last)
        e.add_note(f"simulate(..., seed={seed}): {net.trace.events} events, the last:\n  {last}")
        raise
    finally:
        vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = before
        _run._r.setstate(state)
