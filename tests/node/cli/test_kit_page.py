import re

from core.crypto import SigningKey
from core.ids import MeshId, NodeId, UserId
from core.phrase import to_words
from core.recovery_kit import Endpoint, RecoveryKit
from core.secret import Secret
from node.cli import kit_page

USER = UserId(SigningKey(Secret(bytes(32))).public)
KIT = RecoveryKit(
    Secret(bytes(range(32))),
    USER,
    1_795_000_000,
    MeshId(bytes(range(32))),
    (Endpoint("<script>", NodeId(USER)),),
)


def test_the_text_page_is_a_kit_that_reads_back():
    page = kit_page.text_page(KIT).reveal().decode()
    assert page.endswith("\n")
    assert "made   2026-11-18" in page
    read = RecoveryKit.parse_untrusted(page[page.index("pnk1-") :])
    assert (read.user, read.endpoints) == (KIT.user, KIT.endpoints)


def test_the_html_page_holds_all_of_it_and_loads_nothing():
    page = kit_page.html_page(KIT).reveal().decode()
    words = to_words(KIT.entropy).reveal().decode().split()
    assert re.findall("<li>([a-z]+)</li>", page) == words
    assert KIT.text().reveal().decode() in page
    assert USER.text() in page
    assert "<svg" in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"<script|src=|href=|url\(|@import", page)


def test_the_code_on_the_terminal_is_a_square_that_brings_its_own_colours():
    lines = kit_page.terminal_qr(KIT).reveal().decode().splitlines()
    modules = [re.fullmatch("\033\\[97;40m([ █▀▄]+)\033\\[0m", line)[1] for line in lines]
    assert {len(line) for line in modules} == {len(modules[0])}
    assert len(lines) == -(-len(modules[0]) // 2)
    assert set(modules[0]) == {"█"}  # the quiet zone
