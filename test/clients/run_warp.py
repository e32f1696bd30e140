"""Warp: kernels that it makes from Python, arrays, reductions by atomics, structures, streams,
graphs, a physics step.
"""

from __future__ import annotations

import sys

import numpy as np
from agree import Cases, absent, need_consent

need_consent()
try:
    import warp as wp
except ImportError as error:
    absent(error, "warp-lang")

RNG = np.random.default_rng(5)
COUNT = 1000
X = RNG.standard_normal(COUNT).astype(np.float32)
Y = RNG.uniform(0.5, 1.5, COUNT).astype(np.float32)


@wp.struct
class Body:
    position: wp.vec3
    velocity: wp.vec3
    mass: float


@wp.func
def halved(x: float):
    return x * 0.5


@wp.kernel
def saxpy(x: wp.array(dtype=float), y: wp.array(dtype=float), a: float):
    i = wp.tid()
    y[i] = a * x[i] + y[i]


@wp.kernel
def functions(x: wp.array(dtype=float), out: wp.array(dtype=float)):
    i = wp.tid()
    out[i] = wp.sin(x[i]) + wp.exp(halved(x[i])) + wp.sqrt(wp.abs(x[i])) + wp.floor(x[i])


@wp.kernel
def total(x: wp.array(dtype=int), out: wp.array(dtype=int)):
    wp.atomic_add(out, 0, x[wp.tid()])


@wp.kernel
def largest(x: wp.array(dtype=float), out: wp.array(dtype=float)):
    wp.atomic_max(out, 0, x[wp.tid()])


@wp.kernel
def turned(x: wp.array2d(dtype=float), out: wp.array2d(dtype=float)):
    i, j = wp.tid()
    out[j, i] = x[i, j]


@wp.kernel
def product(a: wp.array(dtype=wp.mat33), b: wp.array(dtype=wp.vec3), c: wp.array(dtype=wp.vec3)):
    i = wp.tid()
    c[i] = a[i] * b[i]


@wp.kernel
def crossed(a: wp.array(dtype=wp.vec3), b: wp.array(dtype=wp.vec3), c: wp.array(dtype=float)):
    i = wp.tid()
    c[i] = wp.dot(a[i], wp.cross(a[i], b[i])) + wp.length(b[i])


@wp.kernel
def loops(n: wp.array(dtype=int), out: wp.array(dtype=int)):
    i = wp.tid()
    number = n[i]
    steps = int(0)  # noqa: UP018, RUF046 - for Warp 0 alone is a constant
    while number != 1 and steps < 1000:
        if number % 2 == 0:
            number = number // 2
        else:
            number = 3 * number + 1
        steps += 1
    out[i] = steps


@wp.kernel
def fall(bodies: wp.array(dtype=Body), dt: float):
    i = wp.tid()
    body = bodies[i]
    body.velocity = body.velocity + wp.vec3(0.0, -9.81, 0.0) * dt
    body.position = body.position + body.velocity * dt
    if body.position[1] < 0.0:
        body.position = wp.vec3(body.position[0], -body.position[1], body.position[2])
        body.velocity = wp.vec3(body.velocity[0], -body.velocity[1] * 0.5, body.velocity[2])
    bodies[i] = body


@wp.kernel
def squared(x: wp.array(dtype=float), loss: wp.array(dtype=float)):
    wp.atomic_add(loss, 0, x[wp.tid()] * x[wp.tid()])


def on(host, **more):
    return wp.array(host, device="cuda:0", **more)


def launch(kernel, dim, *inputs):
    wp.launch(kernel, dim=dim, inputs=list(inputs), device="cuda:0")


def scaled():
    y = on(Y)
    for _ in range(3):
        launch(saxpy, COUNT, on(X), y, 0.5)
    return y.numpy(), 1.5 * X.astype(np.float64) + Y


def of_functions():
    out = wp.zeros(COUNT, dtype=float, device="cuda:0")
    launch(functions, COUNT, on(X), out)
    x = X.astype(np.float64)
    return out.numpy(), np.sin(x) + np.exp(x / 2) + np.sqrt(np.abs(x)) + np.floor(x)


def atomic_sum():
    x = RNG.integers(-1000, 1000, COUNT).astype(np.int32)
    out = wp.zeros(1, dtype=int, device="cuda:0")
    launch(total, COUNT, on(x), out)
    return out.numpy()[0], x.sum()


def atomic_max():
    out = wp.full(1, -1e9, dtype=float, device="cuda:0")
    launch(largest, COUNT, on(X), out)
    return out.numpy()[0], X.max()


def transposed():
    x = X.reshape(20, 50)
    out = wp.zeros((50, 20), dtype=float, device="cuda:0")
    launch(turned, (20, 50), on(x), out)
    return out.numpy(), x.T


def matrices():
    a = RNG.standard_normal((64, 3, 3)).astype(np.float32)
    b = RNG.standard_normal((64, 3)).astype(np.float32)
    c = wp.zeros(64, dtype=wp.vec3, device="cuda:0")
    launch(product, 64, on(a, dtype=wp.mat33), on(b, dtype=wp.vec3), c)
    return c.numpy(), np.einsum("nij,nj->ni", a, b)


def vectors():
    a, b = RNG.standard_normal((2, 64, 3)).astype(np.float32)
    c = wp.zeros(64, dtype=float, device="cuda:0")
    launch(crossed, 64, on(a, dtype=wp.vec3), on(b, dtype=wp.vec3), c)
    return c.numpy(), np.linalg.norm(b, axis=1)


def collatz():
    def steps(n):
        count = 0
        while n != 1:
            n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
        return count

    numbers = np.arange(1, 300, dtype=np.int32)
    out = wp.zeros(numbers.size, dtype=int, device="cuda:0")
    launch(loops, numbers.size, on(numbers), out)
    return out.numpy(), [steps(int(n)) for n in numbers]


def falling(graph):
    def case():
        start = RNG.uniform(1, 3, (32, 3)).astype(np.float32)
        bodies = np.zeros(32, dtype=Body.numpy_dtype())
        bodies["position"], bodies["mass"] = start, 1.0
        ours = wp.array(bodies, dtype=Body, device="cuda:0")
        wp.load_module(device="cuda:0")
        if graph:
            with wp.ScopedCapture(device="cuda:0") as capture:
                for _ in range(10):
                    launch(fall, 32, ours, 0.01)
            for _ in range(20):
                wp.capture_launch(capture.graph)
        else:
            for _ in range(200):
                launch(fall, 32, ours, 0.01)
        position, velocity = start.astype(np.float32), np.zeros((32, 3), np.float32)
        for _ in range(200):
            velocity[:, 1] += np.float32(-9.81) * np.float32(0.01)
            position += velocity * np.float32(0.01)
            low = position[:, 1] < 0
            position[low, 1] *= -1
            velocity[low, 1] *= np.float32(-0.5)
        return ours.numpy()["position"], position

    return case


def gradient():
    x = on(X, requires_grad=True)
    loss = wp.zeros(1, dtype=float, device="cuda:0", requires_grad=True)
    with wp.Tape() as tape:
        wp.launch(squared, dim=COUNT, inputs=[x, loss], device="cuda:0")
    tape.backward(loss=loss)
    return x.grad.numpy(), 2 * X


def streams():
    first, second = wp.Stream("cuda:0"), wp.Stream("cuda:0")
    y = on(Y)
    with wp.ScopedStream(first):
        launch(saxpy, COUNT, on(X), y, 2.0)
        done = first.record_event()
    second.wait_event(done)
    with wp.ScopedStream(second):
        launch(saxpy, COUNT, on(X), y, 1.0)
    wp.synchronize_device("cuda:0")
    return y.numpy(), 3 * X.astype(np.float64) + Y


def copies():
    host = wp.array(X, device="cpu", pinned=True)
    device = wp.empty(COUNT, dtype=float, device="cuda:0")
    back = wp.zeros(COUNT, dtype=float, device="cpu")
    wp.copy(device, host)
    wp.copy(back, device)
    wp.synchronize_device("cuda:0")
    return back.numpy(), X


def sums():
    return wp.utils.array_sum(on(X)), X.astype(np.float64).sum()


def scan():
    numbers = RNG.integers(0, 100, COUNT).astype(np.int32)
    out = wp.zeros(COUNT, dtype=int, device="cuda:0")
    wp.utils.array_scan(on(numbers), out, inclusive=True)
    return out.numpy(), numbers.cumsum()


def main():
    wp.config.quiet = True
    wp.init()
    cases = Cases("Warp", wp.__version__, "NumPy")
    for case in (scaled, of_functions, atomic_sum, atomic_max, transposed, matrices, vectors,
                 collatz, gradient, streams, copies):  # fmt: skip
        cases.check(case.__name__, case, 1e-5)
    cases.check("physics step", falling(graph=False), 1e-4)
    cases.check("physics step as a graph", falling(graph=True), 1e-4)
    for case in (sums, scan):
        cases.check(f"array_{case.__name__}", case, 1e-5)
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
