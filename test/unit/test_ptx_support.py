"""The page of supported PTX says what the code does."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from rrto_ros.devices.cpu import support
from rrto_ros.devices.cpu.codegen.kernel import generate
from rrto_ros.devices.cpu.program import prepare
from rrto_ros.errors import PtxError

REFUSED = (
    "wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%r0, %r1}, [%r2]",
    "wgmma.fence.sync.aligned",
    "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r0}, [%r1]",
    "cp.async.mbarrier.arrive.shared.b64 [%r0]",
    "cp.async.bulk.wait_group 0",
    "mbarrier.init.shared.b64 [%r0], 1",
    "tex.cube.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%rd0, {%f0, %f1, %f0, %f1}]",
    "suld.b.a2d.b32.trap %r0, [%rd0, {%r1, %r2, %r2, %r2}]",
    "suq.width.b32 %r0, [%rd0]",
    "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%rd0, %rd1}, {%rd0}, {%rd0}, {%rd0, %rd1}",
    "setmaxnreg.inc.sync.aligned.u32 40",
    "cvt.rn.satfinite.e2m1x2.f32 %r0, %f0, %f1",
    "no.such.instruction.u32 %r0",
)


def test_the_page_is_what_the_code_says():
    assert support.PAGE.read_text() == support.page(), "run python -m rrto_ros.devices.cpu.support"


def compile_all(text):
    for kernel in prepare(text).kernels:
        generate(kernel, (32, 1, 1), 1)


def test_what_is_left_out_is_refused_by_its_name():
    for text in REFUSED:
        module = (
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n"
            ".reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .f32 %f<4>;\n" + text + ";\nret;\n}\n"
        )
        with pytest.raises(PtxError, match="line 7: .*" + re.escape(text.split()[0])):
            compile_all(module)


def test_the_device_has_no_import_circles():
    folder = Path(support.__file__).parent
    files = {
        "rrto_ros.devices.cpu." + ".".join(p.relative_to(folder).with_suffix("").parts): p
        for p in folder.rglob("*.py")
        if p.stem != "__init__"
    }
    graph = {}
    for name, path in files.items():
        found = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        named = {n.module for n in found} | {
            f"{n.module}.{a.name}" for n in found for a in n.names
        }
        graph[name] = named & files.keys() - {name}
    assert sum(map(len, graph.values())) > len(files)
    TopologicalSorter(graph).prepare()
