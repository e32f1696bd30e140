"""Transparent CUDA offloading over ROS 2: record the driver calls, replay them at the edge."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """`__version__`, looked up when somebody asks: package.xml is its only source.

        In a source tree the file itself is read, since the metadata of an editable installation
        are as old as that; installed elsewhere, the metadata that setup.py made of it.
        """
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version
        from pathlib import Path
        from xml.etree import ElementTree as ET

        manifest = Path(__file__).resolve().parents[1] / "package.xml"
        if manifest.is_file():
            root = ET.parse(manifest).getroot()
            if root.findtext("name") == __name__:
                return root.findtext("version", "").strip()
        return version(__name__)
