"""Files that one call reads or writes, and doing the next such call while the last one is used.

A batch is filled by one thread and run by another: until then it holds the directories of its files
open by itself, since whoever opened them may close them for others at any time.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from core import limits


class Batch(ABC):
    """Bounded in bytes, files and directories."""

    def __init__(self) -> None:
        self.names = list[bytes]()  # of the files in the call
        self.requests = bytearray()
        self.bytes = 0
        self._count = 0
        self._holders = list[int]()
        self._latest: tuple[int, bytes] | None = None

    def __len__(self) -> int:
        return self._count

    def fits(self, size: int) -> bool:
        """Whether one more of this size may be added; an empty batch takes any."""
        if not self._count:
            return True
        if self.bytes + size > limits.TREE_BATCH_BYTES_MAX:
            return False
        few = self._count < limits.TREE_BATCH_FILES_MAX
        return few and len(self._holders) < limits.TREE_BATCH_DIRECTORIES_MAX

    def count(self) -> None:
        """One more is in it, whether it will be part of the call or not."""
        self._count += 1

    def hold(self, holder: int, path: bytes) -> int:
        """A descriptor of the directory of this path that stays open; `holder` is open now."""
        latest = (holder, path.rpartition(b"/")[0])
        if latest != self._latest:
            self._holders.append(os.dup(holder))
            self._latest = latest
        return self._holders[-1]

    def let_go(self) -> None:
        """Close the directories."""
        while self._holders:
            os.close(self._holders.pop())

    def run(self) -> None:
        """Make the call."""
        try:
            self.call()
        finally:
            self.let_go()

    @abstractmethod
    def call(self) -> None:
        """Make the call, and keep what it answers."""


B = TypeVar("B", bound=Batch)


def one_ahead(batches: Iterator[B]) -> Iterator[B]:
    """Each batch when it was run; while the caller works on one, the next is run in a thread."""
    batch = next(batches, None)
    if batch is None:
        return
    try:
        following = next(batches, None)
    except BaseException:
        batch.let_go()
        raise
    if following is None:
        batch.run()  # no thread for a single one
        yield batch
        return
    with ThreadPoolExecutor(1) as thread:
        under_way = thread.submit(batch.run)
        while following is not None:
            under_way.result()
            under_way = thread.submit(following.run)
            yield batch
            batch, following = following, next(batches, None)
        under_way.result()
        yield batch
