"""Trees with everything in them that a POSIX file system allows."""

# ruff: noqa: PTH102, PTH123, PTH211 - names are bytes; pathlib's are text

import os
import random
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

Attempt = Callable[[str, Callable[[], object]], None]  # (what it is, make it)

ODD_NAMES = [
    b"a name with spaces ",
    b" leading",
    b"-rf",
    b"--",
    b"*",
    b"...",
    b".hidden",
    b"new\nline",
    b"tab\tand\rreturn",
    b"\x1b[31mred\x07",
    b"back\\slash",
    b"quote'quote\"",
    b"\xff\xfe not UTF-8 \x80",
    b"\xc3",  # half a character
    b"\xed\xa0\x80",  # half a surrogate pair
    "Stra\u00dfe".encode(),
    "caf\u00e9".encode(),
    "cafe\u0301".encode(),  # the same word to people, another name to POSIX
    "\U0001f980".encode(),
    b"Case",
    b"case",
    b"trailing.",
    b"con",
    b"x" * 255,
    b"\xf0\x9f\xa6\x80" * 63 + b"123",
]
ACL_ACCESS, ACL_DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
CAPABILITY = struct.pack("<5I", 0x0200_0001, 1 << 10, 0, 0, 0)  # may bind low ports


def acl(user: int = 1234, *, permissions: int = 7) -> bytes:
    """An ACL that names one user."""
    rows = [(1, 7, -1), (2, permissions, user), (4, 5, -1), (0x10, 7, -1), (0x20, 4, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)


def can_set_xattr(folder: Path, name: str, value: bytes = b"x") -> bool:
    """Whether files in this folder may have an attribute of this name."""
    probe = folder / "probe of attributes"
    probe.touch()
    try:
        os.setxattr(probe, name, value)
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


def strange_tree(root: Path, *, seed: int = 1) -> list[str]:
    """Build a tree with everything in it that this user and file system allow; what was not."""
    rng = random.Random(seed)
    root.mkdir()
    refused: list[str] = []

    def attempt(what: str, make: Callable[[], object]) -> None:
        try:
            make()
        except OSError as e:
            refused.append(f"{what}: {e.strerror}")

    _plain_files(root, rng)
    _odd_names(root / "names", rng)
    _links(root / "links", attempt)
    _sparse_files(root / "sparse", rng)
    _special_files(root / "special", attempt)
    _attributes(root / "attributes", attempt)
    _owners_and_modes(root / "modes", attempt)
    _times(root, rng)
    return refused


def _plain_files(root: Path, rng: random.Random) -> None:
    for number, size in enumerate([0, 1, 100, 4095, 4096, 4097, 70_000, 3_000_001]):
        (root / f"file {number}").write_bytes(rng.randbytes(size))
    (root / "zeros that are no hole").write_bytes(bytes(300_000))
    (root / "empty" / "emptier" / "emptiest").mkdir(parents=True)
    for number in range(30):
        folder = root / "folders" / str(number % 7) / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(f"number {number}\n" * number)


def _odd_names(folder: Path, rng: random.Random) -> None:
    folder.mkdir()
    for name in ODD_NAMES:
        path = os.fsencode(folder) + b"/" + name
        with open(path, "wb") as file:
            file.write(rng.randbytes(20))
        inner = os.fsencode(folder) + b"/d " + name[:250]
        os.mkdir(inner)
        os.symlink(name, inner + b"/" + name)


def _links(folder: Path, attempt: Attempt) -> None:
    (folder / "far").mkdir(parents=True)
    (folder / "one").write_bytes(b"one file, three names")
    os.link(folder / "one", folder / "another")
    os.link(folder / "one", folder / "far" / "away")
    targets = ["one", "/etc/passwd", "nowhere", "loop", "..", "../../../../..", "far/", "x\ny"]
    for number, target in enumerate([*targets, "l" * 4000]):
        (folder / f"to {number}").symlink_to(target)
    (folder / "loop").symlink_to("loop")
    os.symlink(b"\xff\xfe", os.fsencode(folder / "to broken UTF-8"))
    attempt(
        "a link to a link",
        lambda: os.link(folder / "to 0", folder / "far" / "same link", follow_symlinks=False),
    )
    os.mkfifo(folder / "fifo")
    attempt("a link to a fifo", lambda: os.link(folder / "fifo", folder / "far" / "same fifo"))


def _sparse_files(folder: Path, rng: random.Random) -> None:
    folder.mkdir()
    mib = 1 << 20
    plans: dict[str, tuple[int, list[int]]] = {
        "hole only": (40 * mib, []),
        "holes at both ends": (64 * mib, [20 * mib, 41 * mib]),
        "hole in the middle": (32 * mib, [0, 32 * mib - 9000]),
        "odd length": (10 * mib + 17, [10 * mib]),
    }
    for name, (size, islands) in plans.items():
        with (folder / name).open("wb") as file:
            for offset in islands:
                file.seek(offset)
                file.write(rng.randbytes(min(9000, size - offset)))
            file.truncate(size)


def _special_files(folder: Path, attempt: Attempt) -> None:
    folder.mkdir()
    os.mkfifo(folder / "fifo", 0o640)
    for name, kind, device in [
        ("null", stat.S_IFCHR, os.makedev(1, 3)),
        ("large numbers", stat.S_IFCHR, os.makedev(4000, 1_000_000)),
        ("block", stat.S_IFBLK, os.makedev(7, 200)),
    ]:
        path, mode = folder / name, kind | 0o660
        attempt(name, partial(os.mknod, path, mode, device))


def _attributes(folder: Path, attempt: Attempt) -> None:
    folder.mkdir()
    values: dict[str, bytes] = {
        "user.plain": b"value",
        "user.empty": b"",
        "user.binary": bytes(range(256)),
        "user.\N{CRAB}": b"a name in Unicode",
        "user.long": b"v" * 3000,
        "trusted.overlay": b"for root",
        "security.thing": b"for root",
        "security.capability": CAPABILITY,
        ACL_ACCESS: acl(),
    }
    for number, (name, value) in enumerate(values.items()):
        path = folder / f"file {number}"
        path.write_bytes(b"has an attribute")
        attempt(name, partial(os.setxattr, path, name, value))
    inner = folder / "folder"
    inner.mkdir()
    for name, value in {"user.of a folder": b"1", ACL_ACCESS: acl(), ACL_DEFAULT: acl(77)}.items():
        attempt(name, partial(os.setxattr, inner, name, value))
    (inner / "got an ACL from above").write_bytes(b"")
    link = folder / "link"
    link.symlink_to("file 0")
    attempt("trusted of a link", lambda: os.setxattr(link, "trusted.l", b"", follow_symlinks=False))
    read_only = folder / "read-only with attributes"
    read_only.write_bytes(b"")
    attempt("user of a read-only file", lambda: os.setxattr(read_only, "user.a", b"1"))
    read_only.chmod(0o400)


def _owners_and_modes(folder: Path, attempt: Attempt) -> None:
    folder.mkdir()
    is_root = os.geteuid() == 0
    for mode in (0o000, 0o111, 0o444, 0o600, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o1644):
        if not is_root and not mode & 0o400:
            continue  # only root could read it again
        (folder / f"file {mode:o}").write_bytes(b"mode")
        (folder / f"file {mode:o}").chmod(mode)
    for mode in (0o000, 0o111, 0o555, 0o700, 0o755, 0o1777, 0o2775):
        inner = folder / f"folder {mode:o}"
        inner.mkdir()
        (inner / "inside").write_bytes(b"")
        if is_root or mode & 0o500 == 0o500:
            inner.chmod(mode)
    for number, (uid, gid) in enumerate([(1, 2), (12_345, 54_321), (0xFFFF_FFFE, 0xFFFF_FFFE)]):
        path = folder / f"owner {number}"
        path.write_bytes(b"")
        attempt(f"owner {uid}", partial(os.chown, path, uid, gid))
        with suppress(PermissionError):
            path.chmod(0o6755)
    link = folder / "link of someone"
    link.symlink_to("x")
    attempt("owner of a link", lambda: os.chown(link, 5, 6, follow_symlinks=False))


def _times(root: Path, rng: random.Random) -> None:
    """A time of its own for everything, the deepest first; before 1970 and after 2038 too."""
    paths = [Path(folder, name) for folder, inner, names in os.walk(root) for name in inner + names]
    for path in sorted(paths, key=lambda path: len(path.parts), reverse=True):
        second = rng.choice([-1, 0, 1, 1 << 31, rng.randrange(-(1 << 31), 1 << 33)])
        ns = second * 10**9 + rng.choice([0, 1, 999_999_999, rng.randrange(10**9)])
        os.utime(path, ns=(ns, ns), follow_symlinks=False)
    os.utime(root, ns=(1, -1))


def deep_tree(root: Path, levels: int, *, name: bytes = b"d" * 200) -> bytes:
    """Nest directories, with a file in each, deeper than any path could name; the deepest path."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    path = b""
    for level in range(levels):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
        path += (b"/" if path else b"") + name
        file = os.open(b"z", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
        os.write(file, b"level %d" % level)
        os.close(file)
    os.close(fd)
    return path
