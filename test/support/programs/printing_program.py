"""A program whose kernels print; `fail`: until an assertion does not hold.

printing_program.py [fail]
"""

import ctypes
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from support import cuda_ctypes as cuda
from support.printing import PTX

cuda.start()
module = cuda.load(PTX.encode())
tell, insist = (cuda.function(module, name) for name in (b"tell", b"insist"))
values = cuda.out("cuMemAlloc_v2", 64)
for turn in range(12):
    cuda.ok("cuMemcpyHtoD_v2", values, struct.pack("<8d", *[turn + k / 4 for k in range(8)]), 64)
    words = cuda.params(struct.pack("<Q", values), struct.pack("<I", 4))
    assert cuda.launch(tell, words, grid=(2, 1, 1), block=(2, 1, 1)) == 0
    if turn % 3 == 2:
        cuda.ok("cuMemcpyDtoH_v2", ctypes.create_string_buffer(64), values, 64)
    else:
        cuda.ok("cuCtxSynchronize")
    ctypes.CDLL(None).puts(b"-- %d" % turn)
if sys.argv[1:] == ["fail"]:
    words = cuda.params(struct.pack("<I", 13))
    assert cuda.launch(insist, words, grid=(3, 1, 1), block=(4, 2, 1)) == 0
    print(cuda.call("cuCtxSynchronize"), cuda.call("cuCtxSynchronize"), file=sys.stderr)
