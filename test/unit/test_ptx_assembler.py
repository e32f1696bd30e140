"""All PTX of the project passes NVIDIA's own assembler, and what NVIDIA's tools make is read.

Neither needs a GPU. Skipped where there is none: `pip install nvidia-cuda-nvcc` brings it.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rrto_ros.devices.gpu import symbols
from rrto_ros.devices.images import contents, ptx_text

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "test" / "conformance" / "cases"
FOLDERS = ("examples", "bench", "test/gpu", "test/support", "test/support/programs")
_TEXT = re.compile(r'b?"""(\s*\.version .*?)"""', re.DOTALL)


def assembler():
    """Path of ptxas, None if there is none."""
    found = shutil.which("ptxas")
    if found:
        return found
    for folder in map(Path, sys.path):
        for path in sorted(folder.glob("nvidia/*/bin/ptxas"), reverse=True):
            return str(path)
    return None


def sources():
    """Name -> PTX: the conformance cases, and what programs, tests and examples hold."""
    out = {path.name: path.read_text() for path in sorted(CASES.glob("*.ptx"))}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.py")):
            for number, found in enumerate(_TEXT.finditer(path.read_text())):
                text = found[1].replace("\\0", "").replace("{{", "{").replace("}}", "}")
                out[f"{path.name} {number}"] = text
    return out


def instructions():
    """One module with a kernel for each instruction of the conformance cases.

    It is for the newest GPU that any of them asks for.
    """
    path = ROOT / "test" / "conformance" / "test_instructions.py"
    spec = importlib.util.spec_from_file_location("conformance_instructions", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    parts, heads = [], {}
    for number, op in enumerate(module.OPS):
        head, at, body = module.listing(op).partition(".visible .entry k(")
        heads[target(head)] = head
        parts.append(f"// {op.id}\n.visible .entry k{number}({body}" if at else "")
    return heads[max(heads)] + "\n".join(parts)


def target(text):
    """Number of the GPU that a listing is for."""
    return int(re.search(r"^\.target\s+sm_(\d+)", text, re.MULTILINE)[1])


def assembled(text, folder):
    """Assemble a text for the GPU that it names; (exit code, what was said)."""
    ptxas = assembler()
    if ptxas is None:
        pytest.skip("no ptxas; pip install nvidia-cuda-nvcc")
    source = folder / "source.ptx"
    source.write_text(text)
    wanted = re.search(r"^\.target\s+(sm_\d+[af]?)", text, re.MULTILINE)[1]
    # Assemblers of CUDA 13 begin at sm_75.
    target = max(wanted, "sm_75", key=lambda name: int(re.search(r"\d+", name)[0]))
    done = subprocess.run([ptxas, f"-arch={target}", "-o", folder / "out.cubin", source],
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    return done.returncode, done.stderr


SOURCES = sources()


@pytest.mark.parametrize("name", SOURCES)
def test_a_listing_is_ptx_for_the_gpu_that_it_names(name, tmp_path):
    code, said = assembled(SOURCES[name], tmp_path)
    assert code == 0, said


def test_every_instruction_of_the_conformance_cases_is_ptx(tmp_path):
    text = instructions()
    assert text.count(".visible .entry") > 400
    code, said = assembled(text, tmp_path)
    assert code == 0, said


def test_variables_are_found_in_machine_code_as_in_its_ptx(tmp_path):
    text = (CASES / "globals.ptx").read_text()
    assert assembled(text, tmp_path)[0] == 0
    names = symbols.variable_names(text.encode())
    assert names
    assert set(symbols.variable_names((tmp_path / "out.cubin").read_bytes())) == set(names)


@pytest.mark.parametrize("mode", ["none", "speed", "balance", "size", "default"])
def test_fatbins_as_nvidias_tool_packs_them_are_unpacked(tmp_path, mode):
    tool = Path(assembler() or "ptxas").with_name("fatbinary")
    if not tool.exists():
        pytest.skip("no fatbinary beside ptxas; pip install nvidia-cuda-nvcc")
    lines = (CASES / "globals.ptx").read_text().splitlines()
    text = "\n".join(line for line in lines if "//" not in line)
    assert assembled(text, tmp_path)[0] == 0
    out = tmp_path / "out.fatbin"
    images = ["--image3=kind=ptx,sm=75,file=source.ptx", "--image3=kind=elf,sm=75,file=out.cubin"]
    subprocess.run([tool, f"--create={out}", f"--compress-mode={mode}", "--compress-all", "-64",
                    *images], cwd=tmp_path, check=True, timeout=60)  # fmt: skip
    packed = out.read_bytes()
    assert ptx_text(packed, (7, 5)).split() == text.split()
    cubin = (tmp_path / "out.cubin").read_bytes()
    assert any(part[:4] == b"\x7fELF" and cubin.startswith(part[:1000])
               for part in contents(packed))  # fmt: skip
    assert symbols.kernel_order(packed) == symbols.kernel_order(text.encode())


def test_what_is_wrong_is_found(tmp_path):
    text = (CASES / "vector_add.ptx").read_text().replace("add.f32", "add.f31")
    code, said = assembled(text, tmp_path)
    assert (code != 0, "f31" in said) == (True, True)
