"""Launch a kernel that takes long and wait for it: `long_kernel.py ROUNDS [LAUNCHES]`."""

import sys
import time

from cuda.bindings import driver
from kernels import check, context, count_up, functions, name, say

context()
kernel = functions("count_up")
data = check(driver.cuMemAlloc(4))
check(driver.cuCtxSynchronize())
for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1):
    if count_up(kernel, data, int(sys.argv[1])):
        sys.exit(5)
say(launched=True)
started = time.monotonic()
result = driver.cuCtxSynchronize()[0]
say(result=name(result), code=int(result), seconds=time.monotonic() - started)
again = driver.cuMemAlloc(4)[0]
say(then=name(again), code=int(again), seconds=time.monotonic() - started)
