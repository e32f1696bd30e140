"""Which call runs where: answers worked out from measured costs, and when to change to another.

Nothing here measures, sends or executes: costs come in, placements go out, and clocks are the
caller's. So the nodes and a simulation decide alike.
"""
