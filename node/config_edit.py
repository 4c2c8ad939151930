"""Changes one setting of config.toml, and nothing else of the file: comments stay where they are.

TOML has many ways to write the same. Only the plain one is edited, a line `key = value` under a
`[table]` of its own; that the outcome means what was wanted, and otherwise what it meant before, is
seen by reading it again. Else nothing is written.
"""

import re
from pathlib import Path
from typing import Any

from core import files, limits
from core.errors import UsageError
from node.config import FILE_NAME, load

_HEADER = re.compile(r"\s*\[")
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#"']+)"""


def write_setting(home: Path, table: str, key: str, value: str) -> None:
    """Have `key` under [table] be this TOML value; UsageError if the file is wrong or too odd."""
    path = home / FILE_NAME
    load(path, Path.home())  # a mistake in it is told as ever
    try:
        text = files.read_bounded(path, limits.CONFIG_FILE_BYTES_MAX).decode("utf-8")
        mode = path.stat().st_mode & 0o777
    except FileNotFoundError:
        text, mode = "", files.PRIVATE_MODE
    try:
        changed = with_setting(text, table, key, value)
    except UsageError as e:
        raise e.at(str(path)) from None
    if changed != text:
        files.write_private(path, changed.encode("utf-8"))
        if mode != files.PRIVATE_MODE:
            path.chmod(mode)


def with_setting(text: str, table: str, key: str, value: str) -> str:
    """The file with that setting; see `write_setting`."""
    import tomllib  # noqa: PLC0415 - for this one command

    wanted: dict[str, Any] = tomllib.loads(text)
    inner = wanted.setdefault(table, {})
    inner[key] = tomllib.loads(f"{key} = {value}")[key]
    changed = _edited(text, table, key, value)
    try:
        is_right = tomllib.loads(changed) == wanted
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        hint = f"write {key} = {value} under [{table}] by hand"
        raise UsageError("this file is written in a way that cannot be edited here", hint=hint)
    return changed


def _edited(text: str, table: str, key: str, value: str) -> str:
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    header = re.compile(rf"\s*\[\s*{re.escape(table)}\s*\]\s*(?:#.*)?$")
    setting = re.compile(rf"(\s*{re.escape(key)}\s*=\s*){_VALUE}(\s*(?:#.*)?)$")
    at = next((n for n, line in enumerate(lines) if header.match(line.rstrip("\r\n"))), None)
    if at is None:
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += end
        gap = [end] if lines else []
        return "".join([*lines, *gap, f"[{table}]{end}", f"{key} = {value}{end}"])
    for n in range(at + 1, len(lines)):
        if _HEADER.match(lines[n]):
            break
        plain = lines[n].rstrip("\r\n")
        if found := setting.match(plain):
            lines[n] = f"{found[1]}{value}{found[2]}{lines[n][len(plain) :]}"
            return "".join(lines)
    if not lines[at].endswith("\n"):
        lines[at] += end
    lines.insert(at + 1, f"{key} = {value}{end}")
    return "".join(lines)
