import random
from collections import defaultdict

import pytest

from core import limits
from core.errors import FormatError
from portal.table import KEY_BYTES, Table, write_table

KEY = bytes(range(32))
ROW_BYTES = 32


def rows_of(count, seed=1, *, spread=1 << 128):
    rng = random.Random(seed)
    return sorted(
        rng.randrange(spread).to_bytes(16) + rng.randbytes(ROW_BYTES - 16) for _ in range(count)
    )


def made(tmp_path, rows, note=b"note", row_bytes=ROW_BYTES):
    path = tmp_path / "cache" / "a.table"
    write_table(path, KEY, rows, row_bytes, note)
    return path


def assert_same(table, rows, others=()):
    oracle = defaultdict(list)
    for row in rows:
        oracle[row[:KEY_BYTES]].append(row)
    for key in [*oracle, *others]:
        assert list(table.find(key)) == oracle.get(key, [])


@pytest.mark.parametrize(
    "count", sorted({0, 1, 2} | {n + d for n in (7, 8, 64, 512, 4096) for d in (-1, 0, 1)})
)
def test_find_agrees_with_a_dict(tmp_path, count):
    rows = rows_of(count, count)
    table = Table(made(tmp_path, rows), KEY)
    rng = random.Random(count)
    near = [bytes([*row[:15], (row[15] + 1) % 256]) for row in rows[:100]]
    ends = [bytes(16), b"\xff" * 16]
    assert_same(table, rows, [*near, *ends, *(rng.randbytes(16) for _ in range(100))])
    assert list(table.rows()) == rows
    assert (table.note, table.row_bytes, table.count) == (b"note", ROW_BYTES, count)
    table.close()


@pytest.mark.parametrize("spread", [1, 3, 1 << 96, 1 << 100])
def test_keys_that_crowd_together_and_repeat_are_all_found(tmp_path, spread):
    rows = rows_of(1000, spread=spread)
    assert_same(Table(made(tmp_path, rows), KEY), rows, [bytes(16), b"\x01" + bytes(15)])


def test_the_first_and_last_bits_of_a_key_count(tmp_path):
    rows = sorted(
        (top << 120).to_bytes(16) + bytes([n]) * 16 for top in range(256) for n in range(9)
    )
    assert_same(Table(made(tmp_path, rows), KEY), rows)


def test_a_match_that_is_no_row_is_no_match(tmp_path):
    # The key stands across two rows, and once more as a row.
    key = b"\x10" + b"k" * 15
    before = bytes([0x10]) + bytes(23) + key[:8]
    after = key[8:] + bytes(24)
    rows = sorted([before, after, key + bytes(16), b"\x10" + bytes(15) + key])
    assert_same(Table(made(tmp_path, rows), KEY), rows, [key])


@pytest.mark.parametrize("row_bytes", [16, 17, 48, 65_535])
def test_rows_of_any_length(tmp_path, row_bytes):
    rng = random.Random(row_bytes)
    rows = sorted(rng.randbytes(row_bytes) for _ in range(40))
    assert_same(Table(made(tmp_path, rows, row_bytes=row_bytes), KEY), rows)


def test_a_table_is_private_and_appears_whole(tmp_path):
    path = made(tmp_path, rows_of(5))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(TypeError):
        write_table(path.with_name("b.table"), KEY, [*rows_of(3), None], ROW_BYTES, b"")
    write_table(path, KEY, [], ROW_BYTES, b"")  # over the old one
    assert [p.name for p in path.parent.iterdir()] == ["a.table"]


def test_nothing_half_written_stays_on_a_full_disk(tmp_path, monkeypatch):
    def full(_fd, _how, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdopen", full)
    with pytest.raises(OSError, match="No space"):
        made(tmp_path, rows_of(5))
    assert not list((tmp_path / "cache").iterdir())


def test_a_table_of_another_key_is_refused(tmp_path):
    with pytest.raises(FormatError, match="damaged"):
        Table(made(tmp_path, rows_of(5)), bytes(32))


@pytest.mark.slow
def test_damage_before_the_rows_and_any_change_of_length_is_refused(tmp_path):
    rows = rows_of(20)
    path = made(tmp_path, rows)
    data = path.read_bytes()
    rows_at = len(data) - len(rows) * ROW_BYTES
    bad = [bytes([*data[:i], data[i] ^ 1 << i % 8, *data[i + 1 :]]) for i in range(rows_at)]
    bad += [data[:i] for i in range(len(data))]
    bad += [data + b"\0", data + bytes(ROW_BYTES), b""]
    for one in bad:
        path.write_bytes(one)
        with pytest.raises(FormatError):
            Table(path, KEY)


def test_a_damaged_row_is_found_wrong_or_not_at_all(tmp_path):
    rows = rows_of(20)
    path = made(tmp_path, rows)
    data = bytearray(path.read_bytes())
    data[-ROW_BYTES] ^= 1
    path.write_bytes(data)
    table = Table(path, KEY)
    assert list(table.find(rows[-1][:16])) == []
    assert list(table.find(rows[0][:16])) == [rows[0]]


def test_a_table_too_large_or_gone_is_refused(tmp_path, monkeypatch):
    path = made(tmp_path, rows_of(20))
    monkeypatch.setattr(limits, "TABLE_BYTES_MAX", 100)
    with pytest.raises(FormatError):
        Table(path, KEY)
    with pytest.raises(FileNotFoundError):
        Table(path.with_name("gone"), KEY)
