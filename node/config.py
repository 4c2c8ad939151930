"""PORTAL_HOME/config.toml: what people settle once, and where each setting comes from.

    vault = "/mnt/disk/vault"        compression = "auto"

    [profile.home]
    inherit = "base"                 another profile; single settings are replaced, never joined
    sources = ["~", "/srv"]          exclude = ["*.tmp"]     and so on, see _SETTINGS
    keep = { daily = 7, within = "2m" }
    hooks = { before = [["/usr/local/bin/dump-db", "--all"]], timeout = "10min" }

    [node]                           of the daemon; options of `portal-node run` go before it
    log_level = "info"
    metrics = "127.0.0.1:9464"       answers /metrics and /healthz there; else nowhere
    control_socket = "/run/..."      where PORTAL_HOME is too long a path for node.sock
    listen = "[::]:27272"            where peers find this node (UDP), or a bare port

    [storage]
    offer = "500GB"                  what this node would keep for others; portal offer writes it

    [mesh]
    grace = "3d"                     how long a member may be away at least and is not lost

    option > environment > profile, then what it inherits > top level > built-in

Every key is known and every value of its type, or nothing is done: a setting with a typing mistake
in it must not pass for a backup of less than was meant.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core import files, limits
from core.errors import LimitExceeded, UsageError
from node.cli.values import parse_seconds, parse_size
from node.hooks import Command, Hooks
from portal.retention import ALL, Duration, Policy

FILE_NAME = "config.toml"
DEFAULT_PROFILE = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ADDRESS = re.compile(r"(?:(?:\[([0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\]|([0-9.]*)):)?([0-9]{1,5})")
_ENVIRONMENT = {"vault": "PORTAL_VAULT", "compression": "PORTAL_COMPRESSION"}
_TOP_LEVEL = ("vault", "compression")
_TABLES = ("keep", "hooks")
COMPRESSIONS = ("auto", "none", "lz4", "zstd")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force, and in `origin` where each of it comes from."""

    profile: str | None = None
    vault: Path | None = None
    compression: str = "auto"
    sources: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    iexclude: tuple[str, ...] = ()
    exclude_files: tuple[Path, ...] = ()
    exclude_caches: bool = False
    exclude_if_present: tuple[str, ...] = ()
    exclude_larger_than: int | None = None
    gitignore: bool = False
    one_file_system: bool = False
    tags: tuple[str, ...] = ()
    keep: Policy = field(default_factory=Policy)
    hooks: Hooks = field(default_factory=Hooks)
    schedule: str | None = None
    stdin_command: Command = ()
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings of one profile as they stand in the file, `keep` and `hooks` one by one."""

    inherit: str | None
    values: Mapping[str, Any]  # by names such as "exclude" and "keep.daily"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a literal IP address, so that nothing has to be looked up."""

    host: str
    port: int  # 0: any that is free

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "::1" or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_PORT = 27272  # of links, UDP; the next free one if it is taken


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the daemon is told: the tables [node], [storage] and [mesh]."""

    log_level: str = "info"
    metrics: Address | None = None
    control_socket: Path | None = None
    listen: Address = Address("::", DEFAULT_PORT)
    offer_bytes: int = 0
    grace_s: int = limits.GRACE_SECONDS_MIN


@dataclass(frozen=True, slots=True)
class Config:
    """The file, checked."""

    path: Path
    top: Mapping[str, Any] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    node: NodeSettings = field(default_factory=NodeSettings)
    node_origin: Mapping[str, str] = field(default_factory=dict)  # of what the file says of it


class _WrongValue(ValueError):
    """The value is not what it should be; the message says what that is."""


def load(path: Path, user_home: Path) -> Config:
    """Read the configuration; a file that is not there says nothing. `~` is `user_home`."""
    import tomllib  # noqa: PLC0415 - most commands run without a configuration

    try:
        text = files.read_bounded(path, limits.CONFIG_FILE_BYTES_MAX).decode("utf-8")
        table = tomllib.loads(text)
    except FileNotFoundError:
        return Config(path)
    except LimitExceeded as e:
        raise UsageError(e.what, where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"this is not TOML: {e}", where=str(path)) from None
    except RecursionError:
        raise UsageError("this is nested too deeply", where=str(path)) from None
    return _Reader(path, user_home).config(table)


def resolve(
    config: Config,
    *,
    profile: str | None = None,
    options: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    user_home: Path | None = None,
) -> Settings:
    """What is in force for one run.

    `options` are those of the command line that were given, by the names of `Settings` and of
    the right type; None and () stand for an option that was not given. `keep` may be given as a
    Policy, or rule by rule as "keep.daily". Without a `profile`, that of PORTAL_PROFILE counts, or
    the one called "default" if there is one.
    """
    environment = environment or {}
    chosen = profile or environment.get("PORTAL_PROFILE") or None
    if chosen is None and DEFAULT_PROFILE in config.profiles:
        chosen = DEFAULT_PROFILE
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}

    def take(source: Mapping[str, Any], told: str) -> None:
        for name, value in source.items():
            values[name], origin[name] = value, told

    take(config.top, FILE_NAME)
    for name, one in reversed(list(_lineage(config, chosen))):
        take(one.values, f"profile {name}")
    for name, variable in _ENVIRONMENT.items():
        if environment.get(variable):
            try:
                found = _SETTINGS[name](_Context(user_home or Path.home()), environment[variable])
            except _WrongValue as e:
                raise UsageError(f"must be {e}", where=variable) from None
            take({name: found}, f"environment {variable}")
    given = {n: v for n, v in (options or {}).items() if v is not None and v != ()}
    whole = given.pop("keep", None)
    take(given, "option")
    return _settings(chosen, values, origin, whole)


def node_settings(config: Config) -> Mapping[str, tuple[str | int | None, str]]:
    """What the daemon is told, by its names in the file, as that writes it; and by what origin."""
    found: dict[str, tuple[str | int | None, str]] = {}
    for table, settings in _NODE_TABLES.items():
        for key in settings:
            name = f"{table}.{key}"
            value = getattr(config.node, _RENAMED.get(name, key))
            if name == "mesh.grace":
                value = f"{value // 3_600}h" if value % 3_600 == 0 else f"{value}s"
            elif value is not None and not isinstance(value, int):
                value = str(value)
            found[name] = value, config.node_origin.get(name, "built-in")
    return found


def check_profile_name(name: str) -> str:
    """The name, if it may be that of a profile: it becomes part of file names."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a profile", hint="letters, digits, - and _")
    return name


def parse_address(text: str) -> Address:
    """An address to listen on: `127.0.0.1:9464`, `[::1]:9464`, or a bare port on 127.0.0.1."""
    from ipaddress import ip_address  # noqa: PLC0415 - for those who name one

    found = _ADDRESS.fullmatch(text.strip())
    wrong = UsageError(
        f"{text!r} is no address to listen on",
        hint="for example 127.0.0.1:9464, [::1]:9464 or 9464",
    )
    if found is None or int(found[3]) > 65_535:
        raise wrong
    try:
        literal = ip_address(found[1] or found[2] or "127.0.0.1")
    except ValueError:
        raise wrong from None
    return Address(str(literal), int(found[3]))


def expand_home(pattern: str, user_home: Path) -> str:
    """A path or a pattern with `~` at its start, written out; also behind the `!` of a pattern."""
    sign, rest = ("!", pattern[1:]) if pattern.startswith("!") else ("", pattern)
    return f"{sign}{user_home}{rest[1:]}" if rest == "~" or rest.startswith("~/") else pattern


def _settings(
    profile: str | None, values: dict[str, Any], origin: dict[str, str], whole: Policy | None
) -> Settings:
    """Put together what was found setting by setting."""
    tables: dict[str, dict[str, Any]] = {name: {} for name in _TABLES}
    plain = {}
    for name, value in values.items():
        table, dot, key = name.partition(".")
        if dot:
            tables[table][key] = value
        else:
            plain[name] = value
    if whole is not None:  # a policy of the command line stands for itself
        origin = {n: told for n, told in origin.items() if not n.startswith("keep.")}
        origin["keep"] = "option"
    keep = whole if whole is not None else Policy(**tables["keep"])
    for name in (*_SETTINGS, "profile"):
        table = name.partition(".")[0]
        if table not in _TABLES:
            origin.setdefault(name, "built-in")
    if profile:
        origin["profile"] = f"profile {profile}"
    return Settings(
        profile=profile, keep=keep, hooks=Hooks(**tables["hooks"]), origin=origin, **plain
    )


def _lineage(config: Config, name: str | None) -> Iterator[tuple[str, Profile]]:
    """A profile and what it inherits, itself first."""
    seen: list[str] = []
    while name is not None:
        if name in seen:
            circle = " -> ".join([*seen[seen.index(name) :], name])
            raise UsageError(f"profiles inherit in a circle: {circle}", where=str(config.path))
        found = config.profiles.get(name)
        if found is None:
            asked = f", which {seen[-1]} inherits" if seen else ""
            raise UsageError(
                f"there is no profile {name!r}{asked}",
                where=str(config.path),
                hint=_suggestion(name, config.profiles),
            )
        seen.append(name)
        yield name, found
        name = found.inherit


def _suggestion(word: str, known: Mapping[str, object] | tuple[str, ...]) -> str | None:
    """What may have been meant."""
    from difflib import get_close_matches  # noqa: PLC0415 - for mistakes only

    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(known)}" if known else None


@dataclass(frozen=True, slots=True)
class _Context:
    user_home: Path


class _Reader:
    """Takes the tables of one file apart."""

    def __init__(self, path: Path, user_home: Path) -> None:
        self._path = path
        self._context = _Context(user_home)

    def config(self, table: dict[str, Any]) -> Config:
        """The whole file."""
        self._check_keys(table, (*_TOP_LEVEL, "profile", *_NODE_TABLES), "")
        top = {name: self._value(name, table[name], name) for name in _TOP_LEVEL if name in table}
        found = self._table(table.get("profile", {}), "profile")
        profiles = {name: self._profile(name, found[name]) for name in found}
        node = self._node(table)
        said = [f"{name}.{key}" for name in _NODE_TABLES for key in table.get(name, {})]
        config = Config(self._path, top, profiles, node, dict.fromkeys(said, FILE_NAME))
        for name in profiles:
            list(_lineage(config, name))  # a circle is found now, not when it is used
        return config

    def _profile(self, name: str, value: object) -> Profile:
        where = f"profile.{name}"
        try:
            check_profile_name(name)
        except UsageError as e:
            raise e.at(str(self._path)) from None
        table = dict(self._table(value, where))
        plain = tuple(key for key in _SETTINGS if "." not in key)
        self._check_keys(table, ("inherit", *plain, *_TABLES), where)
        inherit = table.pop("inherit", None)
        if inherit is not None and not isinstance(inherit, str):
            raise self._wrong(f"{where}.inherit", "the name of a profile")
        values = {}
        for key, found in table.items():
            if key not in _TABLES:
                values[key] = self._value(key, found, f"{where}.{key}")
                continue
            inner = self._table(found, f"{where}.{key}")
            known = tuple(k.partition(".")[2] for k in _SETTINGS if k.startswith(f"{key}."))
            self._check_keys(inner, known, f"{where}.{key}")
            for one, setting in inner.items():
                full = f"{key}.{one}"
                values[_RENAMED.get(full, full)] = self._value(full, setting, f"{where}.{full}")
        return Profile(inherit, values)

    def _node(self, table: dict[str, Any]) -> NodeSettings:
        values = {}
        for name, settings in _NODE_TABLES.items():
            found = self._table(table.get(name, {}), name)
            self._check_keys(found, tuple(settings), name)
            for key, value in found.items():
                where = f"{name}.{key}"
                values[_RENAMED.get(where, key)] = self._value(key, value, where, settings)
        return NodeSettings(**values)

    def _value(
        self, name: str, value: object, where: str, known: Mapping[str, "_Setting"] | None = None
    ) -> Any:
        try:
            return (known or _SETTINGS)[name](self._context, value)
        except _WrongValue as e:
            raise self._wrong(where, str(e)) from None
        except UsageError as e:
            raise UsageError(f"{where}: {e.what}", where=str(self._path), hint=e.hint) from None

    def _table(self, value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(where, "a table")
        return value

    def _check_keys(self, table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        for key in table:
            if key not in known:
                place = f" in {where}" if where else ""
                raise UsageError(
                    f"unknown key {key!r}{place}",
                    where=str(self._path),
                    hint=_suggestion(key, known),
                )

    def _wrong(self, where: str, wanted: str) -> UsageError:
        return UsageError(f"{where} must be {wanted}", where=str(self._path))


def _text(_context: _Context, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _WrongValue("one line of text")
    return value


def _path(context: _Context, value: object) -> Path:
    path = Path(expand_home(_text(context, value), context.user_home))
    if not path.is_absolute():  # a timer runs somewhere else
        raise _WrongValue("a path that begins with / or ~/")
    return path


def _pattern(context: _Context, value: object) -> str:
    return expand_home(_text(context, value), context.user_home)


def _flag(_context: _Context, value: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongValue("true or false")
    return value


def _count(_context: _Context, value: object) -> int:
    if value == "all":
        return ALL
    if not isinstance(value, int) or isinstance(value, bool) or value < ALL:
        raise _WrongValue('a number, or "all"')
    return value


def _size(_context: _Context, value: object) -> int:
    if isinstance(value, str):
        return parse_size(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _WrongValue('a size such as "100MiB"')
    return value


def _offer(context: _Context, value: object) -> int:
    size = _size(context, value)
    if size > limits.QUOTA_BYTES_MAX:
        raise _WrongValue("a size that somebody may have")
    return size


def _grace(context: _Context, value: object) -> int:
    seconds = _seconds(context, value)
    if not limits.GRACE_SECONDS_MIN <= seconds <= limits.GRACE_POLICY_SECONDS_MAX:
        raise _WrongValue("from 24h to 365d")
    return seconds


def _duration(context: _Context, value: object) -> Duration:
    return Duration.parse(_text(context, value))


def _seconds(_context: _Context, value: object) -> int:
    if not isinstance(value, str):
        raise _WrongValue('a time such as "10min"')
    return parse_seconds(value)


def _compression(_context: _Context, value: object) -> str:
    if value not in COMPRESSIONS:
        raise _WrongValue(f"one of {', '.join(COMPRESSIONS)}")
    return str(value)


def _level(_context: _Context, value: object) -> str:
    if value not in LOG_LEVELS:
        raise _WrongValue(f"one of {', '.join(LOG_LEVELS)}")
    return str(value)


def _address(_context: _Context, value: object) -> Address:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _WrongValue('an address such as "127.0.0.1:9464"')
    return parse_address(value)


def _tag(context: _Context, value: object) -> str:
    text = _text(context, value)
    if "," in text or text != text.strip():
        raise _WrongValue("a list of tags, each without a comma")
    return text


def _tag_set(context: _Context, value: object) -> frozenset[str]:
    return frozenset(_tag(context, part.strip()) for part in _text(context, value).split(","))


def _argument(_context: _Context, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _WrongValue('a program and its arguments, such as ["pg_dump", "shop"]')
    return value


def _command(context: _Context, value: object) -> Command:
    if not isinstance(value, list) or not value or not value[0]:
        raise _WrongValue('a program and its arguments, such as ["pg_dump", "shop"]')
    return tuple(_argument(context, one) for one in value)


def _all(one: Callable[[_Context, object], Any]) -> Callable[[_Context, object], tuple[Any, ...]]:
    def read(context: _Context, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _WrongValue("a list in [ ]")
        try:
            return tuple(one(context, item) for item in value)
        except _WrongValue as e:
            raise _WrongValue(f"a list, each of it {e}") from None

    return read


def _listen(context: _Context, value: object) -> Address:
    found = _address(context, value)
    bare = isinstance(value, int) or str(value).lstrip(":").isdigit()  # metrics stay at home then
    return replace(found, host="::") if bare else found


_Setting = Callable[[_Context, object], Any]
_PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly")
_SETTINGS: dict[str, _Setting] = {
    "vault": _path,
    "compression": _compression,
    "sources": _all(_path),
    "exclude": _all(_pattern),
    "iexclude": _all(_pattern),
    "exclude_files": _all(_path),
    "exclude_caches": _flag,
    "exclude_if_present": _all(_text),
    "exclude_larger_than": _size,
    "gitignore": _flag,
    "one_file_system": _flag,
    "tags": _all(_tag),
    "schedule": _text,
    "stdin_command": _command,
    "keep.last": _count,
    **{f"keep.{period}": _count for period in _PERIODS},
    "keep.within": _duration,
    **{f"keep.within_{period}": _duration for period in _PERIODS},
    "keep.tags": _all(_tag_set),
    **{f"hooks.{moment}": _all(_command) for moment in ("before", "after", "success", "failure")},
    "hooks.timeout": _seconds,
}
_NODE_SETTINGS: dict[str, _Setting] = {
    "log_level": _level,
    "metrics": _address,
    "control_socket": _path,
    "listen": _listen,
}
_NODE_TABLES: dict[str, dict[str, _Setting]] = {
    "node": _NODE_SETTINGS,
    "storage": {"offer": _offer},
    "mesh": {"grace": _grace},
}
_RENAMED = {  # in the file a size and a time have their units with them
    "hooks.timeout": "hooks.timeout_s",
    "storage.offer": "offer_bytes",
    "mesh.grace": "grace_s",
}
