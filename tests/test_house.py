"""The house rules a program can check. Each failure says what to do instead."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ["core", "mesh", "portal", "node", "tui"]
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

# Modules without a test of the same name, and why.
UNMIRRORED = {
    "core/limits.py": "numbers; used by every other test",
    "node/cli/warp.py": "only gathers its commands; tests/e2e/test_programs.py runs it",
    "tui/__main__.py": "has no screens yet; tests/e2e/test_programs.py runs it",
}

# Libraries that have one home each: elsewhere, call that module.
HOMES = {
    "aioquic": {"mesh/quic/aioquic_engine.py", "mesh/quic/initial.py", "mesh/quic/rate.py"},
    "blake3": {"core/hashing.py"},
    "cryptography": {"core/crypto.py", "mesh/leaf.py"},
    "h11": {"node/control.py", "node/http.py"},
    "hashlib": {"core/phrase.py"},
    "keyring": {"core/slots.py"},
    "lz4": {"core/compress.py"},
    "mnemonic": {"core/phrase.py"},
    "msgpack": {"core/codec.py"},
    "msgspec": {
        *("node/api.py", "node/cli/portal_node.py", "node/control.py", "node/door.py"),
        *("node/events.py", "node/cli/mesh.py", "node/cli/opening.py"),
    },
    "nacl": {"core/crypto.py"},
    "prometheus_client": {"node/metrics.py"},
    "qh3": {"mesh/quic/qh3_engine.py"},
    "segno": {"node/cli/kit_page.py"},
    "starlette": {"node/door.py", "node/metrics.py"},
    "trio": {
        *("core/pipeline.py", "node/cli/run.py", "portal/backup.py", "portal/session.py"),
        *("node/daemon.py", "node/door.py", "node/events.py", "node/http.py"),
        *("node/metrics.py", "node/systemd.py"),
        *("node/mesh_files.py", "node/mesh_service.py", "node/mesh_door.py"),
        *("node/mesh_entry.py", "node/network.py"),
        *("mesh/gate.py", "mesh/mesh.py"),
        *("mesh/lanes/doors.py", "mesh/lanes/lane.py", "mesh/lanes/memory.py"),
        *("mesh/lanes/opening.py", "mesh/lanes/tcp.py", "mesh/lanes/tls.py", "mesh/lanes/unix.py"),
        *("mesh/bulk.py", "mesh/gossip.py", "mesh/meter.py", "mesh/paths.py", "mesh/port.py"),
        *("mesh/drafting.py", "mesh/whereabouts.py", "mesh/liveness.py"),
        *("mesh/greeting.py", "mesh/link.py", "mesh/links.py"),
        *("mesh/udp.py", "mesh/quic/connection.py", "mesh/quic/endpoint.py", "mesh/quic/stream.py"),
    },
    "zstandard": {"core/compress.py"},
}

# Calls that are wrong everywhere in the rooms except where named, and what to use.
BANNED = {
    "print": ("click.echo in node/cli, an exception or a return value elsewhere", "node/cli/"),
    "eval": ("nothing", ""),
    "exec": ("nothing", ""),
    "__import__": ("an import, at the top or inside the function", ""),
    "importlib.import_module": ("an import, at the top or inside the function", ""),
    "os.getenv": ("a parameter; node reads the environment", "node/"),
    "os.environ.get": ("a parameter; node reads the environment", ("node/", "core/native/")),
    "time.time": ("a `now` that is passed in", "node/"),
    "time.sleep": ("an event to wait for", ""),
    "trio.sleep": ("an event to wait for", ""),
    "os.system": ("subprocess.run with a list", ""),
}


@cache
def sources(*tops: str) -> list[Path]:
    return sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def full_names(path: Path) -> dict[str, str]:
    """What the imported names of a module stand for: `nap` for `from time import sleep as nap`."""
    found = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            found |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return found


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every call."""
    names = full_names(path)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield node.lineno, names.get(first, first) + dot + rest


def native_sources() -> list[Path]:
    return [p for ending in ("*.c", "*.h", "*.cu") for p in (ROOT / "core").rglob(ending)]


def documents_and_scripts() -> list[Path]:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file()]
    return [
        *scripts,
        *ROOT.glob("*.md"),
        *(s for room in ROOMS for s in (ROOT / room).glob("*.md")),
    ]


def test_files_fit_one_sitting():
    long = {
        name(path): lines
        for path in [*sources(*ROOMS, "tests"), *native_sources()]
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    }
    assert not long, f"split these along their subjects: {long}"


def test_functions_fit_a_screen():
    long = [
        f"{name(path)}:{f.lineno} {f.name}"
        for path in sources(*ROOMS, "tests")
        for f in functions(path)
        if (f.end_lineno or f.lineno) - f.lineno >= FUNCTION_LINES_MAX
    ]
    assert not long, f"give the parts names of their own: {long}"


def test_every_module_has_its_test_and_every_test_its_module():
    modules = {name(p) for p in sources(*ROOMS) if p.name != "__init__.py"}
    expected = {f"tests/{m.rpartition('/')[0]}/test_{m.rpartition('/')[2]}": m for m in modules}
    tests = {name(p) for room in ROOMS for p in (ROOT / "tests" / room).rglob("test_*.py")}
    untested = {m for t, m in expected.items() if t not in tests} - set(UNMIRRORED)
    assert not untested, f"write tests/<room>/test_<module>.py for {untested}"
    assert not (tests - set(expected)), f"no module of this name: {tests - set(expected)}"
    empty = {t for t in tests if not any(f.name.startswith("test_") for f in functions(ROOT / t))}
    assert not empty, f"these test nothing: {empty}"
    stale = {m for m in UNMIRRORED if m not in modules or f"tests/{m}" in tests}
    assert not stale, f"take these out of UNMIRRORED: {stale}"


def test_libraries_stay_at_home():
    strays = [
        f"{name(path)} imports {library}; its home is {sorted(homes)}"
        for path in sources(*ROOMS)
        for library, homes in HOMES.items()
        if library in imported(path) and name(path) not in homes
    ]
    assert not strays, strays


def test_banned_calls_are_not_made():
    found = []
    for path in sources(*ROOMS):
        for line, call in calls(path):
            instead, allowed_in = BANNED.get(call, ("", ""))
            if instead and not (allowed_in and name(path).startswith(allowed_in)):
                found.append(f"{name(path)}:{line} {call}: use {instead}")
    assert not found, found


def test_tests_never_sleep():
    found = [
        f"{name(path)}:{line}"
        for path in sources("tests")
        if not name(path).startswith("tests/bench/")
        for line, call in calls(path)
        if call.rpartition(".")[2] in {"sleep", "sleep_until"}
    ]
    assert not found, f"wait for the event itself: {found}"


def test_hostile_bytes_are_never_asserted():
    found = [
        f"{name(path)}:{node.lineno} assert in {f.name}: raise FormatError"
        for path in sources(*ROOMS)
        for f in functions(path)
        if f.name.endswith("_untrusted")
        for node in ast.walk(f)
        if isinstance(node, ast.Assert)
    ]
    assert not found, found


def test_nothing_catches_everything():
    found = []
    for path in sources(*ROOMS):
        found += [
            f"{name(path)}:{node.lineno}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.ExceptHandler) and catches_everything(node)
        ]
        found += [
            f"{name(path)}:{node.lineno}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("suppress")
            and {"Exception", "BaseException"} & {ast.unparse(a) for a in node.args}
        ]
    assert not found, f"catch what you can handle, or end with a bare raise: {found}"


def catches_everything(handler: ast.ExceptHandler) -> bool:
    """Whether it takes any exception and does not hand it on."""
    caught = handler.type
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    takes_any = any(
        kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds
    )
    last = handler.body[-1]
    return takes_any and not (isinstance(last, ast.Raise) and last.exc is None)


def test_modules_and_packages_say_what_they_are():
    silent = [name(p) for p in sources(*ROOMS) if not ast.get_docstring(tree(p))]
    assert not silent, f"begin with what it holds and what it refuses: {silent}"


def test_references_to_the_specifications_lead_somewhere():
    headings = {
        room: set(re.findall(r"^#+ (.+)$", (ROOT / room / "SPEC.md").read_text(), re.MULTILINE))
        for room in ROOMS
        if (ROOT / room / "SPEC.md").exists()
    }
    broken = [
        f"{name(path)}: {room}/SPEC.md has no section {section!r}"
        for path in sources(*ROOMS)
        for room, section in re.findall(
            r"\((\w+)/SPEC\.md, ([^)]+)\)", ast.get_docstring(tree(path)) or ""
        )
        if section.replace("\n", " ") not in headings.get(room, set())
    ]
    assert not broken, broken


@pytest.mark.parametrize("document", ["README.md", "core/SPEC.md", "CHANGELOG.md"])
def test_links_in_documents_lead_somewhere(document):
    path = ROOT / document
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    broken = [link for link in links if not (path.parent / link).exists()]
    assert not broken, f"{document}: {broken}"


def test_every_dependency_says_why():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    bare = [w for w in wanted if not re.search(rf'"{re.escape(w)}",? +# \w+', text)]
    assert not bare, f"a reason on its line for {bare}"


def test_no_unfinished_marks_are_left():
    marks = re.compile("TO" + "DO|FIX" + "ME|XX" + "X")
    found = [
        name(p)
        for p in [*sources(*ROOMS, "tests"), *native_sources(), *documents_and_scripts()]
        if marks.search(p.read_text(encoding="utf-8"))
    ]
    assert not found, f"finish or delete: {found}"
