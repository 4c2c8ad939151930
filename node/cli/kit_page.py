"""The recovery kit for paper: a page of text, a page to print from a browser, a QR code.

All of it is as secret as the phrase, so every function takes and gives secrets; nothing in a page
is loaded from elsewhere.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from core.secret import Secret

if TYPE_CHECKING:
    from core.recovery_kit import RecoveryKit

_LINE_CHARS = 64
_QUIET_ZONE_MODULES = 2  # on a screen; on paper the standard's 4
_STYLE = """
@page { size: A4; margin: 20mm }
body { font: 11pt/1.4 sans-serif; max-width: 170mm; margin: 0 auto; color: #000; background: #fff }
ol { columns: 4; padding: 0 0 0 2em; font: 13pt/1.8 monospace }
code { font: 9pt/1.5 monospace; overflow-wrap: anywhere }
svg { display: block; margin: 5mm 0 }
"""


def date_of(kit: "RecoveryKit") -> str:
    """The day the identity was made."""
    return f"{datetime.fromtimestamp(kit.created_s, UTC):%Y-%m-%d}"


def text_page(kit: "RecoveryKit") -> Secret:
    """The page for a terminal or a plain printer; `--kit-file` reads it back."""
    page = kit.page(date_of(kit)).reveal().decode()
    text = kit.text().reveal().decode()
    lines = [text[at : at + _LINE_CHARS] for at in range(0, len(text), _LINE_CHARS)]
    return Secret("\n".join([page, "", "The same for a scanner:", "", *lines, ""]).encode())


def html_page(kit: "RecoveryKit") -> Secret:
    """One self-contained page of paper, with the QR code."""
    import html

    from core.phrase import to_words

    words = to_words(kit.entropy).reveal().decode().split()
    # The core's page knows what is to be said; the words, its first block, get a list of their own.
    _, _, *rest = kit.page(date_of(kit)).reveal().decode().split("\n\n")
    said = "".join(f"<p>{html.escape(block).replace(chr(10), '<br>')}</p>" for block in rest)
    text = kit.text().reveal().decode()
    parts = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">',
        f"<title>Portal recovery kit</title><style>{_STYLE}</style>",
        "<h1>Portal recovery kit</h1>",
        "<ol>" + "".join(f"<li>{word}</li>" for word in words) + "</ol>",
        said,
        _code(text).svg_inline(scale=3, border=4),
        f"<p><code>{text}</code></p></html>",
        "",
    ]
    return Secret("\n".join(parts).encode())


def terminal_qr(kit: "RecoveryKit") -> Secret:
    """The QR code of a kit."""
    return Secret(text_qr(kit.text().reveal().decode()).encode())


def text_qr(text: str) -> str:
    """A QR code in half blocks, light on dark whatever the terminal's colours are."""
    import io

    drawn = io.StringIO()
    _code(text).terminal(out=drawn, border=_QUIET_ZONE_MODULES, compact=True)
    return "\n".join(f"\033[97;40m{line}\033[0m" for line in drawn.getvalue().splitlines())


def _code(text: str) -> Any:
    import segno

    # Capitals are a smaller alphabet to the code, and the same to whoever reads a kit.
    return segno.make(text.upper(), error="m", micro=False)
