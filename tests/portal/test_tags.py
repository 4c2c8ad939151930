import pytest

from core import limits
from core.errors import UsageError
from portal.tags import check_tag, retag
from tests.support.keeping import assert_whole, two_snapshots
from tests.support.vaults import opened


@pytest.fixture
def kept(tmp_path):
    return two_snapshots(tmp_path)


def said(vault):
    return [(one.tags, one.pinned) for one in vault.head().snapshots]


def test_only_the_named_ones_change_and_the_head_says_so_to_all(kept, tmp_path):
    vault, first, second = kept
    head = retag(vault, {first.id}, add=["a", "b"], pinned=True)
    assert [one.tags for one in head.snapshots] == [("a", "b"), ()]
    assert said(opened(tmp_path)) == [(("a", "b"), True), ((), False)]
    assert [one.id for one in vault.head().snapshots] == [first.id, second.id]
    assert [one.record for one in assert_whole(vault)] == [first.record, second.record]


def test_adding_removing_and_setting(kept):
    vault, first, second = kept
    both = {first.id, second.id}
    retag(vault, both, add=["a", "b", "a"])
    assert said(vault) == [(("a", "b"), False)] * 2
    retag(vault, both, add=["b", "c"], remove=["a", "never there"])
    assert said(vault) == [(("b", "c"), False)] * 2
    retag(vault, {second.id}, exactly=["z", "b"])
    assert said(vault) == [(("b", "c"), False), (("z", "b"), False)]
    retag(vault, both, exactly=[])
    assert said(vault) == [((), False)] * 2


def test_pins_and_tags_do_not_touch_each_other(kept):
    vault, first, _ = kept
    retag(vault, {first.id}, pinned=True)
    retag(vault, {first.id}, add=["a"])
    assert said(vault)[0] == (("a",), True)
    retag(vault, {first.id}, pinned=False)
    assert said(vault)[0] == (("a",), False)


@pytest.mark.parametrize("tag", ["", " ", "a,b", "a\nb", "\x1b[2J", "x" * 1025, "\udcff"])
def test_what_is_no_tag_changes_nothing(kept, tag):
    vault, first, _ = kept
    before = vault.store.head_places()
    with pytest.raises(UsageError):
        check_tag(tag)
    for change in ({"add": ["good", tag]}, {"exactly": [tag]}):
        with pytest.raises(UsageError):
            retag(vault, {first.id}, **change)
    assert vault.store.head_places() == before
    check_tag("two words")


def test_a_snapshot_has_so_many_tags_and_no_more(kept):
    vault, first, second = kept
    most = [f"tag {number}" for number in range(limits.SNAPSHOT_TAGS_MAX)]
    retag(vault, {first.id}, add=most)
    before = vault.store.head_places()
    with pytest.raises(UsageError, match="at most 64 tags"):
        retag(vault, {second.id, first.id}, add=["one more"])
    assert vault.store.head_places() == before
    assert said(vault) == [(tuple(most), False), ((), False)]
