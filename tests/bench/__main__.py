"""`scripts/bench [NAME...]`: run benches by name, all of them without one."""

import importlib
import sys

from core import process
from tests.bench.table import show

BENCHES = {
    "startup": "how long a command takes before it works",
    "coding": "Merkle trees and erasure codes, against the bare libraries",
    "malloc": "what keeping freed buffers is worth",
}


def main() -> None:
    names = sys.argv[1:] or list(BENCHES)
    for name in names:
        if name not in BENCHES:
            known = "\n".join(f"  {name:<10} {what}" for name, what in BENCHES.items())
            sys.exit(f"bench: no bench is called {name!r}; there are\n{known}")
    process.keep_freed_buffers()
    met = [
        show(f"{name}: {BENCHES[name]}", importlib.import_module(f"tests.bench.{name}").rows())
        for name in names
    ]
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
