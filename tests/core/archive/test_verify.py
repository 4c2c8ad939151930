import os

import pytest

from core.archive.create import Creation, Options
from core.archive.reader import ArchiveReader
from core.archive.verify import Verification
from core.compress import Mode
from core.errors import FormatError, IntegrityError
from core.tree.source import Root


@pytest.fixture
def made(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(4):
        (tree / f"large {n}").write_bytes(os.urandom(1 << 20))
    (tree / "small").write_bytes(b"small")
    path = tmp_path / "a.warp"
    creation = Creation(Options(mode=Mode.OFF), lambda path, e: pytest.fail(f"{path}: {e}"))
    creation.create(path, [Root.of(tree)])
    return path


def verify(path, count):
    reader = ArchiveReader.open_file(path)
    verification = Verification(reader)
    seen = []
    verification.verify(count, lambda: seen.append(verification.checked))
    assert seen == list(range(1, verification.checked + 1))
    return verification


def test_all_or_as_many_as_asked(made):
    total = len(ArchiveReader.open_file(made).index)
    assert verify(made, total).checked == total
    assert verify(made, 2).checked == 2
    assert verify(made, total + 5).checked == total


def test_damage_anywhere_is_found_by_a_full_check(made):
    whole = made.read_bytes()
    for place in range(256, len(whole), len(whole) // 40):
        bad = bytearray(whole)
        bad[place] ^= 1
        made.write_bytes(bad)
        # Of several chunks that are checked at once, more than one may be found damaged.
        with pytest.raises((FormatError, IntegrityError, ExceptionGroup)) as caught:
            verify(made, 1 << 30)
        if isinstance(caught.value, ExceptionGroup):
            assert caught.value.split((FormatError, IntegrityError))[1] is None


def test_a_sample_is_chosen_anew_each_time(made, monkeypatch):
    chosen = set()
    original = ArchiveReader.chunk_untrusted
    for _ in range(30):
        asked = []
        with monkeypatch.context() as patched:
            patched.setattr(
                ArchiveReader,
                "chunk_untrusted",
                lambda self, n, asked=asked: asked.append(n) or original(self, n),
            )
            verify(made, 1)
        chosen.add(asked[-1])
    assert len(chosen) > 1
