import random
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import codec, limits
from core.errors import FormatError, NewerFormat
from mesh.errors import NotTrusted
from mesh.hello import (
    Engines,
    Hello,
    Initiator,
    News,
    Refusal,
    Refused,
    Responder,
    Said,
    Speaker,
    host_tag,
)
from mesh.wire import Address
from tests.support import stranger_links
from tests.support.damage import damaged
from tests.support.entropy import fixed_entropy
from tests.support.nodes import MESH, OTHER_MESH, a_cert, a_node, a_roster
from tests.support.stranger_keys import h

ANN, BOB, EVE = a_node("ann"), a_node("bob"), a_node("eve")
ROSTER = a_roster([ANN, BOB])
NOW = 1_800_000_000_000
DAY = 86_400_000
QUIC = "quic portal/1"
NOTHING = Said()
NEWS = Said(News((b"h" * 32, b"i" * 32), b"v" * 32, 7), b"kem", Address("192.0.2.1", 443))


def initiator(own=ANN, to=BOB, roster=ROSTER, transport=QUIC, seed="i"):
    return Initiator(own.speaker, roster, to.id, transport, fixed_entropy(seed))


def responder(own=BOB, roster=ROSTER, leaf=None):
    return Responder(own.speaker, roster, leaf or own.leaf.der, fixed_entropy("r"))


def hello(own=ANN, to=BOB, now=NOW, said=NOTHING, **how):
    return initiator(own, to, **how).hello_untrusted(to.leaf.der, said, now)


def answer(to, frame, now=NOW, transport=QUIC, said=NOTHING):
    return to.answer_untrusted(frame, transport, lambda _: said, now)


def refused(reason, doing, *args, **how):
    with pytest.raises(NotTrusted) as caught:
        doing(*args, **how)
    assert isinstance(caught.value, Refused)
    assert caught.value.reason is reason
    assert not caught.value.retryable
    return caught.value


def signed_by(node, row, leaf=BOB.leaf.der, to=BOB.id, transport=QUIC):
    seed = node.device.sign_seed.reveal()
    return stranger_links.hello_frame(seed, transport, MESH, to, leaf, row)


def row_of(frame):
    return msgpack.unpackb(msgpack.unpackb(frame)[0])


# --- what works -----------------------------------------------------------------------------------


def test_two_nodes_learn_who_the_other_is():
    ann, bob = initiator(), responder()
    first = ann.hello_untrusted(BOB.leaf.der, NEWS, NOW)
    heard = []
    other = Said(News(epoch=8), b"answer", Address("2001:db8::1", 9))
    reply, caller = bob.answer_untrusted(
        first, QUIC, lambda said: heard.append(said) or other, NOW + 500
    )
    peer = ann.finish_untrusted(reply, NOW + 200)
    assert (caller.node, peer.node) == (ANN.id, BOB.id)
    assert (caller.member, peer.member) == (ANN.member, BOB.member)
    assert heard == [caller.hello]
    assert (caller.hello.news, caller.hello.kem, caller.hello.seen) == NEWS
    assert (peer.hello.news, peer.hello.kem, peer.hello.seen) == other
    assert caller.hello.incarnation == ANN.speaker.incarnation
    assert peer.hello.host == BOB.speaker.host
    assert peer.hello.engines == Engines.QH3 | Engines.AIOQUIC
    assert caller.transcript == peer.transcript
    # Bob's clock is ahead by 400 ms: sent at 0, answered in the middle of 200.
    assert (caller.offset_ms, peer.offset_ms) == (-500, 400)


def test_a_host_is_known_to_those_on_it_and_in_one_mesh():
    here = a_node("here", boot=b"boot").speaker
    assert here.host == a_node("there", boot=b"boot").speaker.host
    assert here.host != ANN.speaker.host
    assert here.host != host_tag(b"boot", OTHER_MESH)
    assert host_tag(b"boot", MESH) == h("host", b"boot" + MESH)


def test_unknown_engines_and_the_largest_hello_are_carried():
    news = News((b"h" * 32,) * limits.HELLO_HEADS_MAX, b"v" * 32, 2**64 - 1)
    own = replace(ANN, speaker=replace(ANN.speaker, engines=Engines(1 << 31)))
    said = Said(news, bytes(limits.HELLO_KEM_BYTES_MAX), Address("2001:db8::1", 65_535))
    frame = hello(own, said=said)
    assert len(frame) <= limits.HELLO_BYTES_MAX
    _, peer = answer(responder(), frame)
    assert peer.hello.engines == Engines(1 << 31)
    assert peer.hello.news == news


def test_what_a_member_may_do_comes_from_the_roster_and_not_from_its_certificate():
    less = replace(ANN.member, roles=type(ANN.member.roles)(1), box_public=b"b" * 32)
    roster = a_roster([ANN, BOB])
    roster.add(less)
    _, peer = answer(responder(roster=roster), hello())
    assert peer.member == less


# --- hostile callers ------------------------------------------------------------------------------


def test_a_caller_of_another_mesh_is_refused_without_detail():
    elsewhere = a_roster([ANN, BOB], OTHER_MESH)
    error = refused(Refusal.OTHER_MESH, answer, responder(), hello(roster=elsewhere))
    assert error.reason.told == "refused"


def test_strangers_and_the_removed_are_refused_without_detail():
    own = a_roster([EVE, BOB])
    error = refused(Refusal.NOT_MEMBER, answer, responder(), hello(EVE, roster=own))
    assert error.reason.told == "refused"
    roster = a_roster([ANN, BOB])
    bob = responder(roster=roster)
    answer(bob, hello(seed="1"))
    roster.remove(ANN.id)
    refused(Refusal.NOT_MEMBER, answer, bob, hello(seed="2"))


def test_who_is_a_member_cannot_be_asked_with_a_borrowed_name():
    for name in (ANN, EVE):
        row = row_of(hello())
        row[2] = name.id
        error = refused(
            Refusal.BAD_SIGNATURE, answer, responder(), signed_by(a_node("mallory"), row)
        )
        assert error.reason.told == "refused"


def test_a_hello_for_another_node_is_refused():
    roster = a_roster([ANN, BOB, EVE])
    refused(Refusal.BAD_SIGNATURE, answer, responder(), hello(to=EVE, roster=roster))


def test_a_hello_on_another_leaf_is_refused():
    again = BOB.restarted()
    assert again.id == BOB.id
    refused(Refusal.BAD_SIGNATURE, answer, responder(again), hello())


def test_a_hello_of_another_transport_is_refused():
    refused(Refusal.BAD_SIGNATURE, answer, responder(), hello(), transport="tls portal/1")


def test_a_hello_sent_back_to_its_author_is_refused():
    refused(Refusal.ITSELF, answer, responder(ANN), hello())
    mirrored = initiator()
    frame = mirrored.hello_untrusted(BOB.leaf.der, NOTHING, NOW)
    refused(Refusal.WRONG_NODE, mirrored.finish_untrusted, frame, NOW)


def test_an_answer_is_no_hello_and_a_hello_no_answer():
    ann = initiator()
    reply, _ = answer(responder(), ann.hello_untrusted(BOB.leaf.der, NOTHING, NOW))
    refused(Refusal.BAD_SIGNATURE, answer, responder(ANN), reply)
    theirs = hello(BOB, ANN)
    refused(Refusal.BAD_SIGNATURE, ann_waiting().finish_untrusted, theirs, NOW)


def ann_waiting(seed="i"):
    ann = initiator(seed=seed)
    ann.hello_untrusted(BOB.leaf.der, NOTHING, NOW)
    return ann


def test_a_hello_is_heard_once_in_the_life_of_a_process():
    bob, first, second = responder(), hello(seed="1"), hello(seed="2")
    answer(bob, first)
    answer(bob, second)
    assert refused(Refusal.REPLAYED, answer, bob, first).reason.told == "replayed"
    for clock in (-DAY, DAY):
        refused(Refusal.REPLAYED, answer, bob, first, NOW + clock)


def test_a_hello_that_was_refused_is_not_remembered():
    bob, frame = responder(), hello()
    refused(Refusal.BAD_SIGNATURE, answer, bob, frame, transport="tls portal/1")
    answer(bob, frame)


@pytest.mark.parametrize("sign", [-1, 1])
def test_clocks_may_differ_by_a_day_each_way(sign):
    for side_of_line, passes in ((DAY, True), (DAY + 1, False)):
        now = NOW + sign * side_of_line
        if passes:
            _, peer = answer(responder(), hello(), now)
            assert peer.offset_ms == -sign * DAY
        else:
            assert refused(Refusal.CLOCK, answer, responder(), hello(), now).reason.told == "clock"


def test_a_certificate_must_be_the_members_own():
    stranger = a_cert(EVE.root, ANN.device, "ann").signed_by(EVE.root.user_identity())
    other_device = BOB.speaker.cert
    sibling = a_cert(ANN.root, a_node("ann's other").device, "ann").signed_by(
        ANN.root.user_identity()
    )
    not_one = b"not a certificate"
    forged = bytearray(ANN.speaker.cert)
    forged[-1] ^= 1
    for cert in (stranger, other_device, sibling, not_one, bytes(forged), b""):
        own = replace(ANN, speaker=replace(ANN.speaker, cert=cert))
        assert refused(Refusal.BAD_CERT, answer, responder(), hello(own)).reason.told == "bad_cert"
        ann, bob = initiator(), replace(BOB, speaker=replace(BOB.speaker, cert=cert))
        if cert == other_device:
            continue
        reply, _ = answer(responder(bob), ann.hello_untrusted(BOB.leaf.der, NOTHING, NOW))
        refused(Refusal.BAD_CERT, ann.finish_untrusted, reply, NOW)


def test_no_bit_and_no_cut_of_a_hello_gives_a_peer():
    frame = hello(said=NEWS)
    bob = responder()
    for how, bad in damaged(frame):
        with pytest.raises((FormatError, Refused)):
            answer(bob, bad)
            pytest.fail(how)
    answer(bob, frame)  # and none of them was remembered


@pytest.mark.slow
def test_every_bit_of_a_hello_is_signed():
    frame = hello(said=NEWS)
    bob = responder()
    for i in range(len(frame) * 8):
        bad = bytearray(frame)
        bad[i // 8] ^= 1 << i % 8
        with pytest.raises((FormatError, Refused)):
            answer(bob, bytes(bad))


@pytest.mark.slow
def test_no_bit_and_no_cut_of_an_answer_gives_a_peer():
    first = initiator().hello_untrusted(BOB.leaf.der, NOTHING, NOW)
    reply, _ = answer(responder(), first, said=NEWS)
    for how, bad in damaged(reply):
        with pytest.raises((FormatError, Refused)):
            ann_waiting().finish_untrusted(bad, NOW)
            pytest.fail(how)
    ann_waiting().finish_untrusted(reply, NOW)


def test_an_oversized_hello_is_refused_unread():
    for frame in (bytes(limits.HELLO_BYTES_MAX + 1), codec.encode([bytes(10**6), bytes(64)])):
        with pytest.raises(FormatError):
            answer(responder(), frame)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_format_error(data):
    with pytest.raises(FormatError):
        answer(responder(), data)
    with pytest.raises(FormatError):
        ann_waiting().finish_untrusted(data, NOW)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 0),
        (0, None),
        (1, bytes(31)),
        (2, "ann"),
        (3, bytes(31)),
        (4, -1),
        (4, 2**63),
        (5, bytes(limits.HELLO_CERT_BYTES_MAX + 1)),
        (6, 2**32),
        (7, bytes(16)),
        (8, bytes(15)),
        (9, []),
        (9, [[bytes(32)] * 9, bytes(32), 0]),
        (9, [[bytes(31)], bytes(32), 0]),
        (9, [[], bytes(31), 0]),
        (9, [[], bytes(32), -1]),
        (10, bytes(limits.HELLO_KEM_BYTES_MAX + 1)),
        (11, bytes(7)),
    ],
)
def test_even_a_member_cannot_say_nonsense(field, value):
    row = row_of(hello())
    answer(responder(), signed_by(ANN, row))
    row[field] = value
    with pytest.raises(FormatError):
        answer(responder(), signed_by(ANN, row))


def test_versions():
    row = row_of(hello())
    with pytest.raises(NewerFormat):
        answer(responder(), signed_by(ANN, [2, *row[1:], "new field"]))
    for bad in (row[:-1], [*row, 1]):
        with pytest.raises(FormatError):
            answer(responder(), signed_by(ANN, bad))


# --- hostile answers ------------------------------------------------------------------------------


def test_nothing_is_said_to_a_leaf_that_is_not_the_nodes():
    refused(Refusal.WRONG_NODE, initiator().hello_untrusted, EVE.leaf.der, NOTHING, NOW)
    with pytest.raises(FormatError):
        initiator().hello_untrusted(b"no leaf", NOTHING, NOW)


def test_nothing_is_said_to_strangers_or_to_oneself():
    refused(Refusal.NOT_MEMBER, hello, ANN, EVE)
    refused(Refusal.ITSELF, hello, ANN, ANN)


def test_the_answer_of_another_exchange_is_refused():
    bob = responder()
    old, _ = answer(bob, hello(seed="old"))
    refused(Refusal.BAD_SIGNATURE, ann_waiting("new").finish_untrusted, old, NOW)


def test_the_answer_of_another_member_is_refused():
    roster = a_roster([ANN, BOB, EVE])
    reply, _ = answer(responder(EVE, roster), hello(to=EVE, roster=roster))
    refused(Refusal.WRONG_NODE, ann_waiting().finish_untrusted, reply, NOW)


def test_the_answer_of_who_was_removed_meanwhile_is_refused():
    roster = a_roster([ANN, BOB])
    ann = initiator(roster=roster)
    reply, _ = answer(responder(), ann.hello_untrusted(BOB.leaf.der, NOTHING, NOW))
    roster.remove(BOB.id)
    refused(Refusal.NOT_MEMBER, ann.finish_untrusted, reply, NOW)


def test_an_answer_is_for_one_hello():
    ann = initiator()
    with pytest.raises(FormatError, match="nothing was asked"):
        ann.finish_untrusted(b"", NOW)
    reply, _ = answer(responder(), ann.hello_untrusted(BOB.leaf.der, NOTHING, NOW))
    ann.finish_untrusted(reply, NOW)
    with pytest.raises(FormatError, match="nothing was asked"):
        ann.finish_untrusted(reply, NOW)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (1, OTHER_MESH, Refusal.OTHER_MESH),
        (2, EVE.id, Refusal.WRONG_NODE),
        (4, NOW - DAY - 1, Refusal.CLOCK),
        (4, NOW + DAY + 1, Refusal.CLOCK),
    ],
)
def test_even_the_node_itself_cannot_answer_anything(field, value, reason):
    ann = initiator()
    first = ann.hello_untrusted(BOB.leaf.der, NOTHING, NOW)
    reply, _ = answer(responder(), first)
    row = row_of(reply)
    row[field] = value
    seed = BOB.device.sign_seed.reveal()
    bad = stranger_links.answer_frame(seed, QUIC, first, row)
    refused(reason, ann.finish_untrusted, bad, NOW)


def test_every_refusal_says_why_and_none_tells_a_stranger():
    for reason in Refusal:
        assert str(Refused(reason))
        assert reason.told in {"refused", reason.value}
    told = {reason for reason in Refusal if reason.told != "refused"}
    assert told == {Refusal.CLOCK, Refusal.BAD_CERT, Refusal.REPLAYED}


def test_many_hellos_leave_a_bounded_memory_and_none_is_heard_twice():
    bob = responder()
    bob._nonces._count_max = 8
    frames = [hello(seed=f"{n}", now=NOW + n) for n in range(40)]
    for frame in frames:
        answer(bob, frame)
    for frame in random.Random(1).sample(frames, 40):
        refused(Refusal.REPLAYED, answer, bob, frame)
    assert len(bob._nonces._times) == 8


def test_a_speaker_shows_no_key():
    assert isinstance(ANN.speaker, Speaker)
    assert ANN.device.sign_seed.reveal().hex() not in repr(ANN.speaker)
    assert repr(ANN.device.sign_seed.reveal()) not in repr(ANN.speaker)


# --- frozen bytes ---------------------------------------------------------------------------------


def test_golden(golden):
    case = golden("links.json")["auth"]
    leaf, transport = bytes.fromhex(case["leaf"]), case["transport"]
    bob = responder(leaf=leaf)
    ann = initiator(transport=transport)
    first = ann.hello_untrusted(leaf, NEWS, case["time_ms"])
    assert first.hex() == case["first"]
    reply, caller = answer(bob, first, case["time_ms"] + 3, transport, Said(kem=b"answer"))
    assert reply.hex() == case["second"]
    peer = ann.finish_untrusted(reply, case["time_ms"] + 8)
    assert caller.transcript.hex() == peer.transcript.hex() == case["transcript"]


def test_golden_by_hand(golden):
    case = golden("links.json")["auth"]
    first, second = bytes.fromhex(case["first"]), bytes.fromhex(case["second"])
    seeds = [bytes.fromhex(case[f"{who}'s seed"]) for who in ("initiator", "responder")]
    mesh, to, leaf = (bytes.fromhex(case[name]) for name in ("mesh", "responder", "leaf"))
    said = case["initiator says"]
    row = [bytes.fromhex(field) if isinstance(field, str) else field for field in said[:9]]
    heads, vector, epoch = said[9]
    row.append([[bytes.fromhex(head) for head in heads], bytes.fromhex(vector), epoch])
    row += [bytes.fromhex(field) for field in said[10:]]
    assert stranger_links.hello_frame(seeds[0], case["transport"], mesh, to, leaf, row) == first
    answered = msgpack.unpackb(msgpack.unpackb(second)[0])
    made = stranger_links.answer_frame(seeds[1], case["transport"], first, answered)
    assert made == second
    assert stranger_links.transcript(first, second).hex() == case["transcript"]
    assert Hello.read_untrusted(msgpack.unpackb(first)[0]).encoded() == msgpack.unpackb(first)[0]
