"""The README's picture: what it shows is what docs/evaluation/link.md says."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def drawing():
    spec = importlib.util.spec_from_file_location("link_picture", ROOT / "bench/link_picture.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["link_picture"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["link_picture"]


@pytest.fixture
def text(drawing):
    return drawing.TABLE.read_text()


def test_the_committed_picture_is_what_link_md_says(drawing, text):
    assert drawing.PICTURE.read_text() == drawing.picture(text)
    assert "(docs/link.svg)" in (ROOT / "README.md").read_text()


def test_another_latency_in_the_table_is_another_picture_and_check_says_so(
    drawing, text, tmp_path, monkeypatch, capsys
):
    row = next(line for line in text.splitlines() if line.startswith("| `replay` | "))
    value = re.search(r"([\d.,]+) \([\d.,]+ to [\d.,]+\) \| [-\d.,]+ \|$", row)[1]
    changed = text.replace(row, row.replace(f"| {value} (", "| 77.7 ("))
    assert drawing.panels(changed)[0].latency_ms["replay"] == 77.7
    table = tmp_path / "link.md"
    table.write_text(changed)
    monkeypatch.setattr(drawing, "TABLE", table)
    monkeypatch.setattr(sys, "argv", ["link_picture.py", "--check"])
    assert drawing.main() == 1
    assert "run bench/link_picture.py" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["rpc", "batched", "replay", "*direct*"])
def test_a_network_without_a_way_is_refused_by_name(drawing, text, way):
    mark = way if way.startswith("*") else f"`{way}`"
    lines = text.splitlines(keepends=True)
    lines.remove(next(line for line in lines if line.startswith(f"| {mark} |")))
    with pytest.raises(drawing.TableError, match=rf"NanoDet-416: no row of {way.strip('*')}"):
        drawing.picture("".join(lines))


def test_a_page_without_networks_or_link_is_refused(drawing, text):
    with pytest.raises(drawing.TableError, match="no network"):
        drawing.panels(text.replace("### ", "#### "))
    with pytest.raises(drawing.TableError, match="no link"):
        drawing.link(text.replace("Mbit/s", "bit/s"))
