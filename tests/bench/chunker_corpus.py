"""Data of many kinds, each before and after changes such as people make, from a fixed seed.

Real files of this machine where there are any (Python sources, ELF libraries, documents under
/usr/share), data bases written by SQLite, zipped office documents, a log, a disk image, a table of
counters, random bytes. Trees are taken up to a size, in a shuffled but repeatable order.
"""

import io
import os
import random
import sqlite3
import struct
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

KIB, MIB = 1024, 1 << 20
FILE_BYTES_MAX = 32 * MIB
EDIT_EVERY_BYTES = 4 * MIB

SOURCES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr/lib/python3")
LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/bin")
DOCUMENTS = ("/usr/share/doc", "/usr/share")

File = tuple[str, bytes]


class Pair(NamedTuple):
    """The same data before and after."""

    old: bytes
    new: bytes


# --- what there is -------------------------------------------------------------------------------


def files(
    folders: Iterable[str], size: int, rng: random.Random, wanted: Callable[[bytes], bool]
) -> list[File]:
    """Files of these folders, `size` bytes in all or what there is."""
    found = sorted({path for folder in folders for path in walk(folder)})
    rng.shuffle(found)
    taken: list[File] = []
    for path in found:
        if size <= 0:
            break
        try:
            content = Path(path).read_bytes()
        except OSError:
            continue
        if content and wanted(content):
            taken.append((path.lstrip("/"), content))
            size -= len(content)
    return taken


def walk(folder: str) -> Iterator[str]:
    for top, _, names in os.walk(folder):
        for name in names:
            path = Path(top, name)
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= FILE_BYTES_MAX:
                yield str(path)


def sources(size: int, rng: random.Random) -> list[File]:
    def is_text(content: bytes) -> bool:
        return b"\0" not in content and b"import" in content

    return files((path for path in SOURCES if path), size, rng, is_text)


def elf(content: bytes) -> bool:
    return content.startswith(b"\x7fELF")


def anything(_content: bytes) -> bool:
    return True


# --- how it changes ------------------------------------------------------------------------------


def edited(data: bytes, rng: random.Random) -> bytes:
    """Insertions, deletions and replacements, one in EDIT_EVERY_BYTES; every fourth is large."""
    places = sorted(rng.randrange(len(data)) for _ in range(max(2, len(data) // EDIT_EVERY_BYTES)))
    parts, last = [], 0
    for i, place in enumerate(places):
        size = rng.randrange(10 * KIB, 600 * KIB) if i % 4 == 3 else rng.randrange(1, 200)
        kind = rng.choice(["insert", "delete", "replace"])
        start = max(place, last)
        parts.append(data[last:start])
        if kind != "delete":
            parts.append(rng.randbytes(size))
        last = start if kind == "insert" else start + size
    parts.append(data[last:])
    return b"".join(parts)


def next_version(tree: list[File], rng: random.Random) -> list[File]:
    """Of a few hundred files, one goes, one comes and two change."""
    after: list[File] = []
    for path, content in tree:
        luck = rng.randrange(1200)
        if luck == 0:
            continue
        at = rng.randrange(len(content))
        changed = content[:at] + b"# a changed line\n" + content[at + rng.randrange(40) :]
        after.append((path, changed if luck < 5 else content))
        if luck == 5:
            after.append((path + ".new", content[::-1]))
    return after


# --- kinds of data -------------------------------------------------------------------------------


def tar(tree: Iterable[File]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in tree:
            info = tarfile.TarInfo(path[-90:])
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(parts: Iterable[File]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, content in parts:
            archive.writestr(zipfile.ZipInfo(path[-90:]), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def random_bytes(size: int, rng: random.Random) -> Pair:
    data = rng.randbytes(size)
    return Pair(data, edited(data, rng))


def python_text(size: int, rng: random.Random) -> Pair:
    data = b"".join(content for _, content in sources(size, rng))
    return Pair(data, edited(data, rng))


def source_tar(size: int, rng: random.Random) -> Pair:
    tree = sources(size, rng)
    return Pair(tar(tree), tar(next_version(tree, rng)))


def elf_libraries(size: int, rng: random.Random) -> Pair:
    data = b"".join(content for _, content in files(LIBRARIES, size, rng, elf))
    return Pair(data, edited(data, rng))


def shared_documents(size: int, rng: random.Random) -> Pair:
    data = tar(files(DOCUMENTS, size, rng, anything))
    return Pair(data, edited(data, rng))


def data_base(size: int, rng: random.Random) -> Pair:
    """A year's table: rows are added at the end, a few close together change, one day is purged."""
    words = [rng.randbytes(rng.randrange(1, 6)).hex() for _ in range(2_000)]

    def row(number: int) -> tuple[int, str, str]:
        return number, " ".join(rng.choices(words, k=4)), " ".join(rng.choices(words, k=50))

    count = size // 400
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "db")
        db = sqlite3.connect(path)
        db.execute("create table event (id integer primary key, title text, body text)")
        db.executemany("insert into event values (?, ?, ?)", map(row, range(count)))
        db.commit()
        old = path.read_bytes()
        db.executemany("insert into event values (?, ?, ?)", map(row, range(count, count + 800)))
        for _ in range(size // (8 * MIB) + 1):
            hot = rng.randrange(count)
            db.execute(
                "update event set body = title || body where id between ? and ?", (hot, hot + 5)
            )
        purged = rng.randrange(count)
        db.execute("delete from event where id between ? and ?", (purged, purged + 300))
        db.commit()
        db.close()
        return Pair(old, path.read_bytes())


def office_documents(size: int, rng: random.Random) -> Pair:
    """A folder, in one tar, of zipped XML documents; of each thirty, one was edited and saved."""
    words = [word for _, text in sources(2 * MIB, rng) for word in text.decode("latin-1").split()]
    media = [rng.randbytes(rng.randrange(20 * KIB, 300 * KIB)) for _ in range(40)]
    old: list[File] = []
    new: list[File] = []
    made = 0
    while made < size:
        body = " ".join(rng.choices(words, k=40_000)).encode()
        parts = [("styles.xml", body[:9_000]), ("document.xml", body)]
        parts += [(f"media/{i}.png", rng.choice(media)) for i in range(rng.randrange(5))]
        document = zipped(parts)
        name = f"document {len(old)}.docx"
        old.append((name, document))
        if rng.randrange(30) == 0:
            at = rng.randrange(len(body))
            parts[1] = ("document.xml", body[:at] + b"a new paragraph " + body[at:])
            document = zipped(parts)
        new.append((name, document))
        made += len(document)
    return Pair(tar(old), tar(new))


def log_file(size: int, rng: random.Random) -> Pair:
    """The oldest tenth is rotated away, new lines are appended, a few are redacted."""
    lines = [
        b"2026-%02d-%02dT%02d:%02d host%d app[%d]: %s /item/%d %d %dms\n"
        % (
            *(i // 90_000 % 12 + 1, i // 3_000 % 28 + 1, i // 120 % 24, i // 2 % 60),
            *(rng.randrange(40), rng.randrange(9_999), rng.choice([b"GET", b"PUT", b"POST"])),
            *(rng.randrange(10**6), rng.choice([200, 200, 304, 404]), rng.randrange(3_000)),
        )
        for i in range(size // 56)
    ]
    kept = lines[len(lines) // 10 :]
    for _ in range(len(kept) // 100_000 + 2):
        kept[rng.randrange(len(kept))] = b"(redacted)\n"
    return Pair(b"".join(lines), b"".join(kept + lines[: len(lines) // 20]))


def disk_image(size: int, rng: random.Random) -> Pair:
    """Files on 4 KiB blocks with gaps of zeros; later some runs of blocks are written over."""
    parts = []
    for _, content in files((*LIBRARIES, *DOCUMENTS), size * 3 // 4, rng, anything):
        parts.append(content + bytes(-len(content) % 4096))
        if rng.randrange(40) == 0:
            parts.append(bytes(4096 * rng.randrange(1, 400)))
    old = b"".join(parts)
    new = bytearray(old)
    for _ in range(max(2, len(old) // EDIT_EVERY_BYTES)):
        at = 4096 * rng.randrange(len(old) // 4096)
        new[at : at + 8192] = rng.randbytes(min(8192, len(old) - at))
    return Pair(old, bytes(new))


def counter_table(size: int, rng: random.Random) -> Pair:
    data = struct.pack(f"<{size // 4}I", *range(size // 4))
    return Pair(data, edited(data, rng))


KINDS: dict[str, Callable[[int, random.Random], Pair]] = {
    "random bytes": random_bytes,
    "Python text": python_text,
    "source tar": source_tar,
    "ELF libraries": elf_libraries,
    "/usr/share tar": shared_documents,
    "SQLite": data_base,
    "office tar": office_documents,
    "log": log_file,
    "disk image": disk_image,
    "u32 counters": counter_table,
}


def corpus(size: int, seed: int) -> Iterator[tuple[str, Pair]]:
    """Every kind in turn, about `size` bytes each; without those this machine has no data for."""
    for name, make in KINDS.items():
        pair = make(size, random.Random(f"{name} {seed}"))
        if len(pair.old) >= size // 4:
            yield name, pair
