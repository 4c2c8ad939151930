from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, envelope, limits
from core.compress import compress
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat
from core.ids import VaultId
from core.keys import VaultKeys
from core.labels import EnvelopeKind, SignLabel
from core.secret import Secret
from portal.head import Head, Record, Snapshot, Totals, head_hash, snapshot_id
from portal.manifest import Content, Form
from tests.support.damage import assert_all_refused, damaged
from tests.support.vaults import VAULT, an_author

KEYS = VaultKeys.from_master(Secret(bytes(range(32))))
AUTHOR = an_author()
RECORD = Record(
    time_ns=1_800_000_000_000_000_000,
    end_ns=1_800_000_000_000_000_001,
    host="host",
    user="ann",
    paths=(b"/home/ann", b"/\xff"),
    parent=b"p" * 32,
    root=Content(Form.PARTS, b"r" * 64),
    totals=Totals(1, 2, 3, 4, 5, 6, 7),
    errors_count=3,
    errors=((b"home/ann/x", "Permission denied"),),
    rules=b"rules",
    program="1.0",
)


def a_head(*records, **fields):
    head = Head(vault=VAULT, user=AUTHOR.user, device=AUTHOR.node, **fields)
    return head.with_snapshots([Snapshot.of(record) for record in records])


def signed(head):
    return head.signed(KEYS, AUTHOR.signing, AUTHOR.cert)


def opened(data, vault=VAULT, user=AUTHOR.user):
    return Head.open_untrusted(data, KEYS, vault, user)


# --- records ----------------------------------------------------------------------------------


def test_a_record_round_trips():
    assert Record.decode_untrusted(RECORD.encoded()) == RECORD
    empty = replace(RECORD, paths=(), parent=b"", root=Content(Form.PART_LISTS, b""), errors=())
    assert Record.decode_untrusted(empty.encoded()) == empty


def test_damage_to_a_record_gives_another_id_or_a_format_error():
    data = RECORD.encoded()
    for how, bad in damaged(data):
        try:
            found = Record.decode_untrusted(bad)
        except FormatError:
            continue
        assert found.encoded() == bad, how
        assert snapshot_id(bad) != snapshot_id(data), how


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_format_error(data):
    with pytest.raises(FormatError):
        Record.decode_untrusted(data)


@pytest.mark.parametrize(
    ("number", "value", "error"),
    [
        (0, 2, NewerFormat),
        (0, 0, FormatError),
        (1, -1, FormatError),
        (1, 1 << 63, FormatError),
        (3, "h" * 1025, LimitExceeded),
        (3, "\x1b[2J", FormatError),
        (5, (b"p" * (limits.PATH_BYTES_MAX + 1),), LimitExceeded),
        (5, (b"p",) * (limits.SNAPSHOT_PATHS_MAX + 1), LimitExceeded),
        (6, b"p" * 31, FormatError),
        (7, (1, b"r" * 32), FormatError),
        (7, (int(Form.PARTS),), FormatError),
        (7, (int(Form.PARTS), bytes(limits.SNAPSHOT_CONTENT_BYTES_MAX + 1)), LimitExceeded),
        (8, (1, 2, 3), FormatError),
        (8, (1, 2, 3, 4, 5, 6, -7), FormatError),
        (10, ((b"p", "e"),) * (limits.SNAPSHOT_ERRORS_MAX + 1), LimitExceeded),
        (10, ((b"p",),), FormatError),
        (11, b"r" * 33, LimitExceeded),
        (12, None, FormatError),
    ],
)
def test_fields_of_a_record_out_of_bounds_are_refused(number, value, error):
    row = list(codec.decode_untrusted(RECORD.encoded()))
    row[number] = value
    with pytest.raises(error):
        Record.decode_untrusted(codec.encode(row))


def test_a_record_too_large_is_not_looked_at():
    with pytest.raises(LimitExceeded, match="bytes where"):
        Record.decode_untrusted(bytes(limits.SNAPSHOT_RECORD_BYTES_MAX + 1))


# --- heads ------------------------------------------------------------------------------------


def test_a_head_round_trips():
    one = replace(Snapshot.of(RECORD, ("a tag", "b")), pinned=True)
    two = replace(Snapshot.of(replace(RECORD, host="other")), forgotten_s=5, forgotten_gen=6)
    head = a_head(incarnation=1, seq=2, prev=b"p" * 32, live_set_root=b"l" * 32, trash_gen=9)
    head = head.with_snapshots([one, two])
    assert opened(signed(head)) == head
    assert head.place == (1, 2)
    assert head.live == [one]
    assert opened(signed(a_head())) == a_head()


def test_snapshots_are_in_the_order_of_their_times():
    times = [5, 3, 9, 3]
    head = a_head(*(replace(RECORD, time_ns=t, host=f"h{n}") for n, t in enumerate(times)))
    assert [s.record.time_ns for s in head.snapshots] == sorted(times)


def test_any_damage_is_noticed():
    assert_all_refused(opened, signed(a_head(RECORD, seq=1)))


def test_a_head_is_signed_by_a_device_of_this_user_for_this_vault():
    data = signed(a_head(RECORD))
    with pytest.raises(IntegrityError):
        opened(data, vault=VaultId(b"another vault!!!"))
    with pytest.raises(IntegrityError, match="another vault or user"):
        opened(data, user=an_author("stranger").user)
    stranger = an_author("stranger")
    payload, _ = codec.decode_untrusted(data)
    forged = (payload, stranger.signing.sign(SignLabel.VAULT_HEAD, payload))
    with pytest.raises(IntegrityError):
        opened(codec.encode(forged))
    row = codec.decode_untrusted(payload)
    payload = codec.encode((*row[:3], stranger.node, *row[4:]))
    forged = (payload, stranger.signing.sign(SignLabel.VAULT_HEAD, payload))
    with pytest.raises(IntegrityError):  # the body is bound to the device that sealed it
        opened(codec.encode(forged))
    with pytest.raises(IntegrityError, match="somebody else"):
        opened(a_head(RECORD).signed(KEYS, AUTHOR.signing, stranger.cert))


def test_newer_versions_say_so():
    payload, _ = codec.decode_untrusted(signed(a_head()))
    row = codec.decode_untrusted(payload)
    payload = codec.encode((3, *row[1:], "more"))
    data = codec.encode((payload, AUTHOR.signing.sign(SignLabel.VAULT_HEAD, payload)))
    with pytest.raises(NewerFormat) as caught:
        opened(data)
    assert caught.value.exit_code == 13
    with pytest.raises(IntegrityError):  # nobody has signed that it is newer
        opened(codec.encode((payload, bytes(64))))


def with_body(rows, *, says=None, version=1):
    """A head signed and sealed by its owner, whose list of snapshots is this."""
    head = a_head()
    row = codec.decode_untrusted(codec.decode_untrusted(signed(head))[0])
    plain = codec.encode(rows)
    how, data = compress(plain)
    size = len(plain) if says is None else says
    body = codec.encode((version, AUTHOR.cert, int(how), size, bytes(data)))
    aad = codec.encode(row[:9])
    sealed = envelope.seal(KEYS.meta, EnvelopeKind.VAULT_HEAD, body, aad=aad)
    payload = codec.encode((*row[:9], sealed))
    signature = AUTHOR.signing.sign(SignLabel.VAULT_HEAD, payload)
    return codec.encode((payload, signature))


def snapshot_row(**changed):
    row = {"record": RECORD.encoded(), "tags": (), "pinned": False, "at": 0, "gen": 0}
    return tuple((row | changed).values())


def test_a_head_made_by_hand_is_read():
    assert len(opened(with_body((1, snapshot_row()))).snapshots) == 1


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (with_body((1, snapshot_row()), version=2), NewerFormat),
        (with_body((2, "?")), NewerFormat),
        (with_body((1, snapshot_row()), says=limits.HEAD_BYTES_MAX + 1), LimitExceeded),
        (with_body((1, snapshot_row()), says=5), (FormatError, IntegrityError)),
        (with_body((1, snapshot_row()[:-1])), FormatError),
        (with_body((1, snapshot_row(pinned=1))), FormatError),
        (with_body((1, snapshot_row(at=-1))), FormatError),
        (with_body((1, snapshot_row(tags=("t",) * 65))), LimitExceeded),
        (with_body((1, snapshot_row(tags=("\x07",)))), FormatError),
        (with_body((1, snapshot_row(record=b"\x90"))), FormatError),
    ],
)
def test_hostile_lists_of_snapshots_are_refused(data, error):
    with pytest.raises(error):
        opened(data)


def test_a_head_too_large_is_not_looked_at():
    with pytest.raises(LimitExceeded, match="bytes where"):
        opened(bytes(limits.HEAD_BYTES_MAX + 1))


def test_the_hash_of_a_head_is_of_its_bytes():
    data = signed(a_head())
    assert head_hash(data) != head_hash(data + b"\0")
    assert len(head_hash(data)) == 32


def test_the_name_of_a_snapshot_begins_its_id():
    snapshot = Snapshot.of(RECORD)
    assert snapshot.id == snapshot_id(RECORD.encoded())
    assert snapshot.name == snapshot.id.hex()[:8]
    assert snapshot.is_live
    assert not replace(snapshot, forgotten_s=1).is_live
