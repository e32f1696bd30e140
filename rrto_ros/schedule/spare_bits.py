"""As many bits as a pipeline has room for: owns what is done with the link's bubbles.

Where robot or edge is the slowest stage the link waits for it, and that time may as well carry
more bits: accuracy for no throughput. COACH (Gao et al., INFOCOM 2025, arXiv 2501.12388) adapts
bits to the link; that it does so in this way is not known to us.

Bytes, and with them the period, rise with the width. So here, unlike for accuracy, a bisection
finds the widest one.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

from rrto_ros.schedule.pipeline import pipeline
from rrto_ros.schedule.pipelined import SAME, Plan, Task, made
from rrto_ros.schedule.widths import EXACT


def widened(task: Task, plan: Plan) -> Plan:
    """The same placement with the widest tensors that leave its period as it is.

    All packed tensors get the same width, but none less than it has. Latency rises with what is
    sent. Widths above those that accuracy allowed for a plan were all allowed, too.

    Args:
        task: What the plan was made for.
        plan: By one of the searches.
    """
    packed = [tensor for tensor, bits in enumerate(plan.widths) if bits != EXACT]
    if not packed:
        return plan
    most = plan.steady.period_s * (1 + SAME)

    def with_bits(bits: int) -> tuple[int, ...]:
        return tuple(max(had, bits) if had != EXACT else EXACT for had in plan.widths)

    def too_long(bits: int) -> bool:
        found = pipeline(task.measured, plan.placement, task.link, with_bits(bits), task.packing)
        return found.steady(task.stream).period_s > most

    # Exact tensors need no packing, so they are on no line with the others.
    if not too_long(EXACT):
        widest = EXACT
    else:
        widths = sorted(bits for bits in task.widths if bits >= min(plan.widths))
        widest = widths[max(bisect_right(widths, False, key=too_long) - 1, 0)]
    wider = made(task, plan.placement, with_bits(widest))
    if wider.period_s > plan.period_s * (1 + SAME):
        return plan
    return replace(wider, bound_s=plan.bound_s, questions=plan.questions)
