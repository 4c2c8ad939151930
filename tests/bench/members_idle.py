"""An idle node with 50 peers: what it holds in memory, what it computes, what it sends.

The node is `portal-node run` in a home of its own; its peers live in another process, each a whole
node with a link to it over QUIC on the loopback, and none among themselves. That is the same to the
node (0.27 % of a core with all 1,225 links, 0.27 to 0.37 % so). After a while in which everything
that is done once is done, the kernel tells what the node's process holds and how long it ran within
a minute. Its peers count what it says and hears.

`python -m tests.bench.members_idle` runs this alone.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from core.device_cert import DeviceCert
from core.ids import NodeId
from mesh.members.authoring import found_mesh
from mesh.members.bodies import Genesis
from mesh.members.membership import Membership
from mesh.mesh import Mesh, Own
from mesh.records import Place, PlaceKind
from mesh.udp import UdpWire
from mesh.wire import Address, Arrival
from node import api, identity
from node.mesh_files import MeshFiles
from node.mesh_service import now_ms
from tests.bench.table import Row, show
from tests.support.daemon import Node
from tests.support.memberships import NOW_MS, Person, Replica, person
from tests.support.meshes import Files

HERE = "127.0.0.1"
PEERS = 50
WARM_UP_SECONDS = 30
MEASURED_SECONDS = 60
PATIENCE_SECONDS = 60
GOAL_MB, GOAL_PERCENT = 80, 0.5


def peer(number: int) -> Person:
    """One of them; both processes make the same."""
    return person(f"peer {number}")


# --- the peers, a process of their own ------------------------------------------------------------


class Counted(UdpWire):
    """Counts what passes between the node and all of them."""

    node: Address
    passed_bytes = 0
    passed_datagrams = 0

    async def receive(self) -> list[Arrival]:
        """What comes."""
        arrivals = await super().receive()
        for data, segment_bytes, source in arrivals:
            if source == Counted.node:
                Counted.passed_bytes += len(data)
                Counted.passed_datagrams += -(-len(data) // segment_bytes)
        return arrivals

    def send(self, datagrams: Sequence[bytes], to: Address) -> int:
        """What goes."""
        if to == Counted.node:
            Counted.passed_bytes += sum(map(len, datagrams))
            Counted.passed_datagrams += len(datagrams)
        return super().send(datagrams, to)


class Peer(Mesh):
    """A node that keeps a link to one other only: 1,225 links would not leave the machine idle."""

    only: NodeId

    def _wanted(self) -> set[NodeId]:
        return {self.only}


async def be_peers(members: bytes, node: NodeId, at: Address) -> None:
    """Live; tell what passed whenever a line comes in."""
    membership, _ = Membership.load_untrusted(members)
    Counted.node = at
    async with trio.open_nursery() as nursery:
        for number in range(PEERS):
            device = peer(number).devices[0]
            wire = Counted.bind(HERE, 0)
            own = Own(
                keys=device.keys,
                cert=device.cert,
                boot_id=b"elsewhere",
                now_ms=now_ms,
                places=lambda wire=wire: [Place(PlaceKind.LOCAL, wire.local)],  # type: ignore[misc]
            )
            one = Peer(wire, own, membership, Files())
            one.only = node
            one.whereabouts.hint(node, [at])
            await nursery.start(one.run)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            print(Counted.passed_bytes, Counted.passed_datagrams, flush=True)
        nursery.cancel_scope.cancel()


# --- the node -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a minute showed."""

    resident_bytes: int
    anonymous_bytes: int  # of these, what is its own and no file's
    cpu_percent: float
    bytes_per_s: float
    datagrams_per_s: float


def a_mesh_in(home: Path) -> NodeId:
    """Make the node of this home the founder of a mesh with all these peers."""
    me = identity.open(home)
    genesis = Genesis(
        "bench", bytes(32), me.cert_bytes, DeviceCert.open_untrusted(me.cert_bytes),
        peer(0).kem,
    )  # fmt: skip
    key = me.device.signing_key()
    replica = Replica(peer(0), Membership.begin_untrusted(found_mesh(key, genesis, NOW_MS)), key)
    for number in range(PEERS):
        replica.bring(peer(number))
    MeshFiles(home).begin(replica.membership)
    return NodeId(key.public)


@contextmanager
def peers(home: Path, node: NodeId, at: Address) -> Iterator["subprocess.Popen[str]"]:
    """Their process."""
    pipe = subprocess.PIPE
    argv = [sys.executable, "-m", __spec__.name, str(home), node.hex(), str(at.port)]
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def passed(process: "subprocess.Popen[str]") -> tuple[int, int]:
    """Bytes and datagrams between the node and all its peers, so far."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    size, count = process.stdout.readline().split()
    return int(size), int(count)


def cpu_s(pid: int) -> float:
    """What a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int, field: str) -> int:
    """What a process holds, by a line of its status."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def measure(seconds: float = MEASURED_SECONDS, warm_up_s: float = WARM_UP_SECONDS) -> Found:
    """A minute of an idle node's life."""
    with tempfile.TemporaryDirectory(prefix="portal-bench-") as folder:
        node = Node(Path(folder))
        (node.home / "config.toml").write_text(f'[node]\nlisten = "{HERE}:0"\n', encoding="utf-8")
        own = a_mesh_in(node.home)
        with node:
            assert node.process is not None
            pid = node.process.pid
            port = node.control.get(api.MESH, api.Mesh).listens_at.rpartition(":")[2]
            with peers(node.home, own, Address(HERE, int(port))) as process:
                until_linked(node)
                time.sleep(warm_up_s)
                before, began, (size, count) = cpu_s(pid), time.perf_counter(), passed(process)
                time.sleep(seconds)
                took_s, (size_now, count_now) = time.perf_counter() - began, passed(process)
                return Found(
                    memory_bytes(pid, "VmRSS"),
                    memory_bytes(pid, "RssAnon"),
                    (cpu_s(pid) - before) / took_s * 100,
                    (size_now - size) / took_s,
                    (count_now - count) / took_s,
                )


def until_linked(node: Node) -> None:
    """Wait until the node has all its peers."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        linked = sum(one.linked for one in node.control.get(api.PEERS, api.Peers).peers)
        if linked == PEERS:
            return
        assert time.monotonic() < until, f"only {linked} of {PEERS} peers are linked"
        time.sleep(0.5)


def rows() -> Iterator[Row]:
    """Memory, time, traffic."""
    found = measure()
    mb = found.resident_bytes / 1e6
    yield Row(
        f"idle node with {PEERS} peers: memory",
        f"{mb:.1f} MB",
        f"{found.anonymous_bytes / 1e6:.1f} MB its own, the rest code",
        f"{mb / GOAL_MB:.2f}x",
        f"<= {GOAL_MB} MB",
        mb <= GOAL_MB,
    )
    yield Row(
        "  computing, within a minute",
        f"{found.cpu_percent:.2f} % of a core",
        f"{found.datagrams_per_s:.1f} datagrams, {found.bytes_per_s:.0f} bytes a second",
        f"{found.cpu_percent / GOAL_PERCENT:.2f}x",
        f"<= {GOAL_PERCENT} %",
        found.cpu_percent <= GOAL_PERCENT,
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        place, name, port = sys.argv[1:]
        members = (Path(place) / "mesh" / "members").read_bytes()
        where = Address(HERE, int(port))
        trio.run(be_peers, members, NodeId(bytes.fromhex(name)), where)
    else:
        show("an idle node", rows())
