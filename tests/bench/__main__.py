"""`scripts/bench [NAME...]`: run benches by name, the short ones without a name.

A bench with options of its own (chunkers) takes them when it is the only one named.
"""

import importlib
import sys
from types import ModuleType

from core import process
from tests.bench.table import show

BENCHES = {
    "startup": "how long a command takes before it works",
    "malloc": "what keeping freed buffers is worth",
    "core": "the data path: every goal of core in one table",
    "chunkers": "how much of an edited copy is found again, and how fast",
    "coding": "Merkle trees and erasure codes, against the bare libraries",
    "sealing": "chunks into a pack and back, against the bare primitives",
    "pipeline": "bytes in memory to sealed packs in memory, on all cores",
    "archive": "warp archive beside tar, zstd, borg and cp",
    "vault": "portal backup and restore beside restic and borg",
    "links": "QUIC, lanes, AUTH, and lines that lose packets",
    "members": "a thousand members, an idle node, and how long it takes to pair two",
    "stream": "frames against the bare cipher, and two processes joined by pipes",
}
SHORT = ["startup", "malloc", "core"]


def main() -> None:
    names = sys.argv[1:] or SHORT
    process.keep_freed_buffers()
    if names[0] in BENCHES and hasattr(module := load(names[0]), "main"):
        sys.argv[:2] = [f"scripts/bench {names[0]}"]
        module.main()
    for name in names:
        if name not in BENCHES:
            known = "\n".join(f"  {name:<10} {what}" for name, what in BENCHES.items())
            sys.exit(f"bench: no bench is called {name!r}; there are\n{known}")
    met = [show(f"{name}: {BENCHES[name]}", load(name).rows()) for name in names]
    sys.exit(0 if all(met) else 1)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"tests.bench.{name}")


if __name__ == "__main__":
    main()
