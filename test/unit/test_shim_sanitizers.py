"""The shim's tests once more, with the shim built for gcc's sanitizers.

A program of a test loads the sanitizer's runtime first and then that shim. `RRTO_SANITIZERS=all`
runs every test of the shim (minutes), otherwise a choice of them that reaches each part.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.shim_under_test import FOLDER, PRELOAD, python, shim_environment

from rrto_ros.errors import UnavailableError
from rrto_ros.shim import build

UNIT = Path(__file__).resolve().parent
KINDS = {"address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
OPTIONS = {
    # Python keeps much until its end, and lets fatal signals come as they come.
    "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "die_after_fork=0",
}
NOT_OURS = "race:_dl_deallocate_tls\n"
"""glibc frees an ended thread's variables, and thread sanitizer does not see that it has ended."""
LEFT_OUT = (
    "test_a_replayed_call_allocates_nothing",  # counts in a malloc of its own
    "test_with_a_copy_still_queued_a_program_sees_what_cuda_documents[exits]",  # itself a race
)
FILES = ("answers", "calls", "capture", "failures", "fuzz", "graphs", "host_calls",
         "hostile_server", "landing", "loading", "memory_calls", "references", "refusals",
         "small", "start", "tables", "virtual_memory")  # fmt: skip
SHORT = (
    "test_shim_calls.py::test_a_program_sees_what_cuda_documents",
    "test_shim_calls.py::test_calls_are_numbered_from_one_without_gaps_also_with_several_threads",
    "test_shim_capture.py::test_a_captured_stream_is_a_graph",
    "test_shim_calls.py::test_copies_of_any_size_pass_rings_of_any_size",
    "test_shim_references.py::test_a_round_that_equals_the_plan_is_one_reference",
    "test_shim_references.py::test_references_that_outgrow_the_rings_and_buffers_are_cut",
    "test_shim_references.py::test_a_variant_takes_over_where_it_parts_from_the_plan",
    "test_shim_graphs.py",
    "test_shim_landing.py",
    "test_shim_loading.py::test_machine_code_goes_when_its_first_kernel_is_used_and_names_cost_nothing",
    "test_shim_loading.py::test_threads_that_use_a_module_first_at_once_load_it_once",
    "test_shim_loading.py::test_a_damaged_fatbin_is_refused_or_loaded_and_never_crashes_the_program",
    "test_shim_loading.py::test_a_context_that_goes_unloads_what_was_loaded_and_a_library_lives_on",
    "test_shim_memory_calls.py::test_a_program_sees_what_cuda_documents",
    "test_shim_virtual_memory.py::test_a_program_sees_what_cuda_documents",
    "test_shim_tables.py",
    "test_shim_fuzz.py",
    "test_shim_hostile_server.py",
)
PLANTED = {
    "address": "volatile int n = 8; volatile char *p = malloc(n); p[n] = 1; free((void *)p);",
    "undefined": "volatile int n = 40; n = 1 << n;",
    "thread": "pthread_t t; pthread_create(&t, 0, run, 0); count++; pthread_join(t, 0);",
}


def flags(kind):
    """Compiler flags; gcc warns that thread sanitizers take fences for nothing, which is right."""
    more = ["-Wno-tsan"] if kind == "thread" else []
    return [*build.CFLAGS, "-Werror", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all",
            f"-fsanitize={kind}", *more]  # fmt: skip


@functools.cache
def preload(kind):
    """The runtimes that a program has to load first; skips where the compiler has none."""
    found = []
    for name in KINDS[kind]:
        said = subprocess.run([build.compiler(), f"-print-file-name={name}"], capture_output=True,
                              text=True, check=False).stdout.strip()  # fmt: skip
        if not Path(said).is_absolute() or not Path(said).exists():
            pytest.skip(f"{build.compiler()} has no {name} for -fsanitize={kind}")
        found.append(str(Path(said).resolve()))
    return ":".join(found)


def variables(kind, shim, reports):
    """Environment of a test run whose programs load a shim with a sanitizer in it."""
    where = f":exitcode=87:log_path={reports}/report"
    if kind == "thread":
        (reports / "suppressions").write_text(NOT_OURS)
        where += f":suppressions={reports}/suppressions"
    options = {name: os.environ.get(name, text) + where for name, text in OPTIONS.items()}
    return {**os.environ, **options, FOLDER: str(shim), PRELOAD: preload(kind)}


def said(reports):
    """What sanitizers wrote."""
    return "\n".join(path.read_text()[:8000] for path in sorted(reports.glob("report*")))


@pytest.fixture(scope="module", params=KINDS)
def sanitized(request, tmp_path_factory):
    """(kind, a folder with the shim built for it)."""
    preload(request.param)
    folder = tmp_path_factory.mktemp("sanitized")
    build.build(folder, flags(request.param))
    return request.param, folder


@pytest.mark.timeout(1800)
def test_no_sanitizer_finds_anything_in_the_shim(sanitized, tmp_path):
    kind, folder = sanitized
    whole = os.environ.get("RRTO_SANITIZERS") == "all"
    parts = [f"test_shim_{name}.py" for name in FILES] if whole else SHORT
    chosen = ["-k", "not rpc"] if not whole else []
    for file in sorted({part.partition("::")[0] for part in parts}):
        ids = [str(UNIT / part) for part in parts if part.startswith(file)]
        left_out = [f"--deselect=test/unit/{file}::{name}" for name in LEFT_OUT]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
             "--rootdir", UNIT.parents[1], "--timeout=600", *chosen, *left_out, *ids],
            cwd=UNIT.parents[1], env=variables(kind, folder, tmp_path), capture_output=True,
            text=True, check=False, timeout=1700,
        )  # fmt: skip
        assert not said(tmp_path), said(tmp_path)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert " passed" in done.stdout


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_mistake_is_found(planted, tmp_path, monkeypatch):
    (kind,) = (kind for kind in KINDS if planted in kind)
    runtimes = preload(kind)
    source = tmp_path / "planted.c"
    source.write_text(
        "#include <pthread.h>\n#include <stdlib.h>\nint count;\n"
        "void *run(void *p) { count++; return p; }\n"
        "__attribute__((visibility(\"default\"))) void planted(void)\n"
        f"{{ {PLANTED[planted]} }}\n"
    )  # fmt: skip
    command = [build.compiler(), *flags(kind), "-shared", "-o", tmp_path / "libplanted.so", source]
    subprocess.run(command, check=True, timeout=60)
    for name, text in variables(kind, tmp_path, tmp_path).items():
        monkeypatch.setenv(name, text)
    assert shim_environment()["LD_PRELOAD"] == runtimes
    done = subprocess.run(
        [*python(), "-c", "import ctypes; ctypes.CDLL('libplanted.so').planted()"],
        env={**os.environ, **shim_environment()}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 87, done.stderr
    # What is undefined is said on the program's error output where ASan is there, too.
    assert "planted.c" in said(tmp_path) + done.stderr


def test_a_folder_with_a_comma_in_its_name_can_have_the_libraries(tmp_path):
    folder = tmp_path / "a,b c"
    folder.mkdir()
    try:
        build.build(folder, [*build.CFLAGS, "-O0"])  # what is made is not run
    except UnavailableError as error:
        pytest.fail(str(error))
    assert (folder / build.STAND_IN_FOLDER / "libnvJitLink.so.12").exists()
