"""What goes wrong with single files while a command goes on: named, counted, told at the end."""

from core.errors import PortalError
from node.cli.opening import told
from node.cli.progress import Status

EXIT_INCOMPLETE = 3


class Faults:
    """Names what could not be done; what is only worth a note is told to those who want notes."""

    def __init__(self, status: Status, *, verbose: bool = False) -> None:
        self.errors = 0
        self._status = status
        self._verbose = verbose

    def report(self, path: bytes, error: PortalError | OSError) -> None:
        """Something about this path, given without the slash it begins with."""
        from core.tree.entry import Changed, Incomplete, Skipped
        from core.tree.paths import shown

        is_note = isinstance(error, Changed | Incomplete | Skipped)
        text = error.what if isinstance(error, PortalError) else told(error)
        self._status.event("warning" if is_note else "error", path=shown(path), what=text)
        self.errors += not is_note
        if self._verbose or not is_note:
            self._status.say(f"portal: /{shown(path).lstrip('/')}: {text}")

    @property
    def exit_code(self) -> int:
        """Of a command that did the rest."""
        return EXIT_INCOMPLETE if self.errors else 0
