"""The device `gpu`: a session's calls on an NVIDIA GPU, through `cuda.bindings.driver`.

Importing this room needs neither cuda-python nor a driver; `driver.load` does, and says what is
missing.
"""
