"""Files that one call reads or writes, and doing the next such call while the last one is used.

A batch is filled by one thread and run by another: until then it holds the directories of its files
open by itself, since whoever opened them may close them for others at any time.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeVar

from core import limits


class Batch(ABC):
    """Bounded in bytes, files and directories."""

    def __init__(self) -> None:
        self.names = list[bytes]()  # of the files in the call
        self.requests = bytearray()
        self.bytes = 0
        self._count = 0
        self._holders = dict[bytes, int]()

    def __len__(self) -> int:
        return self._count

    def fits(self, size: int, files: int = 1) -> bool:
        """Whether files of this size may be added; an empty batch takes any one."""
        if not self._count and files == 1:
            return True
        if self.bytes + size > limits.TREE_BATCH_BYTES_MAX or files > self.files_left:
            return False
        return len(self._holders) < limits.TREE_BATCH_DIRECTORIES_MAX

    @property
    def files_left(self) -> int:
        """How many more of them may be added."""
        return limits.TREE_BATCH_FILES_MAX - self._count

    def count(self, number: int = 1) -> None:
        """More are in it, whether they will be part of the call or not."""
        self._count += number

    def held(self, directory: bytes) -> int | None:
        """The descriptor of this directory, if it is held."""
        return self._holders.get(directory)

    def hold(self, holder: int, directory: bytes) -> int:
        """A descriptor of this directory that stays open; `holder` is open now."""
        held = self._holders.get(directory)
        if held is None:
            held = self._holders[directory] = os.dup(holder)
        return held

    def let_go(self) -> None:
        """Close the directories."""
        while self._holders:
            os.close(self._holders.popitem()[1])

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
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - slow to import

    with ThreadPoolExecutor(1) as thread:
        under_way = thread.submit(batch.run)
        while following is not None:
            under_way.result()
            under_way = thread.submit(following.run)
            yield batch
            batch, following = following, next(batches, None)
        under_way.result()
        yield batch
