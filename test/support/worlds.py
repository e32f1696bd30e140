"""What tests with a recorder and servers in one process share: worlds that end, and waits."""

import contextlib
import itertools
import time


@contextlib.contextmanager
def worlds(make):
    """Calls `make` for each world; those that are still there at the end are closed.

    Yields:
        What makes one, as `make` does; its `close` closes the newest.
    """
    made = []

    def one(*arguments, **named):
        made.append(make(*arguments, **named))
        return made[-1]

    one.close = lambda: made.pop().close()
    yield one
    while made:
        one.close()


def ends(program, timeout_s=120):
    """What a program has printed, once it has ended well."""
    out, errors = program.communicate(timeout=timeout_s)
    assert program.returncode == 0, (out[-2000:], errors[-3000:])
    return out


def until(accepts, what, timeout_s=30):
    """Wait for something, and return it."""
    end = time.monotonic() + timeout_s
    while not (found := accepts()):
        assert time.monotonic() < end, what
        time.sleep(0.005)
    return found


def settings(long, ways, *others, most=None):
    """Parameters of random runs: every way with everything else, or with one of it in turn.

    Args:
        long: Whether this is the long form.
        ways: (mode, run_ahead) of each.
        others: Values of each further parameter.
        most: So many of the ways in the short form, the last ones.
    """
    rest = list(itertools.product(*others))
    if long:
        return [(*way, *one) for way in dict.fromkeys(ways) for one in rest]
    # Neighbours differ, so that the short form meets each of them.
    few = ways[-most:] if most else ways
    return [(*way, *rest[place % len(rest)]) for place, way in enumerate(few)]
