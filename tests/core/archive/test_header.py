import struct
from dataclasses import replace

import pytest

from core.archive.header import HEADER_BYTES, Body, Head
from core.archive.keys import ArchiveKeys, Lock
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat, WrongKey
from core.secret import Secret
from core.slots import Argon2Cost

SALT = bytes(range(32))
KEYS = ArchiveKeys.derive(Secret(bytes(32)), SALT)
PLAIN = Head(Lock.NONE, None, SALT)
LOCKED = Head(Lock.KEY_FILE, None, SALT)
INDEX_BYTES = {Lock.NONE: 3 * 56, Lock.KEY_FILE: 3 * 56 + 60}


def body(head):
    index_off = 500
    end = index_off + INDEX_BYTES[head.lock]
    return Body(end, index_off, 400, 3, 1, 7, 12345, 2, bytes([1]) * 32, bytes([2]) * 32)


def archive(head, keys, changed=None):
    whole = changed or body(head)
    header = whole.sealed(head, keys)
    return header + bytes(body(head).archive_len - len(header))


def read(keys):
    def opened(data):
        head = Head.read_untrusted(data)
        return head, Body.open_untrusted(data, head, keys)

    return opened


@pytest.mark.parametrize(("head", "keys"), [(PLAIN, None), (LOCKED, KEYS)])
def test_round_trip_in_256_bytes(head, keys):
    data = archive(head, keys)
    assert len(body(head).sealed(head, keys)) == HEADER_BYTES
    assert read(keys)(data) == (head, body(head))


@pytest.mark.parametrize(("head", "keys"), [(PLAIN, None), (LOCKED, KEYS)])
def test_every_damage_to_the_header_is_refused(head, keys):
    data = archive(head, keys)
    refused = (FormatError, IntegrityError)
    for i in range(HEADER_BYTES):
        for bit in (0, i % 8):
            bad = bytearray(data)
            bad[i] ^= 1 << bit
            with pytest.raises(refused):
                read(keys)(bytes(bad))
    cut_or_longer = [data[:size] for size in range(len(data))] + [data + b"\0", data + data]
    for bad in [*cut_or_longer, data[1:]]:
        with pytest.raises(refused):
            read(keys)(bad)


def test_a_locked_header_shows_a_stranger_how_it_is_locked_and_nothing_else():
    data = archive(LOCKED, KEYS)
    assert struct.pack(">Q", body(LOCKED).archive_len) not in data
    assert body(LOCKED).root not in data
    with pytest.raises(WrongKey):
        read(ArchiveKeys.derive(Secret(bytes([1]) * 32), SALT))(data)


def test_passphrase_parameters_are_bounded_and_belong_to_passphrases_only():
    cost = Argon2Cost(64 * 1024, 3, 4)
    head = Head(Lock.PASSPHRASE, cost, SALT)
    data = head.to_bytes() + bytes(208)
    assert Head.read_untrusted(data) == head
    bomb = bytearray(data)
    bomb[8:12] = b"\xff" * 4
    with pytest.raises(LimitExceeded):
        Head.read_untrusted(bytes(bomb))
    misplaced = bytearray(data)
    misplaced[5] = Lock.KEY_FILE
    with pytest.raises(FormatError, match="passphrase"):
        Head.read_untrusted(bytes(misplaced))


def test_unfinished_newer_and_other_files_are_told_apart():
    data = bytearray(archive(PLAIN, None))
    for place, value, error, words in (
        (4, 2, NewerFormat, "version 2"),
        (4, 0, FormatError, "any version"),
        (5, 99, NewerFormat, "lock 99"),
        (6, 1, FormatError, "any version"),
        (0, 0, FormatError, "not a warp archive"),
    ):
        changed = bytearray(data)
        changed[place] = value
        with pytest.raises(error, match=words):
            Head.read_untrusted(bytes(changed))
    with pytest.raises(FormatError, match="never finished"):
        Head.read_untrusted(bytes(1000))


@pytest.mark.parametrize(
    "change",
    [
        {"index_off": 499},
        {"table_off": 100},
        {"table_off": 501},
        {"table_chunks": 4},
        {"chunk_count": 4},
        {"chunk_count": 2**60},
        {"archive_len": 10_000},
    ],
)
@pytest.mark.parametrize(("head", "keys"), [(PLAIN, None), (LOCKED, KEYS)])
def test_even_the_owner_cannot_make_parts_that_do_not_fit(head, keys, change):
    with pytest.raises(FormatError):
        read(keys)(archive(head, keys, replace(body(head), **change)))


@pytest.mark.parametrize(
    ("name", "head", "keys"), [("plain", PLAIN, None), ("locked", LOCKED, KEYS)]
)
def test_golden(golden, name, head, keys):
    header = bytes.fromhex(golden("archive.json")["headers"][name])
    assert body(head).sealed(head, keys) == header
    data = header + bytes(body(head).archive_len - HEADER_BYTES)
    assert read(keys)(data) == (head, body(head))
