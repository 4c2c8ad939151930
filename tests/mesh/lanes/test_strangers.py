import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.lanes.strangers import Strangers, source_of

SOURCES = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=80)


@pytest.mark.slow
@given(SOURCES)
def test_there_are_never_more_than_fit(sources):
    crowd = Strangers(5, 2)
    here = {}
    for who, source in enumerate(sources):
        leaves = crowd.admit(who, source)
        if leaves is not None:
            mine = [one for one, of in here.items() if source and of == source]
            assert leaves == (mine[0] if len(mine) == 2 else min(here))
            del here[leaves]
        here[who] = source
        assert len(crowd) == len(here) <= 5
        for name in "abc":
            assert list(here.values()).count(name) <= 2


def test_one_source_makes_way_for_itself_and_for_nobody_else():
    crowd = Strangers(3, 2)
    assert [crowd.admit(n, "loud") for n in range(4)] == [None, None, 0, 1]
    assert crowd.admit("quiet", "elsewhere") is None
    assert crowd.admit("late", "somewhere") == 2


def test_ours_are_counted_together_with_all_only():
    crowd = Strangers(3, 1)
    assert [crowd.admit(n, None) for n in range(4)] == [None, None, None, 0]


def test_who_has_left_makes_room():
    crowd = Strangers(1, 1)
    crowd.admit("one", "a")
    crowd.forget("one")
    crowd.forget("one")
    assert crowd.admit("two", "a") is None


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_network_is_one_source(host, source):
    assert source_of(host) == source
