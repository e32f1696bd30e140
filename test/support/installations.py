"""Made-up installations: site-packages folders with metadata, and libraries that hold fatbins."""

from __future__ import annotations

import struct

PTX, ELF = 1, 2


def library(**sections):
    """A 64-bit ELF file with nothing but these sections (`nv_fatbin` is .nv_fatbin)."""
    names = {f".{name}".encode(): data for name, data in sections.items()}
    texts = b"\0" + b"\0".join([*names, b".shstrtab"]) + b"\0"
    names[b".shstrtab"] = texts
    body, headers = bytes(64), bytes(64)
    for name, data in names.items():
        body += bytes(-len(body) % 16)
        kind = 3 if name == b".shstrtab" else 1
        headers += struct.pack("<IIQQQQIIQQ", texts.index(b"\0" + name + b"\0") + 1, kind, 0, 0,
                               len(body), len(data), 0, 0, 16, 0)  # fmt: skip
        body += data
    body += bytes(-len(body) % 8)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0,
        len(body), 0, 64, 0, 0, 64, len(names) + 1, len(names))  # fmt: skip
    return head + body[64:] + headers


def install(site, name, version, files=(), *, record=True):
    """Put a package into a site-packages folder, as an installer does.

    Args:
        site: The folder.
        name: Of the package.
        version: Of it.
        files: {path inside site: contents}.
        record: Whether its metadata lists its files.
    """
    made = site / f"{name.replace('-', '_')}-{version}.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for path, data in dict(files).items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(data)
    if record:
        lines = [f"{path},," for path in [*dict(files), f"{made.name}/METADATA"]]
        (made / "RECORD").write_text("\n".join(lines) + "\n")
