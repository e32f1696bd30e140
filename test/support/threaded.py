"""A device for tests whose module starts a thread when it is imported, as a library may."""

import threading

from support.memory_device import make

threading.Thread(target=threading.Event().wait, daemon=True).start()
__all__ = ["make"]
