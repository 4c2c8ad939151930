# The compiled kernel: every path gives the cuts of pure Python, never reads outside its buffer,
# runs without the GIL, and is chosen or missed as promised.

import importlib.machinery
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import native
from core.errors import PortalError, Unavailable, UsageError
from core.native import compiled, open_kernel
from core.native.rules import GearRule, SeqCdcRule
from core.secret import Secret
from tests.support.cuttable import cuttable, random_bytes

SOURCES = Path(native.__file__).parent
PYTHON = open_kernel("python")
SEQCDC_KEY = Secret(random_bytes(48, "seqcdc material"))
GEAR_KEY = Secret(random_bytes(2048, "gear material"))


BUILT = compiled.find(SOURCES) is not None
HERE = compiled.paths(compiled.load(SOURCES)) if BUILT else ["scalar"]


@pytest.fixture(scope="session", params=HERE)
def path(request):
    if not BUILT:
        pytest.skip("the kernel was not built")
    return open_kernel(request.param)


@pytest.fixture
def fastest():
    if not BUILT:
        pytest.skip("the kernel was not built")
    return open_kernel()


# --- the same answers ----------------------------------------------------------------------------


@given(
    data=cuttable(20_000), low=st.integers(64, 900), span=st.integers(0, 6000), final=st.booleans()
)
@example(data=random_bytes(64 + 64), low=64, span=64, final=True)
@example(data=random_bytes(64 + 63), low=64, span=64, final=True)
@example(data=random_bytes(64 + 61), low=64, span=200, final=True)
@example(data=b"", low=64, span=0, final=True)
def test_seqcdc_cuts_as_in_python(path, data, low, span, final):
    rule = SeqCdcRule(low, low + span, SEQCDC_KEY)
    assert path.seqcdc(rule)(data, final) == PYTHON.seqcdc(rule)(data, final)


@given(
    data=cuttable(6_000),
    low=st.integers(64, 900),
    more=st.integers(0, 600),
    span=st.integers(0, 2000),
    final=st.booleans(),
)
@example(data=random_bytes(64), low=64, more=0, span=0, final=False)
def test_gear_cuts_as_in_python(path, data, low, more, span, final):
    rule = GearRule(low, low + more, low + more + span, 2**64 // 600, 2**64 // 60, GEAR_KEY)
    assert path.gear(rule)(data, final) == PYTHON.gear(rule)(data, final)


def gear_of(table, limit):
    """A rule with one limit and made-up entries of the table."""
    material = b"".join(table.get(byte, 0).to_bytes(8, "little") for byte in range(256))
    return GearRule(100, 200, 300, limit, limit, Secret(material))


@pytest.mark.parametrize(("back", "cut"), [(60, 105), (63, 102), (64, 101), (65, 100), (66, 100)])
def test_gear_looks_back_64_bytes_and_no_further(path, back, cut):
    data = bytearray(400)
    data[100 - back] = 1  # the only byte that counts; the hash is 0 once it is out of sight
    for kernel in (path, PYTHON):
        assert kernel.gear(gear_of({1: 1}, 1))(data, True)[0] == cut


def test_gear_cuts_below_its_limit_not_at_it(path):
    for kernel in (path, PYTHON):
        assert kernel.gear(gear_of({}, 0))(bytes(400), True) == [300, 400]
        assert kernel.gear(gear_of({}, 1))(bytes(400), True) == [100, 200, 300, 400]


@given(data=cuttable(20_000))
def test_entropy_is_as_in_python(path, data):
    assert path.entropy_mbits(data) == PYTHON.entropy_mbits(data)


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_full_of_candidates_are_cut_as_in_python(path, seed):
    rng = random.Random(seed)
    low = rng.randrange(64, 400)
    data = rng.randbytes(rng.randrange(12_000))
    rule = SeqCdcRule(low, low + rng.randrange(64, 9_000), Secret(rng.randbytes(48)))
    for final in (False, True):
        assert path.seqcdc(rule)(data, final) == PYTHON.seqcdc(rule)(data, final)


@pytest.mark.slow
def test_big_chunks_are_cut_as_in_python(path):
    data = random_bytes(5 << 20) + bytes(2 << 20) + bytes(range(256)) * 8192 + random_bytes(1 << 20)
    rule = SeqCdcRule(1 << 19, 3 << 19, SEQCDC_KEY)
    assert path.seqcdc(rule)(data, True) == PYTHON.seqcdc(rule)(data, True)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_read_where_it_lies(path, kind):
    data = random_bytes(9_000)
    rule = SeqCdcRule(100, 500, SEQCDC_KEY)
    expected = PYTHON.seqcdc(rule)(data, True)
    assert path.seqcdc(rule)(kind(data), True) == expected
    shifted = memoryview(b"???" + data)[3:]
    assert path.seqcdc(rule)(shifted, True) == expected


def test_a_buffer_is_let_go_after_the_call(path):
    data = bytearray(random_bytes(5_000))
    path.seqcdc(SeqCdcRule(100, 500, SEQCDC_KEY))(data, True)
    path.gear(GearRule(100, 200, 500, 1, 2, GEAR_KEY))(data, True)
    path.entropy_mbits(data)
    data.append(1)  # BufferError while anyone still holds it


def test_what_is_not_one_stretch_of_memory_is_refused(path):
    with pytest.raises(BufferError):
        path.seqcdc(SeqCdcRule(100, 500, SEQCDC_KEY))(memoryview(bytes(2000))[::2], True)


# --- the GIL -------------------------------------------------------------------------------------


def test_other_threads_run_while_the_kernel_works(fastest):
    # With an endless switch interval a thread gives the GIL away only when it lets go of it by
    # itself. So if the main thread wakes while the worker says that it is inside, the call let go.
    scan = fastest.gear(GearRule(64, 64, 16 << 20, 0, 0, GEAR_KEY))
    data = bytes(64 << 20)

    def seen_inside():
        inside, entered = [False], threading.Event()

        def work():
            inside[0] = True
            entered.set()
            scan(data, True)
            inside[0] = False

        worker = threading.Thread(target=work)
        worker.start()
        entered.wait()
        seen = inside[0]
        worker.join()
        return seen

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        # Once is proof; a busy machine may wake the main thread too late, hence several chances.
        assert any(seen_inside() for _ in range(20))
    finally:
        sys.setswitchinterval(interval)


# --- choosing ------------------------------------------------------------------------------------


def test_the_fastest_path_is_taken_without_being_told(fastest):
    assert (fastest.name, fastest.warning) == (HERE[0], None)
    assert list(compiled.PATHS) == ["avx2", "neon", "scalar"]


def test_a_processor_with_avx2_uses_it(fastest):
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text().split() if cpu.exists() else []
    if not {"avx2", "bmi1"} <= set(flags):
        pytest.skip("no AVX2 here, or no way to know")
    assert fastest.name == "avx2"


def test_where_a_compiler_is_the_kernel_was_built():
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    assert BUILT, "build it: pip install -e ."


def test_without_the_library_python_takes_over_and_says_so(tmp_path):
    kernel = open_kernel(folder=tmp_path)
    assert kernel.name == "python"
    assert "install a C compiler" in kernel.warning


def test_asking_for_python_is_no_reason_to_warn():
    assert (PYTHON.name, PYTHON.warning) == ("python", None)


@pytest.mark.parametrize("name", list(compiled.PATHS))
def test_a_path_asked_for_is_never_replaced(tmp_path, name):
    with pytest.raises(Unavailable, match="was not built"):
        open_kernel(name, folder=tmp_path)


def test_a_path_of_another_processor_is_refused(fastest):
    foreign = set(compiled.PATHS) - set(HERE)
    for name in foreign:
        with pytest.raises(Unavailable, match="this processor"):
            open_kernel(name)
    assert foreign  # AVX2 and NEON are never together


def library_file(folder):
    return folder / f"_kernel{importlib.machinery.EXTENSION_SUFFIXES[0]}"


def test_a_broken_library_is_not_used(tmp_path):
    library_file(tmp_path).write_bytes(b"not a library")
    assert "cannot be loaded" in open_kernel(folder=tmp_path).warning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("unsigned portal_kernel_version(void) { return 99; }", "version 99"),
        ("int something_else;", "cannot be loaded"),
    ],
)
def test_a_library_of_another_version_is_not_used(tmp_path, source, reason):
    build(tmp_path, library_file(tmp_path), "-shared", "-fPIC", source=source)
    kernel = open_kernel(folder=tmp_path)
    assert kernel.name == "python"
    assert reason in kernel.warning


@pytest.mark.parametrize("wrong", ["sse9", "AVX2", " ", "none"])
def test_a_name_that_does_not_exist_is_one_clear_error(wrong):
    with pytest.raises(UsageError, match=r"PORTAL_KERNEL.*avx2.*python"):
        open_kernel(wrong)


def test_the_environment_decides(monkeypatch):
    native.kernel.cache_clear()
    try:
        monkeypatch.setenv("PORTAL_KERNEL", "python")
        assert native.kernel().name == "python"
        monkeypatch.setenv("PORTAL_KERNEL", "fast")
        assert native.kernel().name == "python"  # decided once per process
        native.kernel.cache_clear()
        with pytest.raises(UsageError):
            native.kernel()
        monkeypatch.setenv("PORTAL_KERNEL", "")
        assert native.kernel().name == open_kernel().name
    finally:
        native.kernel.cache_clear()


def test_a_refusal_of_the_library_is_not_taken_for_cuts(fastest):
    rule = SeqCdcRule(100, 500, SEQCDC_KEY)
    object.__setattr__(rule, "min_bytes", 50)  # past the checks of the rule
    with pytest.raises(PortalError, match="refuses"):
        fastest.seqcdc(rule)(bytes(1000), True)


# --- never outside the buffer --------------------------------------------------------------------


def build(folder, target, *flags, compiler="cc", source=None):
    """Compile `source`, or the kernel with its harness; skips where that cannot be done."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    if source is not None:
        (folder / "source.c").write_text(source)
        inputs = [folder / "source.c"]
    else:
        inputs = [*SOURCES.glob("*.c"), Path(__file__).with_name("harness.c")]
    command = [compiler, "-std=c11", f"-I{SOURCES}", *flags, "-o", target, *inputs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "sanitize" in " ".join(flags) and "cannot find" in done.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stderr


def answers(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_no_path_steps_outside_and_all_agree(tmp_path):
    checked, fast = tmp_path / "checked", tmp_path / "fast"
    warnings = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror")
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    build(tmp_path, checked, "-O1", "-g", *sanitizers)
    build(tmp_path, fast, "-O3")
    build(tmp_path, tmp_path / "strict.so", "-O2", "-shared", "-fPIC", *warnings)
    found = {
        answers(program, str(number), "10000")
        for program in (checked, fast)
        for number in compiled.PATHS.values()
    }
    assert len(found - {"unsupported"}) == 1


@pytest.mark.slow
def test_neon_gives_the_answers_of_this_processor(tmp_path):
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("no qemu-aarch64-static here")
    build(tmp_path, tmp_path / "arm", "-O3", "-static", compiler="aarch64-linux-gnu-gcc")
    build(tmp_path, tmp_path / "here", "-O3")
    emulated = ("qemu-aarch64-static", tmp_path / "arm")
    expected = answers(tmp_path / "here", "0", "1000")
    for path in ("neon", "scalar"):
        assert answers(*emulated, str(compiled.PATHS[path]), "1000") == expected
