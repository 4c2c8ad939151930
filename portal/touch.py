"""Changing what stands on the disk without writing it again: its metadata, its names.

For what a restore finds to be right already. Like core.tree.restore, it opens every directory from
the one that holds it and follows no link.
"""

import os

from core.tree.entry import Entry, Report
from core.tree.metadata import Metadata, Owners
from core.tree.nodes import dress_node
from core.tree.occupancy import Occupancy, Overwrite
from core.tree.source import Source
from core.tree.staging import Staging


class Touch:
    """One thread at a time."""

    def __init__(self, source: Source, owners: Owners, report: Report, *, privileged: bool) -> None:
        self._source = source
        self._metadata = Metadata(owners, report, privileged=privileged)
        self._has_proc = os.path.isdir("/proc/self/fd")  # noqa: PTH112 - asked once
        self._staging = Staging(Occupancy(Overwrite.REPLACE), has_proc=self._has_proc)

    def correct(self, entry: Entry) -> None:
        """Give what stands there the metadata it should have. Changed: it is another thing."""
        holder, name = self._source.place(entry.path)
        dress_node(holder, name, entry, self._metadata, has_proc=self._has_proc, drop_acls=False)

    def link(self, entry: Entry, first: bytes) -> None:
        """Make it another name of what stands at `first`; what had the name is replaced at once."""
        first_holder, first_name = self._source.place(first)
        first_holder = os.dup(first_holder)  # the next call may close it
        try:
            holder, name = self._source.place(entry.path)
            temporary = self._staging.temporary()
            os.link(
                first_name,
                temporary,
                src_dir_fd=first_holder,
                dst_dir_fd=holder,
                follow_symlinks=False,
            )
            self._staging.move(holder, temporary, name)
        finally:
            os.close(first_holder)
