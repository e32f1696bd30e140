#!/bin/sh
# The device `gpu` on real hardware, in one command: set-up, tests, programs, measurements.
#
#   bench/gpu_proof.sh [--smoke] [--out FOLDER]
#
# Wants Linux on x86-64 with an NVIDIA driver (release 550 or later) and Python 3.10 to 3.13, make
# and g++. Writes FOLDER/gpu_proof.json (out/gpu_proof by default) and prints one table.
# Exit code: 0 all well, 1 something failed (the table says what), 2 set-up, 3 no GPU.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

command -v "$PYTHON" >/dev/null || {
    echo "gpu_proof: $PYTHON not found; install Python 3.10 to 3.13, or set PYTHON" >&2
    exit 2
}
# Asked of the driver itself, before minutes of set-up: prints its CUDA version.
version=$("$PYTHON" - <<'EOF'
import ctypes
import sys

try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    sys.exit(f"gpu_proof: no NVIDIA driver on this machine ({error})")
code, count, version = cuda.cuInit(0), ctypes.c_int(), ctypes.c_int()
if code or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
    sys.exit(f"gpu_proof: the NVIDIA driver finds no GPU (cuInit gave {code}); see nvidia-smi")
cuda.cuDriverGetVersion(ctypes.byref(version))
print(version.value)
EOF
) || exit 3

if [ -z "${RRTO_PROOF_NO_SETUP:-}" ]; then
    "$PYTHON" scripts/bootstrap.py --venv "$VENV" demo test clients gpu
    if [ "$version" -lt 13000 ]; then
        # The bindings of CUDA 13 are for its drivers.
        "$VENV/bin/python" -m pip install -q --disable-pip-version-check 'cuda-bindings>=12.6,<13'
    fi
    PYTHON="$VENV/bin/python"
fi
exec "$PYTHON" bench/gpu_proof.py "$@"
