import random

import pytest

from core import codec, limits
from core.errors import FormatError
from mesh.members.bodies import Kind, Numbered, Unknown
from mesh.members.membership import Membership
from mesh.members.sync import Exchange, Flag, Message, push_frames, tell_frame
from tests.support.member_histories import random_history
from tests.support.memberships import NOW_MS, a_mesh, found, person

F, A, B = map(person, "FAB")


def opened(ops):
    """A Membership over the operations of a set."""
    membership = Membership(ops.ops[0])
    membership.receive_untrusted([op.data for op in ops.ops[1:]])
    return membership


def talk(one, other, bound=40):
    """Two ends of a link until nobody has more to say; the frames that went over it."""
    ends = [Exchange(one), Exchange(other)]
    news = [one.news(), other.news()]
    waiting = [(1, f) for f in ends[0].on_news(news[1])] + [
        (0, f) for f in ends[1].on_news(news[0])
    ]
    sent = []
    while waiting:
        to, frame = waiting.pop(0)
        sent.append(frame)
        assert len(sent) < bound
        assert len(frame) <= limits.LINK_FRAME_BYTES_MAX
        waiting += [(1 - to, f) for f in ends[to].on_frame_untrusted(frame).frames]
    return sent


def kinds(frames):
    return [Message(codec.decode_untrusted(frame)[1]) for frame in frames]


def test_equal_ones_say_nothing():
    mesh = a_mesh(F, A)
    assert talk(mesh.membership, mesh.of(A).membership) == []


def test_who_is_behind_asks_and_who_is_ahead_tells():
    mesh = a_mesh(F, A)
    behind = mesh.of(A)
    mesh.bring(B)
    frames = talk(behind.membership, mesh.membership)
    assert behind.membership.news() == mesh.membership.news()
    assert kinds(frames).count(Message.WANT) == 1
    assert kinds(frames).count(Message.OPS) == 1
    assert Message.WANT_ALL not in kinds(frames)


def test_a_peer_is_level_once_all_it_knows_is_here():
    mesh = a_mesh(F, A)
    behind = mesh.of(A)
    exchange = Exchange(behind.membership)
    assert not exchange.is_level
    exchange.on_news(mesh.membership.news())  # the same
    assert exchange.is_level
    mesh.bring(B)
    (question,) = exchange.on_news(mesh.membership.news())
    assert not exchange.is_level
    exchange.on_news(mesh.membership.news())  # it says so once more meanwhile
    assert not exchange.is_level
    answer = Exchange(mesh.membership).on_frame_untrusted(question).frames
    for frame in answer:
        assert not exchange.is_level
        exchange.on_frame_untrusted(frame)
    assert exchange.is_level
    behind.force(Kind.EPOCH, Numbered(1, bytes(32)))
    exchange.on_news(mesh.membership.news())  # it knows less than we do
    assert exchange.is_level


def test_who_has_nothing_for_us_after_all_is_level():
    mesh = a_mesh(F, A)
    exchange = Exchange(mesh.of(A).membership)
    news = mesh.membership.news()._replace(heads=(bytes(32),), vector=bytes(32))
    exchange.on_news(news)
    end = codec.encode([1, int(Message.OPS), int(Flag.END), [], news])
    assert exchange.on_frame_untrusted(end).frames  # then all operations are named
    assert not exchange.is_level
    exchange.on_frame_untrusted(end)
    assert exchange.is_level
    assert exchange.on_news(news) == ()
    assert exchange.is_level


def test_both_learn_what_the_other_has():
    mesh = a_mesh(F, A)
    other = mesh.of(A)
    mesh.invite()
    other.invite()
    talk(mesh.membership, other.membership)
    assert mesh.membership.news() == other.membership.news()
    assert len(mesh.membership.set.heads) == 2


def test_a_newcomer_gets_everything():
    mesh = a_mesh(F, A, B)
    fresh = found(F)
    talk(fresh.membership, mesh.membership)
    assert fresh.membership.state.hash() == mesh.membership.state.hash()


def test_forks_are_exchanged_both_ways():
    mesh = a_mesh(F, A)
    one, other = mesh.of(A), mesh.of(A)
    one.force(99, Unknown((1,)))
    other.force(99, Unknown((2,)))
    other.force(99, Unknown((3,)))
    frames = talk(one.membership, other.membership)
    assert one.membership.news() == other.membership.news()
    assert Message.WANT_ALL in kinds(frames)
    assert one.membership.reviews() == other.membership.reviews() != ()


@pytest.mark.parametrize("seed", range(10))
def test_any_two_replicas_become_equal(seed):
    world = random_history(seed, steps=25, fierce=bool(seed % 2))
    members = [opened(replica) for replica in world.replicas]
    rng = random.Random(seed)
    for _ in range(3):
        for one in members:
            talk(one, rng.choice(members))
    for one in members:
        for other in members:
            talk(one, other)
    assert len({one.set.vector_hash() for one in members}) == 1
    assert len({one.state.hash() for one in members}) == 1


def test_what_is_new_is_pushed_and_told():
    mesh = a_mesh(F, A)
    other = mesh.of(A)
    changes = mesh.author.next_epoch(bytes(32), NOW_MS)
    (frame,) = push_frames(changes)
    answer = Exchange(other.membership).on_frame_untrusted(frame)
    assert answer.changes.epoch == 1
    assert answer.frames == ()
    assert other.membership.news() == mesh.membership.news()
    assert push_frames(Exchange(other.membership).on_frame_untrusted(frame).changes) == []


def test_a_push_that_got_lost_is_made_up_for():
    mesh = a_mesh(F, A)
    other = mesh.of(A)
    mesh.author.next_epoch(bytes(32), NOW_MS)
    changes = mesh.author.next_epoch(bytes(32), NOW_MS)
    end, there = Exchange(other.membership), Exchange(mesh.membership)
    for frame in push_frames(changes):
        assert end.on_frame_untrusted(frame).changes.added == ()  # parked
    (want,) = end.on_frame_untrusted(tell_frame(mesh.membership)).frames
    for frame in there.on_frame_untrusted(want).frames:
        end.on_frame_untrusted(frame)
    assert other.membership.news() == mesh.membership.news()


def test_large_answers_come_in_many_frames():
    mesh = a_mesh(F, A)
    fresh = mesh.of(A)
    for n in range(200):
        data = mesh.author.next(99, Unknown((n, bytes(1_500))), NOW_MS)
        mesh.membership.receive_untrusted([data])
    frames = talk(fresh.membership, mesh.membership)
    assert kinds(frames).count(Message.OPS) == 2
    assert fresh.membership.news() == mesh.membership.news()


def test_nobody_is_asked_again_for_what_they_do_not_have():
    # A peer that claims heads it never shows: one question each way, then silence.
    mesh = a_mesh(F, A)
    liar = mesh.membership.news()._replace(heads=(bytes(32),), vector=bytes(32))
    end = Exchange(mesh.membership)
    (want,) = end.on_news(liar)
    assert kinds([want]) == [Message.WANT]
    empty = codec.encode([1, int(Message.OPS), int(Flag.END), [], liar])
    (want,) = end.on_frame_untrusted(empty).frames
    assert kinds([want]) == [Message.WANT_ALL]
    assert kinds(end.on_frame_untrusted(empty).frames) == [Message.TELL]
    assert end.on_news(liar) == ()


@pytest.mark.parametrize(
    "row",
    [
        [1],
        [2, 1, ()],
        [1, 5, ()],
        [1, 1, ()],
        [1, 1, ((), bytes(31), 0)],
        [1, 1, ((bytes(32),) * 9, bytes(32), 0)],
        [1, 2, ((bytes(32), 0),)],
        [1, 2, ((bytes(31), 0, bytes(32)),)],
        [1, 3, bytes(8)],
        [1, 3, "ids"],
        [1, 4, 3, (), None],
        [1, 4, 0, (1,), None],
        [1, 4, 2, (), ((), bytes(32), 0)],  # an answer to no question
        [1, 4, 1, (), None],
    ],
)
def test_nonsense_is_refused(row):
    end = Exchange(found(F).membership)
    with pytest.raises(FormatError):
        end.on_frame_untrusted(codec.encode(row))


def test_operations_that_are_wrong_are_counted_not_raised():
    end = Exchange(found(F).membership)
    frame = codec.encode([1, int(Message.OPS), int(Flag.PUSHED), (b"", b"nonsense"), None])
    assert len(end.on_frame_untrusted(frame).changes.refused) == 2
