import random
import tracemalloc
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, limits
from core.errors import LimitExceeded
from mesh.addresses import packed
from mesh.datagrams import FIRST_BYTE, OVERHEAD_BYTES, Datagrams, Drop
from mesh.errors import NotTrusted
from mesh.hello import Hello, Peer, Said
from mesh.messages import TYPES, Mtu, MtuOk, Ping, Pong
from mesh.wire import Address
from tests.support import stranger_links
from tests.support.damage import damaged
from tests.support.entropy import fixed_entropy
from tests.support.nodes import MESH, OTHER_MESH, a_node, a_roster

ANN, BOB, EVE = a_node("ann"), a_node("bob"), a_node("eve")
NOW = 1_800_000_000_000
TXID = b"question"
PONG = Pong(Address("192.0.2.1", 443))
DAY = 86_400_000


def process(node=ANN, roster=None, seed="1", now_ms=NOW - DAY, now=-86_400.0, **how):
    """The datagrams of a process that has run for a day when it is NOW, and 0.0."""
    entropy = fixed_entropy(f"{node.name} {seed}")
    roster = roster or a_roster([ANN, BOB])
    return Datagrams(node.device, roster, now_ms, now, entropy=entropy, **how)


def opened(to, data, now_ms=NOW, now=0.0):
    return to.open_untrusted(data, now_ms, now)


def dropped(to, data, reason, now_ms=NOW, now=0.0):
    before = to.dropped[reason]
    assert opened(to, data, now_ms, now) is None
    assert to.dropped[reason] == before + 1, to.dropped


def sealed(sender, body=PONG, to=BOB, now_ms=NOW):
    return sender.seal(to.id, body, TXID, now_ms)


def forged(counter, row, sender=ANN, session=b"s" * 16):
    """What a member makes that does not keep to the rules."""
    secret = sender.device.box_secret.reveal()
    ids = (sender.id, BOB.id)
    key = stranger_links.datagram_key(secret, BOB.device.box_public(), MESH, ids, session)
    return stranger_links.sealed(key, sender.id, session, counter, row)


def met(node, session, *, hello_ms=NOW, offset_ms=0):
    speaker = replace(node.speaker, incarnation=session)
    return Peer(node.member, Hello.of(speaker, MESH, bytes(32), hello_ms, Said()), offset_ms, b"")


# --- what works -----------------------------------------------------------------------------------


def test_a_message_arrives_as_it_was_said():
    data = sealed(process())
    message = opened(process(BOB), data)
    assert message is not None
    assert message[:4] == (ANN.id, TXID, NOW, PONG)
    assert message.size_bytes == len(data)
    assert data[0] == FIRST_BYTE
    assert not data[0] & 0x40
    assert packed(PONG.seen) not in data


def test_answers_go_the_other_way_under_another_key():
    ann, bob = process(), process(BOB)
    assert opened(bob, sealed(ann, Ping())) is not None
    assert opened(ann, sealed(bob, to=ANN)) is not None


@pytest.mark.parametrize("size", [1_200, 1_350, 1_472, 8_952, 8_972])
def test_probes_have_exactly_the_size_asked_for(size):
    data = process().seal_probe(BOB.id, size, TXID, NOW)
    assert len(data) == size
    message = opened(process(BOB), data)
    assert message is not None
    assert message.size_bytes == size
    assert isinstance(message.body, Mtu)


def test_the_largest_datagram_and_one_more():
    class Long(Mtu):
        TYPE = 77
        BYTES_MAX = limits.DATAGRAM_BYTES_MAX

    ann, bob = process(types=[*TYPES, Long]), process(BOB, types=[*TYPES, Long])
    small = len(sealed(ann, Long(bytes(1_000))))
    room = limits.DATAGRAM_BYTES_MAX - small + 1_000
    assert len(data := sealed(ann, Long(bytes(room)))) == limits.DATAGRAM_BYTES_MAX
    assert opened(bob, data) is not None
    with pytest.raises(LimitExceeded):
        sealed(ann, Long(bytes(room + 1)))
    row = [77, TXID, NOW, [bytes(room + 1)]]
    dropped(bob, forged(1, row), Drop.MALFORMED)


def test_twenty_contacts_fit():
    contacts = [bytes(51)] * 20
    assert OVERHEAD_BYTES + len(codec.encode([9, TXID, NOW, [contacts]])) <= 1_200


def test_nobody_writes_to_strangers_or_to_oneself():
    for to in (EVE, ANN):
        with pytest.raises(NotTrusted):
            sealed(process(), to=to)


def test_two_types_cannot_share_a_number():
    class Other(Ping):
        pass

    with pytest.raises(AssertionError, match="number 1"):
        process(types=[*TYPES, Other])


# --- once, and only once --------------------------------------------------------------------------


def test_a_replay_is_dropped():
    bob, data = process(BOB), sealed(process())
    assert opened(bob, data)
    for _ in range(3):
        dropped(bob, data, Drop.REPLAYED)


def test_order_does_not_matter_within_the_window():
    ann, bob = process(), process(BOB)
    first = sealed(ann)
    rest = [sealed(ann) for _ in range(limits.DATAGRAM_WINDOW_COUNTERS - 1)]
    random.Random(1).shuffle(rest)
    at = [0.01 * n for n in range(len(rest))]
    assert all(opened(bob, data, now=now) for data, now in zip(rest, at, strict=True))
    assert opened(bob, first, now=99.0)
    assert not any(opened(bob, data, now=999.0) for data in [first, *rest])


def test_what_was_overtaken_by_too_many_is_dropped():
    ann, bob = process(), process(BOB)
    late = sealed(ann)
    for _ in range(limits.DATAGRAM_WINDOW_COUNTERS):
        last = sealed(ann)
    assert opened(bob, last)
    dropped(bob, late, Drop.REPLAYED)


def test_a_reflected_datagram_is_dropped():
    ann = process()
    dropped(ann, sealed(ann), Drop.ITSELF)
    mine = bytearray(sealed(ann))
    mine[3:35] = BOB.id
    dropped(ann, bytes(mine), Drop.FORGED)


def test_a_datagram_for_another_member_is_dropped():
    roster = a_roster([ANN, BOB, EVE])
    dropped(process(EVE, roster), sealed(process(roster=roster)), Drop.FORGED)


def test_a_datagram_of_another_mesh_is_dropped():
    elsewhere = a_roster([ANN, BOB], OTHER_MESH)
    dropped(process(BOB), sealed(process(roster=elsewhere)), Drop.FORGED)


def test_a_datagram_to_a_former_box_key_is_dropped():
    bob = process(BOB)
    assert opened(bob, sealed(process()))
    changed = a_roster([ANN, BOB])
    changed.add(replace(BOB.member, box_public=EVE.device.box_public()))
    dropped(bob, sealed(process(roster=changed, seed="2"), now_ms=NOW + 1), Drop.FORGED)


@pytest.mark.slow
@given(st.lists(st.sampled_from(["send", "to eve", "restart"]), max_size=30))
def test_no_key_meets_a_nonce_twice_whatever_restarts(steps):
    roster = a_roster([ANN, BOB, EVE])
    used, start = set(), 0
    ann = process(roster=roster, seed="start 0")
    for step in steps:
        if step == "restart":
            start += 1
            ann = process(roster=roster, seed=f"start {start}")
            continue
        to = EVE if step == "to eve" else BOB
        data = sealed(ann, to=to)
        session, counter = data[35:51], data[51:59]
        assert (to.id, session, counter) not in used
        used.add((to.id, session, counter))
        key = stranger_links.datagram_key(
            ANN.device.box_secret.reveal(), to.device.box_public(), MESH, (ANN.id, to.id), session
        )
        row = [2, TXID, NOW, [packed(PONG.seen)]]
        made = stranger_links.sealed(key, ANN.id, session, int.from_bytes(counter), row)
        assert made == data


# --- sessions and clocks --------------------------------------------------------------------------


def test_a_restarted_sender_is_heard_and_its_former_session_is_over():
    bob, old, new = process(BOB), process(seed="old"), process(seed="new")
    assert opened(bob, sealed(old, now_ms=NOW))
    unheard = sealed(old, now_ms=NOW + 1)
    assert opened(bob, sealed(new, now_ms=NOW + 2))
    dropped(bob, unheard, Drop.OLD_SESSION)
    dropped(bob, sealed(old, now_ms=NOW + 3), Drop.OLD_SESSION)
    assert opened(bob, sealed(new, now_ms=NOW + 2))


def test_a_session_never_heard_that_is_older_than_what_was_heard_is_dropped():
    bob, old, new = process(BOB), process(seed="old"), process(seed="new")
    assert opened(bob, sealed(new, now_ms=NOW + 2))
    for time in (NOW + 1, NOW + 2):
        dropped(bob, sealed(old, now_ms=time), Drop.OLD_SESSION)
    assert opened(bob, sealed(new, now_ms=NOW - 5))  # and the living one goes on


def test_a_link_tells_which_session_lives_even_if_its_clock_was_put_back():
    bob, old, new = process(BOB), process(seed="old"), process(seed="new")
    assert opened(bob, sealed(old, now_ms=NOW + 60_000))
    dropped(bob, sealed(new, now_ms=NOW), Drop.OLD_SESSION)
    bob.met(met(ANN, new.session))
    assert opened(bob, sealed(new, now_ms=NOW + 1))
    dropped(bob, sealed(old, now_ms=NOW + 61_000), Drop.OLD_SESSION)
    assert opened(bob, sealed(process(seed="newer"), now_ms=NOW + 2))


def test_meeting_the_living_session_again_forgets_nothing():
    bob, ann = process(BOB), process()
    data = sealed(ann)
    assert opened(bob, data)
    bob.met(met(ANN, ann.session, hello_ms=NOW - 5))
    dropped(bob, data, Drop.REPLAYED)
    dropped(bob, sealed(process(seed="older")), Drop.OLD_SESSION)


@pytest.mark.parametrize("offset", [0, 3_600_000, -3_600_000])
def test_times_are_read_with_the_clock_of_the_sender(offset):
    edge = limits.DATAGRAM_CLOCK_OFF_MS_MAX
    for shift, hears in ((edge, True), (edge + 1, False), (-edge, True), (-edge - 1, False)):
        bob, ann = process(BOB), process()
        bob.met(met(ANN, ann.session, hello_ms=NOW + offset, offset_ms=offset))
        assert bool(opened(bob, sealed(ann, now_ms=NOW + offset + shift))) == hears
        assert bob.dropped[Drop.CLOCK] == (not hears)


def test_a_better_estimate_of_a_clock_counts():
    bob, ann = process(BOB), process()
    assert opened(bob, sealed(ann))
    late = sealed(ann, now_ms=NOW + 200_000)
    dropped(bob, late, Drop.CLOCK)
    bob.clock_is(ANN.id, 100_000)
    assert opened(bob, late)
    bob.clock_is(EVE.id, 1)
    assert len(bob._senders) == 1


def test_what_was_sent_before_this_process_started_is_not_for_it():
    ann = process()
    first = sealed(ann, now_ms=NOW - 1_000)
    assert opened(process(BOB), first)
    again = process(BOB, seed="again", now_ms=NOW, now=500.0)
    dropped(again, first, Drop.BEFORE_START, NOW + 10, 500.01)
    assert opened(again, sealed(ann, now_ms=NOW + 20), NOW + 20, 500.02)


def test_a_clock_put_right_after_the_start_does_not_make_a_node_deaf():
    bob = process(BOB, now_ms=NOW + DAY, now=500.0)
    ann = process()
    assert opened(bob, sealed(ann, now_ms=NOW + 1_000), NOW + 1_000, 501.0)


# --- what costs nothing ---------------------------------------------------------------------------


def test_strangers_and_the_removed_get_nothing_at_all():
    roster = a_roster([ANN, BOB, EVE])
    eve = process(EVE, roster)
    bob = process(BOB)
    for _ in range(3):
        dropped(bob, sealed(eve), Drop.STRANGER)
    assert not bob._senders
    roster.remove(ANN.id)
    dropped(process(BOB, roster), sealed(process()), Drop.STRANGER)


def test_who_borrows_a_name_spends_nothing_of_its_owner():
    bob, ann = process(BOB), process()
    assert opened(bob, sealed(ann))
    rng = random.Random(1)
    for _ in range(5_000):
        fake = sealed(ann)[:35] + rng.randbytes(16) + rng.randbytes(80)
        assert opened(bob, fake) is None
    spent = bob.dropped[Drop.FORGED] + 1  # her first one began a session, too
    assert spent == 2 * limits.DATAGRAM_SESSIONS_PER_SECOND_SENDER_MAX
    assert len(bob._keys._keys) <= 1
    assert opened(bob, sealed(ann))


@pytest.mark.slow
def test_one_sender_may_say_so_much_and_all_together_so_much():
    nodes = [a_node(f"n{n}") for n in range(30)]
    roster = a_roster([BOB, *nodes])
    bob, heard = process(BOB, roster), []
    for node in nodes:
        sender = process(node, roster)
        heard.append(sum(opened(bob, sealed(sender)) is not None for _ in range(450)))
    # The first of a session is on the budget of sessions, the rest on the sender's.
    assert set(heard[:24]) == {2 * limits.DATAGRAMS_PER_SECOND_SENDER_MAX + 1}
    assert sum(heard) == 2 * limits.DATAGRAMS_PER_SECOND_MAX
    assert bob.opened == sum(heard)


def test_sessions_of_all_members_together_are_bounded():
    nodes = [a_node(f"n{n}") for n in range(30)]
    bob = process(BOB, a_roster([BOB, *nodes]))
    tries = 0
    for node in nodes:
        for n in range(60):
            fake = b"\x13p\x01" + node.id + n.to_bytes(16) + bytes(80)
            opened(bob, fake)
            tries += 1
    assert bob.dropped[Drop.FORGED] + bob.dropped[Drop.OLD_SESSION] < tries
    assert bob.dropped[Drop.FORGED] == 2 * limits.DATAGRAM_SESSIONS_PER_SECOND_MAX
    assert not bob._keys._keys


def test_keys_are_forgotten_and_made_again(monkeypatch):
    monkeypatch.setattr(limits, "DATAGRAM_KEYS_CACHED_MAX", 2)
    nodes = [a_node(f"n{n}") for n in range(5)]
    roster = a_roster([BOB, *nodes])
    bob = process(BOB, roster)
    senders = [process(node, roster) for node in nodes]
    for _ in range(3):
        assert all(opened(bob, sealed(sender)) for sender in senders)
        for node in nodes:
            sealed(bob, to=node)
    assert len(bob._keys._keys) == len(bob._keys._shared) == 2


# --- hostile bytes --------------------------------------------------------------------------------


def test_no_bit_and_no_cut_of_a_datagram_is_heard():
    data = sealed(process())
    for how, bad in damaged(data):
        bob = process(BOB)
        assert opened(bob, bad) is None, how
    assert opened(process(BOB), data)


def test_damage_to_a_session_that_is_known_is_not_heard_and_does_no_harm():
    ann, bob = process(), process(BOB)
    assert opened(bob, sealed(ann))
    data = sealed(ann)
    for n, (how, bad) in enumerate(damaged(data)):
        assert opened(bob, bad, now=float(n)) is None, how
    assert opened(bob, data, now=999.0)


@pytest.mark.parametrize(
    "row",
    [
        [],
        [2, TXID, NOW],
        [2, TXID, NOW, [b""], 1],
        [99, TXID, NOW, []],
        ["2", TXID, NOW, [b""]],
        [2, TXID[1:], NOW, [b""]],
        [2, TXID, -1, [b""]],
        [2, TXID, 2**63, [b""]],
        [2, TXID, NOW, b""],
        [2, TXID, NOW, [b"", 1]],
        [2, TXID, NOW, [bytes(1_300)]],
        [3, TXID, NOW, [{}]],
        [3, TXID, NOW, [1.5]],
    ],
)
def test_even_a_member_cannot_say_nonsense(row):
    bob = process(BOB)
    dropped(bob, forged(1, row), Drop.MALFORMED)
    assert opened(bob, forged(2, [2, TXID, NOW, [b""]]))


def test_a_session_of_zeros_is_one_like_any_other():
    bob = process(BOB)
    data = forged(1, [1, TXID, NOW, []], session=bytes(16))
    dropped(bob, data[:-1] + bytes([data[-1] ^ 1]), Drop.FORGED)
    assert opened(bob, data)
    dropped(bob, data, Drop.REPLAYED)


def test_a_member_whose_box_key_gives_no_secret_is_not_heard():
    roster = a_roster([ANN, BOB])
    roster.add(replace(ANN.member, box_public=bytes(32)))
    dropped(process(BOB, roster), sealed(process()), Drop.FORGED)


def hostile(rng, samples):
    """Noise, noise with an honest beginning, and honest datagrams that were bent."""
    kind, sample = rng.randrange(4), bytearray(rng.choice(samples))
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return bytes(sample[: rng.randrange(60)]) + rng.randbytes(rng.randrange(100))
    for _ in range(kind):
        sample[rng.randrange(len(sample))] ^= rng.randrange(1, 256)
    return b"" if sample in samples else bytes(sample)  # two changes may undo each other


def fuzz(count):
    rng = random.Random(7)
    ann, bob = process(), process(BOB)
    samples = [sealed(ann, body) for body in (Ping(), PONG, MtuOk(1_350)) for _ in range(20)]
    samples.append(ann.seal_probe(BOB.id, 1_350, TXID, NOW))
    assert opened(bob, samples[0])
    held = []
    for n in range(count):
        assert opened(bob, hostile(rng, samples), now=n / 1_000) is None
        if n in {count // 10, count - 1}:
            held.append(tracemalloc.get_traced_memory()[0])
    assert bob.opened == 1
    assert sum(bob.dropped.values()) == count
    assert bob.dropped[Drop.FORGED] > count // 20
    assert held[1] - held[0] < 64 * 1024
    assert opened(bob, samples[-1], now=10**6)


@pytest.mark.slow
@pytest.mark.parametrize("count", [100_000, pytest.param(10**6, marks=pytest.mark.deep)])
def test_noise_is_never_heard_and_leaves_nothing(count):
    tracemalloc.start()
    try:
        fuzz(count)
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_member_that_says_anything_is_heard_or_dropped():
    rng, bob = random.Random(3), process(BOB)
    good = msgpack.packb([2, TXID, NOW, [b""]])
    secret, public = ANN.device.box_secret.reveal(), BOB.device.box_public()
    key = stranger_links.datagram_key(secret, public, MESH, (ANN.id, BOB.id), b"s" * 16)
    for n in range(20_000):
        payload = bytearray(good) if n % 2 else bytearray(rng.randbytes(rng.randrange(40)))
        for _ in range(rng.randrange(3)):
            if payload:
                payload[rng.randrange(len(payload))] = rng.randrange(256)
        data = stranger_links.sealed_bytes(key, ANN.id, b"s" * 16, n, bytes(payload))
        opened(bob, data, now=float(n))
    assert bob.opened > 500
    assert bob.dropped[Drop.MALFORMED] > 5_000
    assert bob.opened + sum(bob.dropped.values()) == 20_000


# --- frozen bytes ---------------------------------------------------------------------------------


def test_golden(golden):
    case = golden("links.json")["datagram"]
    ann = process(seed="golden")
    assert ann.session.hex() == case["session"]
    made = [sealed(ann, body, now_ms=case["t_ms"]) for body in (Ping(), PONG, MtuOk(1_452))]
    assert [data.hex() for data in made] == case["sealed"]
    bob = process(BOB)
    assert [opened(bob, data).body for data in made] == [Ping(), PONG, MtuOk(1_452)]


def test_golden_by_hand(golden):
    case = golden("links.json")["datagram"]
    names = ("mesh", "sender", "recipient", "session", "txid", "sender's box secret")
    mesh, sender, recipient, session, txid, secret = (bytes.fromhex(case[n]) for n in names)
    public = bytes.fromhex(case["recipient's box key"])
    key = stranger_links.datagram_key(secret, public, mesh, (sender, recipient), session)
    assert key.hex() == case["key"]
    bodies = [[], [bytes([192, 0, 2, 1, 1, 187])], [1_452]]
    for n, (number, body) in enumerate(zip((1, 2, 4), bodies, strict=True)):
        row = [number, txid, case["t_ms"], body]
        made = stranger_links.sealed(key, sender, session, n + 1, row)
        assert made.hex() == case["sealed"][n]
