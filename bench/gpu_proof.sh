#!/bin/sh
# The device `gpu` on real hardware, in one command: set-up, tests, programs, measurements.
#
#   bench/gpu_proof.sh [--smoke] [--out FOLDER] [--only PART ...]     (--help says more)
#   bench/gpu_proof.sh --transport local --offline wheels             no ROS, no registry
#
# Wants Linux on x86-64 with an NVIDIA driver (release 550 or later) and Python 3.10 to 3.13, make
# and g++; with --transport local a C compiler is enough. Writes FOLDER/gpu_proof.json (out/gpu_proof by default) and prints one table.
# PYTHON names another Python than python3, VENV another place than .venv for what it installs.
# Exit code: 0 all well, 1 something failed (the table says what), 2 set-up or arguments, 3 no GPU,
# 130 stopped by Ctrl-C (what was found until then is written).
set -eu

fail() {
    code=$1
    shift
    echo "gpu_proof: $*" >&2
    exit "$code"
}

root=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
VENV=${VENV:-$root/.venv}
case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac

command -v "$PYTHON" >/dev/null ||
    fail 2 "$PYTHON not found; install Python 3.10 to 3.13, or set PYTHON to one"
# Before anything that takes time: what is wrong with the arguments, or the help.
for argument in "$@"; do
    case $argument in -h | --help) exec "$PYTHON" "$root/bench/gpu_proof_arguments.py" --help ;; esac
done
said=$("$PYTHON" "$root/bench/gpu_proof_arguments.py" "$@") || exit 2
transport=${said%%:*}
offline=${said#*:}
trap 'fail 130 "stopped; run it again, finished steps of the set-up are kept"' INT TERM

# Asked of the driver itself, before minutes of set-up: prints its CUDA version.
next="or use the device cpu, which needs no GPU"
code=0
version=$(timeout --foreground 120 "$PYTHON" - <<'END'
import ctypes
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    sys.exit("no NVIDIA driver on this machine (%s); install it so that `nvidia-smi` works, in a "
             "container start it with --gpus all" % error)
code, count, version = cuda.cuInit(0), ctypes.c_int(), ctypes.c_int()
if code:
    sys.exit("the NVIDIA driver does not start (cuInit gave %d); see `nvidia-smi`, and restart the "
             "machine if the driver was updated" % code)
if cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
    sys.exit("the NVIDIA driver shows no GPU; see that `nvidia-smi` lists one and that "
             "CUDA_VISIBLE_DEVICES does not hide it")
if cuda.cuDriverGetVersion(ctypes.byref(version)) or version.value < 12040:
    sys.exit("the NVIDIA driver is for CUDA %d.%d, 12.4 (release 550) or later is needed; update it"
             % (version.value // 1000, version.value % 1000 // 10))
print(version.value)
END
) || code=$?
[ "$code" -ne 124 ] || fail 3 "the NVIDIA driver gave no answer in 120 s; see nvidia-smi, $next"
[ "$code" -eq 0 ] || fail 3 "nothing to prove without a GPU: see the line above, $next"

if [ -z "${RRTO_PROOF_NO_SETUP:-}" ]; then
    set_up() {
        [ "$version" -ge 13000 ] || set -- --cuda-12 "$@"
        [ -z "$offline" ] || set -- --offline "$offline" "$@"
        # bootstrap.py says itself what failed. pip gives up by itself; this bounds a stuck mirror.
        timeout --foreground 3600 "$PYTHON" "$root/scripts/bootstrap.py" --venv "$VENV" "$@" ||
            fail 2 "the set-up did not end well; put right what it says above and run this again"
    }
    # From a folder, everything that it has is installed.
    case $transport,$offline in
        local,) set_up --no-ros gpu models clients ;;
        local,*) set_up --no-ros ;;
        *,) set_up demo test clients gpu ;;
        *) set_up ;;
    esac
    PYTHON=$VENV/bin/python
fi
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
"$PYTHON" -c 'import rrto_ros.evaluation.netns' 2>/dev/null ||
    fail 2 "$PYTHON cannot import rrto_ros; run this without RRTO_PROOF_NO_SETUP, or set PYTHON" \
        "to the Python of an environment that has it"
trap - INT TERM
exec "$PYTHON" "$root/bench/gpu_proof.py" "$@"
