"""Answers for calls that no worker will execute."""

from __future__ import annotations

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.codec import iter_headers
from rrto_ros.wire.format import BLOB_DATA_OP, FLAG_REPLY, PLAN_DEFINE_OP, PLAN_REF_OP, Buffer
from rrto_ros.wire.reference import marked_calls
from rrto_ros.wire.result_codec import pack_result


def refuse_calls(batch: Buffer, status: int, text: str, *, after: int = 0, but: int = 0) -> bytes:
    """Result records for every REPLY in a batch that will not be executed.

    Args:
        batch: Whole call records; what comes after a malformed one is not answered.
        status: CUresult for each.
        text: Reason, the data of each record.
        after: Only calls with a higher index.
        but: A call that was answered already.
    """
    out: list[bytes] = []
    data = text.encode()
    try:
        view = memoryview(batch).cast("B")
        for item in iter_headers(view):
            calls = marked_calls(view, item) if item.op == PLAN_REF_OP else (item,)
            for header in calls:
                if header.op in (BLOB_DATA_OP, PLAN_DEFINE_OP) or header.index == but:
                    continue
                if header.flags & FLAG_REPLY and header.index > after:
                    out.append(pack_result(header.index, status, data))
    except ProtocolError:
        pass
    return b"".join(out)
