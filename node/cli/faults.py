"""What goes wrong with single files while a command goes on: named, counted, told at the end."""

from core.errors import PortalError
from node.cli.opening import told
from node.cli.progress import Status

EXIT_INCOMPLETE = 3
_HINTS_MAX = 8  # said once each


class Faults:
    """Names what could not be done; what is only worth a note is told to those who want notes."""

    def __init__(self, status: Status, *, verbose: bool = False) -> None:
        self.errors = 0
        self._status = status
        self._verbose = verbose
        self._hints = set[str]()

    def report(self, path: bytes, error: PortalError | OSError) -> None:
        """Something about this path, given without the slash it begins with."""
        from core.tree.entry import Changed, Incomplete, Skipped
        from core.tree.paths import shown

        is_note = isinstance(error, Changed | Incomplete | Skipped)
        text = error.what if isinstance(error, PortalError) else told(error)
        self._status.event("warning" if is_note else "error", path=shown(path), what=text)
        self.errors += not is_note
        if self._verbose or not is_note:
            self._status.say(f"portal: /{shown(path).lstrip('/')}: {text}{self._hint(error)}")

    def _hint(self, error: PortalError | OSError) -> str:
        """What to do about it, but not behind every one of a thousand lines."""
        hint = error.hint if isinstance(error, PortalError) else None
        if not hint or hint in self._hints or len(self._hints) >= _HINTS_MAX:
            return ""
        self._hints.add(hint)
        return f" ({hint})"

    @property
    def exit_code(self) -> int:
        """Of a command that did the rest."""
        return EXIT_INCOMPLETE if self.errors else 0
