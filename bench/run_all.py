"""All measurements in one table, with their targets: `make bench`, or with --smoke in a minute."""

from __future__ import annotations

import sys

from cascade import cascade
from common import main
from dds_echo import dds_alone
from round_trip import small, small_with_results, upload
from shim_calls import shim_calls

if __name__ == "__main__":
    measures = [shim_calls, dds_alone, small, small_with_results, upload, cascade]
    sys.exit(main(__doc__ or "", measures))
