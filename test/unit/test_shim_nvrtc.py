"""The stand-in between programs and NVRTC gives PTX for machine code, and changes nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rrto_ros.bringup.stand_ins import with_stand_ins
from rrto_ros.devices.linked import PTX, LinkInput, link_inputs, linked_image
from rrto_ros.shim.build import STAND_IN_FOLDER, compiler, ensure_built

SUPPORT = Path(__file__).parents[1] / "support"
PROGRAMS = ("both", "ptx alone", "cubin alone", "not compiled", "ptx fails")
ASK = """
import ctypes, json, sys
def answers(path, mode=0):
    nvrtc = ctypes.CDLL(path, mode=mode)
    out = {}
    for number, name in enumerate(json.loads(sys.argv[1])):
        program, size = ctypes.c_int(number), ctypes.c_size_t(77)
        first = nvrtc.nvrtcGetCUBINSize(ctypes.byref(program), ctypes.byref(size))
        image = ctypes.create_string_buffer(4096)
        second = nvrtc.nvrtcGetCUBIN(ctypes.byref(program), image)
        out[name] = [first, second, size.value, image.raw[:size.value].hex()]
    number = ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(number), ctypes.byref(ctypes.c_int()))
    return out, number.value
print(json.dumps([answers(path) for path in sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Fake NVRTCs of two versions, a program and a plugin that are linked with one each."""
    folder = tmp_path_factory.mktemp("nvrtc")

    def cc(*arguments):
        command = [compiler(), "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fPIC"]
        subprocess.run([*command, *map(str, arguments)], check=True, timeout=60)

    for major in (12, 13):
        name = f"libnvrtc.so.{major}"
        script = folder / f"{major}.map"
        script.write_text(f"{name} {{ global: nvrtc*; local: *; }};\n")  # as NVIDIA's are
        cc(
            "-shared",
            f"-DMAJOR={major}",
            f"-Wl,-soname,{name}",
            SUPPORT / "fake_nvrtc.c",
            f"-Wl,--version-script={script}",
            "-o",
            folder / name,
        )
    path = f"-Wl,-rpath,{folder}"
    users = SUPPORT / "nvrtc_users.c"
    cc(users, folder / "libnvrtc.so.13", path, "-ldl", "-o", folder / "program")
    cc("-shared", "-DPLUGIN", users, folder / "libnvrtc.so.12", path, "-o", folder / "plugin.so")
    return folder


def run(command, preloaded=True):
    environment = with_stand_ins(os.environ, "cpu") if preloaded else dict(os.environ)
    done = subprocess.run(
        [str(one) for one in command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(*paths, preloaded=True):
    return json.loads(run([sys.executable, "-c", ASK, json.dumps(PROGRAMS), *paths], preloaded))


def wanted_image(major):
    text = f".version 8.0\n.target sm_90\n.address_size 64\n// of NVRTC {major}\n"
    return linked_image((LinkInput(PTX, "NVRTC", text.encode()),))


def test_a_cubin_is_the_ptx_of_the_library_that_was_asked(made):
    names = [made / f"libnvrtc.so.{major}" for major in (13, 12)]
    for (answers, version), major in zip(asked(*names), (13, 12), strict=True):
        first, second, size, image = answers["both"]
        assert (first, second, size) == (0, 0, len(image) // 2)
        assert bytes.fromhex(image) == wanted_image(major)
        assert version == major
    ((plain, _),) = asked(names[0], preloaded=False)
    assert bytes.fromhex(plain["both"][3]) == b"machine code\0"


def test_what_is_no_machine_code_or_an_error_is_nvrtcs_own(made):
    ((ours, _),) = asked(made / "libnvrtc.so.13")
    ((plain, _),) = asked(made / "libnvrtc.so.13", preloaded=False)
    for name in ("ptx alone", "cubin alone", "not compiled"):
        assert ours[name] == plain[name], name
    assert ours["ptx alone"][2] == 0
    assert ours["ptx fails"][:2] == [7, 7]


def test_who_was_linked_with_nvrtc_gets_ptx_of_the_one_that_is_his(made):
    command = [made / "program", made / "plugin.so"]
    assert run(command).splitlines() == [
        "linked: NVRTC 13 linked",
        "default: NVRTC 13 linked",
        "whole: NVRTC 13 linked",
        "plugin: NVRTC 12 linked",
        "plugin's default: NVRTC 12 linked",
    ]
    assert "NVRTC" not in run(command, preloaded=False)


LOOK = """
import ctypes
whole = ctypes.CDLL(None)
print([hasattr(whole, name) for name in ("nvrtcGetCUBIN", "nvrtcGetCUBINSize", "nvrtcVersion")])
print(any("libnvrtc" in line for line in open("/proc/self/maps")))
"""


def test_a_program_without_nvrtc_sees_none():
    assert run([sys.executable, "-c", LOOK]).split("\n") == ["[False, False, False]", "False", ""]


NEXT = """
#include <dlfcn.h>
#include <stdio.h>
const char *who(void); const char *next_of_a(void); const char *next_of_b(void);
#ifdef NEXT
const char *who(void) { return WHO; }
const char *NEXT(void) {
    const char *(*next)(void) = (const char *(*)(void))dlsym(RTLD_NEXT, "who");
    return next ? next() : "none";
}
#else
int main(void) { return printf("%s %s %s", who(), next_of_a(), next_of_b()) < 0; }
#endif
"""


def test_who_asks_for_the_next_definition_gets_the_one_after_his_own(tmp_path):
    """A dlsym that is called and not jumped to would look after the stand-in instead."""
    source = tmp_path / "next.c"
    source.write_text(NEXT)
    base = [compiler(), "-D_GNU_SOURCE", str(source), "-fPIC"]
    made = [str(tmp_path / f"{name}.so") for name in "ab"]
    for name, path in zip("ab", made, strict=True):
        own = ["-shared", f"-DNEXT=next_of_{name}", f'-DWHO="{name}"', "-o", path]
        subprocess.run([*base, *own], check=True, timeout=60)
    program = str(tmp_path / "next")
    subprocess.run([*base, *made, f"-Wl,-rpath,{tmp_path}", "-o", program], check=True, timeout=60)
    assert run([program]) == run([program], preloaded=False) == "a b none"


def test_the_stand_ins_image_is_read_by_devices():
    assert link_inputs(wanted_image(13))[0].kind == PTX


def test_calling_without_any_nvrtc_says_so():
    stand_in = ensure_built() / STAND_IN_FOLDER / "librrto_nvrtc.so"
    code = (
        "import ctypes, sys; n = ctypes.c_size_t(); "
        f"print(ctypes.CDLL({str(stand_in)!r}).nvrtcGetCUBINSize(None, ctypes.byref(n)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "11\n", done.stderr
    assert "no libnvrtc is loaded" in done.stderr
