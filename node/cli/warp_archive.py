"""`warp archive`: pack trees into one file, look into it, take them out again."""

import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import KeystoreError, PortalError, UsageError
from node.cli.progress import Status, size_text, time_text

if TYPE_CHECKING:
    from types import FrameType

    from core.archive.create import Creation, Made
    from core.archive.keys import Opener
    from core.archive.reader import ArchiveReader
    from core.archive.table import Segment, Stored
    from core.secret import Secret

EXIT_INCOMPLETE = 3
_STDIN = Path("-")
_STDIN_BYTES = 1 << 20
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATH = click.Path(path_type=Path)
_COMPRESSION = {"auto": "AUTO", "none": "OFF", "lz4": "LZ4", "zstd": "ZSTD"}


def _with(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_file = click.argument("file", type=_PATH)
_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress.")
_threads = click.option("--threads", type=click.IntRange(1, 256), help="Default: every core.")
_gpu = click.option("--gpu", default="auto", help="auto or off; this version has no GPU path yet.")
_keys = _with(
    click.option("--key-file", type=_PATH, help="32 bytes or 64 hex digits; warp stream keygen."),
    click.option("--passphrase-file", type=_PATH, help="Its first line, instead of a prompt."),
    click.option(
        "--recipient", help="vault: whoever holds the keys of this machine's vault opens it."
    ),
)


@click.group()
def archive() -> None:
    """Pack trees into one file, deduplicated, compressed and, if asked, sealed."""


@archive.command()
@click.argument("inputs", nargs=-1, required=True, type=_PATH)
@click.option("-o", "--output", required=True, type=_PATH, help="The archive to make.")
@click.option(
    "--compression", type=click.Choice(list(_COMPRESSION)), default="auto", show_default=True
)
@click.option("--encrypt", is_flag=True, help="Seal it: with a passphrase unless a key is named.")
@_keys
@click.option("--resume", is_flag=True, help="Go on with an archive that was interrupted.")
@click.option("-x", "--one-file-system", is_flag=True, help="Leave out what is mounted below.")
@click.option("-e", "--exclude", multiple=True, help="Leave out paths that match; repeatable.")
@_threads
@_gpu
@_quiet
@_json
def create(inputs: tuple[Path, ...], output: Path, **asked: Any) -> int:
    """Make an archive of files and directories, or with - of a tar stream on stdin.

    It grows as OUTPUT.partial and gets its name when it is whole. Exit code 3: it was made, but
    some files could not be read.
    """
    _prepare(asked["gpu"])
    from core.archive.create import Creation, Options
    from core.compress import Mode
    from core.tree.matching import matching

    from_stdin = inputs == (_STDIN,)
    if _STDIN in inputs and (not from_stdin or asked["one_file_system"]):
        raise UsageError("- stands for a tar stream on stdin, and for all of the archive")
    missing = [path for path in inputs if not from_stdin and not os.path.lexists(path)]
    if missing:
        raise UsageError("does not exist", where=str(missing[0]))
    if output.exists():
        raise UsageError("exists already", where=str(output), hint="choose another name")
    partial = output.with_name(output.name + ".partial")
    if partial.exists() and not asked["resume"]:
        hint = "--resume goes on with it; delete it to begin anew"
        raise UsageError("an interrupted archive is there", where=str(partial), hint=hint)
    excluded = (
        matching(tuple(os.fsencode(p) for p in asked["exclude"])) if asked["exclude"] else None
    )
    options = Options(
        opener=_closer(**asked),
        mode=Mode[_COMPRESSION[asked["compression"]]],
        threads=asked["threads"],
        resume=asked["resume"],
        one_file_system=asked["one_file_system"],
        **({"exclude": lambda path, _is_directory: excluded(path)} if excluded else {}),
    )
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    faults = _Faults(status)
    creation = Creation(options, faults.report, lambda: _show_creation(status, creation))
    try:
        made = _made(creation, output, () if from_stdin else inputs)
    except BaseException:
        status.clear()
        if partial.exists():
            status.say(f"warp: what was done is kept: --resume goes on, or delete {partial}")
        raise
    status.clear()
    totals = made.totals
    status.event(
        "summary",
        entries=totals.entries,
        content_bytes=totals.content_bytes,
        new_bytes=totals.new_bytes,
        archive_bytes=made.archive_bytes,
        errors=faults.count,
        seconds=round(status.seconds, 3),
    )
    status.say(
        f"{totals.entries} entries, {size_text(totals.content_bytes)} "
        f"in {time_text(status.seconds)}"
        f"\n{size_text(totals.new_bytes)} after dedup, {size_text(made.archive_bytes)} stored"
        f"\narchive {output} made" + faults.closing()
    )
    return faults.exit_code


@archive.command()
@_file
@click.argument("patterns", nargs=-1)
@click.option("-o", "--output", required=True, type=_PATH, help="The directory to restore into.")
@_keys
@click.option("--verify", is_flag=True, help="Check the whole archive before anything is written.")
@click.option(
    "--overwrite",
    type=click.Choice(["refuse", "replace", "skip", "if-newer"]),
    default="refuse",
    show_default=True,
    help="What happens to files that are there.",
)
@click.option(
    "--stranger", is_flag=True, help="No setuid bits, devices and rights, not its owners."
)
@_threads
@_gpu
@_quiet
@_json
def extract(file: Path, patterns: tuple[str, ...], output: Path, **asked: Any) -> int:
    """Take files out: everything, or what PATTERNS name (paths, directories, * and ?).

    Nothing is written outside of the directory, whatever the archive says. Exit code 3: some
    files could not be restored; each was named.
    """
    _prepare(asked["gpu"])
    from core.archive.extract import Extraction
    from core.tree.matching import matching
    from core.tree.restore import Target

    reader = _open(file, asked)
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    faults = _Faults(status)
    if asked["verify"]:
        _verify_all(reader, status, asked["threads"])
    output.mkdir(parents=True, exist_ok=True)
    with Target(output, _restore_options(asked), faults.report) as target:

        def watch() -> None:
            done, total = extraction.restored, reader.body.content_bytes
            status.update(done.content_bytes, total, done.entries)

        select = matching(tuple(os.fsencode(p) for p in patterns))
        extraction = Extraction(reader, target, faults.report, select, watch)
        extraction.extract(asked["threads"])
    status.clear()
    done = extraction.restored
    if patterns and not done.entries and not faults.count:
        raise UsageError("nothing in the archive matches", where=str(file))
    facts = {"entries": done.entries, "content_bytes": done.content_bytes, "errors": faults.count}
    status.event("summary", **facts, seconds=round(status.seconds, 3))
    status.say(
        f"{done.entries} entries, {size_text(done.content_bytes)} restored to {output} "
        f"in {time_text(status.seconds)}" + faults.closing()
    )
    return faults.exit_code


@archive.command("list")
@_file
@click.option("-l", "--long", is_flag=True, help="With mode, owner, size and time.")
@_keys
@_json
def list_command(file: Path, *, long: bool, **asked: Any) -> None:
    """List what is in an archive, one path per line."""
    _prepare("auto")
    reader = _open(file, asked)
    write = sys.stdout.write
    if asked["as_json"]:
        _list_json(reader, write)
        return
    for segment in reader.segments_untrusted():
        if long:
            for stored in segment.entries_untrusted():
                write(_long_line(stored))
        else:
            write(_names(segment))


@archive.command()
@_file
@click.option("--sample", metavar="N%", help="Only so many of the chunks, chosen at random.")
@_keys
@_threads
@_quiet
@_json
def verify(file: Path, sample: str | None, **asked: Any) -> int:
    """Check an archive: every chunk, the table, and that all of it leads to its root."""
    _prepare("auto")
    reader = _open(file, asked)
    status = Status(as_json=asked["as_json"], quiet=asked["quiet"])
    share = _share(sample) if sample else 1.0
    checked = _verify_all(reader, status, asked["threads"], share)
    facts = {"chunks": checked, "of": len(reader.index), "entries": reader.body.entry_count}
    status.event("summary", **facts, root=reader.body.root.hex())
    status.say(
        f"{checked} of {len(reader.index)} chunks checked, {reader.body.entry_count} entries"
        f"\nroot {reader.body.root.hex()}\n{file} is whole" + (" as far as seen" * (share < 1))
    )
    return 0


@archive.command()
@_file
@click.argument("path")
@_keys
def cat(file: Path, path: str, **asked: Any) -> None:
    """Write one file of an archive to stdout, reading nothing else."""
    _prepare("auto")
    reader = _open(file, asked)
    stored = reader.find_untrusted(os.fsencode(path).strip(b"/"))
    if stored is None:
        raise UsageError(
            f"holds no file {path}", where=str(file), hint="warp archive list shows all"
        )
    for part in reader.content_untrusted(stored):
        sys.stdout.buffer.write(part)


# --- keys -----------------------------------------------------------------------------------------


def _closer(**asked: Any) -> "Opener | None":
    """How a new archive is to be closed."""
    named = [n for n in ("key_file", "passphrase_file", "recipient") if asked[n]]
    if len(named) > 1:
        raise UsageError("an archive has one lock: choose one of " + " and ".join(named))
    if not named and not asked["encrypt"]:
        return None
    return _opener(asked, confirm=True)


def _opener(asked: dict[str, Any], *, confirm: bool = False) -> "Opener":
    from core.archive.keys import KeyFileOpener, PassphraseOpener, VaultOpener
    from node.cli.warp_stream import load_key

    if asked["key_file"]:
        return KeyFileOpener(load_key(asked["key_file"]))
    if asked["recipient"]:
        return VaultOpener(_vault_master(asked["recipient"]))
    return PassphraseOpener(_passphrase(asked["passphrase_file"], confirm=confirm))


def _open(file: Path, asked: dict[str, Any]) -> "ArchiveReader":
    """The archive, with what opens it: a prompt comes only when it is locked with a passphrase."""
    from core.archive.keys import Lock
    from core.archive.reader import ArchiveReader, lock_of_untrusted

    lock = lock_of_untrusted(file)
    needs_prompt = lock is Lock.PASSPHRASE
    if lock is Lock.VAULT and not asked["recipient"]:
        asked = asked | {"recipient": "vault"}
    given = needs_prompt or asked["key_file"] or asked["recipient"]
    openers = [_opener(asked)] if lock is not Lock.NONE and given else []
    return ArchiveReader.open_file(file, openers)


def _passphrase(file: Path | None, *, confirm: bool) -> "Secret":
    from core import limits
    from core.files import read_bounded
    from core.secret import Secret

    if file is not None:
        return Secret(read_bounded(file, limits.PASSPHRASE_BYTES_MAX).partition(b"\n")[0])
    if not sys.stdin.isatty():
        raise UsageError("no terminal to ask for a passphrase", hint="--passphrase-file FILE")
    typed = click.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return Secret(typed.encode())


def _vault_master(recipient: str) -> "Secret":
    from core import keystore
    from core.slots import KeyFileProvider
    from node.home import portal_home

    home = portal_home()
    if recipient != "vault":
        raise UsageError("the recipient can only be: vault")
    if not (home / "keystore").exists():
        raise KeystoreError("there is no vault on this machine", where=str(home))
    opened = keystore.load(home / "keystore", [KeyFileProvider(home / "device.key")])
    if len({vault for vault, _ in opened.contents.vaults}) != 1:
        raise KeystoreError("there is not exactly one vault on this machine", where=str(home))
    newest = max(opened.contents.vaults, key=lambda key: key[1])
    return opened.contents.vaults[newest]


# --- doing ----------------------------------------------------------------------------------------


def _made(creation: "Creation", output: Path, inputs: tuple[Path, ...]) -> "Made":
    from core.tree.source import Root

    if inputs:
        return creation.create(output, [Root.of(os.fsencode(p)) for p in inputs])
    with _stdin() as read:
        made = creation.create_from_tar(output, read)
        while read(_STDIN_BYTES):  # zeros up to a full record: whoever writes them is not cut off
            pass
    return made


@contextmanager
def _stdin() -> Iterator[Callable[[int], bytes]]:
    """Reads stdin in a thread, which an interrupt ends even while nothing comes."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("no tar stream on stdin", hint="tar c DIR | warp archive create - -o FILE")
    wake, waker = os.pipe()
    before = {number: signal.getsignal(number) for number in _ENDING}

    def interrupted(number: int, frame: "FrameType | None") -> None:
        os.write(waker, b"x")
        then = before[signal.Signals(number)]
        if callable(then) and then is not signal.default_int_handler:
            then(number, frame)

    for number, then in before.items():
        if callable(then):  # what is ignored or ends the process at once stays so
            signal.signal(number, interrupted)
    try:
        with io.BufferedReader(_Waiting(sys.stdin.fileno(), wake), _STDIN_BYTES) as reader:
            yield reader.read
    finally:
        for number, then in before.items():
            signal.signal(number, then)
        os.close(wake)
        os.close(waker)


class _Waiting(io.RawIOBase):
    """A pipe to read from, and another that says that all should end."""

    def __init__(self, fd: int, wake: int) -> None:
        self._fd, self._wake = fd, wake
        self._ready = select.poll()
        self._ready.register(fd, select.POLLIN)
        self._ready.register(wake, select.POLLIN)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill some of the buffer; nothing at the end."""
        while True:
            if self._wake in {fd for fd, _ in self._ready.poll()}:
                raise KeyboardInterrupt
            try:
                return os.readv(self._fd, [buffer])
            except BlockingIOError:  # somebody made the shared stdin non-blocking
                continue


def _prepare(gpu: str) -> None:
    from core import native, process

    if gpu not in {"auto", "off"}:
        raise UsageError("this version has no GPU path", hint="--gpu auto works everywhere")
    process.forbid_core_dumps()
    process.prepare_for_bulk()
    warning = native.kernel().warning
    if warning:
        click.echo(f"warp: {warning}", err=True)


def _show_creation(status: Status, creation: Any) -> None:
    from core.tree.paths import shown

    if not status.is_due:
        return
    progress = creation.progress
    stored = f"{size_text(progress.stored_bytes)} stored"
    status.update(
        *(progress.read_bytes, progress.total_bytes, progress.files),
        f"{stored}  {shown(progress.now)}",
    )


def _verify_all(
    reader: "ArchiveReader", status: Status, threads: int | None, share: float = 1.0
) -> int:
    from core.archive.verify import Verification

    verification = Verification(reader)
    total = len(reader.index)
    count = max(1, round(total * share)) if total else 0

    def watch() -> None:
        status.update(verification.checked_bytes, 0, verification.checked)

    verification.verify(count, watch, threads)
    status.clear()
    return verification.checked


def _restore_options(asked: dict[str, Any]) -> Any:
    from core.tree.metadata import Owners
    from core.tree.occupancy import Overwrite
    from core.tree.restore import Options

    mine = asked["stranger"] or os.geteuid() != 0
    return Options(
        overwrite=Overwrite(asked["overwrite"]),
        owners=Owners.MINE if mine else Owners.NUMBERS,
        privileged=not asked["stranger"],
    )


class _Faults:
    """What could not be done, said at once and counted."""

    def __init__(self, status: Status) -> None:
        self.count = 0
        self._status = status

    def report(self, path: bytes, error: PortalError | OSError) -> None:
        from core.tree.paths import shown

        self.count += 1
        what = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        name = shown(path)
        line = what if what.startswith(name) else f"{name}: {what}"
        self._status.event("error", item=name, error=what)
        self._status.say(f"warp: {line}")

    @property
    def exit_code(self) -> int:
        return EXIT_INCOMPLETE if self.count else 0

    def closing(self) -> str:
        return f", but {self.count} faults (exit {EXIT_INCOMPLETE})" if self.count else ""


def _share(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise UsageError(f"--sample is {text!r}; a percentage like 5% is meant")
    return percent / 100


# --- lists ----------------------------------------------------------------------------------------


def _names(segment: "Segment") -> str:
    """All names of a segment, a line each, safe for a terminal."""
    from core.tree.paths import shown

    with suppress(UnicodeDecodeError):
        text = b"\n".join(segment.paths).decode()
        names = text.replace("\n", "")
        if len(names) == len(text) - len(segment) + 1 and names.isprintable():
            return text + "\n"
    return "".join(shown(path) + "\n" for path in segment.paths)


def _long_line(stored: "Stored") -> str:
    import stat

    from core.tree.paths import shown

    entry = stored.entry
    mode = stat.filemode(_FORMATS[entry.type] | entry.mode)
    owner = f"{entry.user or entry.uid}/{entry.group or entry.gid}"
    when = _when(entry.mtime_ns)
    target = f" -> {shown(entry.target)}" if entry.target else ""
    link = f" link to {shown(stored.link)}" if stored.link is not None else ""
    return f"{mode} {owner:<15} {entry.size:>12} {when[:19]} {shown(entry.path)}{target}{link}\n"


_FORMATS = {1: 0o100000, 2: 0o040000, 3: 0o120000, 5: 0o010000, 6: 0o020000, 7: 0o060000}


def _when(mtime_ns: int) -> str:
    from datetime import UTC, datetime

    seconds, rest = divmod(mtime_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _list_json(reader: "ArchiveReader", write: Callable[[str], object]) -> None:
    import json

    from core.tree.paths import shown

    between = "["
    for stored in reader.entries_untrusted():
        entry = stored.entry
        facts: dict[str, Any] = {
            "path": shown(entry.path),
            "type": entry.type.name.lower() if stored.link is None else "hard_link",
            "mode": f"{entry.mode:04o}",
            "uid": entry.uid,
            "gid": entry.gid,
            "user": entry.user,
            "group": entry.group,
            "mtime": _when(entry.mtime_ns),
            "size": entry.size,
        }
        if entry.target or stored.link is not None:
            facts["target"] = shown(stored.link or entry.target)
        write(between + json.dumps(facts))
        between = ",\n"
    write("]\n" if between != "[" else "[]\n")
