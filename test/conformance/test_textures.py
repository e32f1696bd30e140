"""Textures: what kernels read by them, against the CUDA programming guide's formulas in NumPy."""

import itertools
import math

import numpy as np
import pytest

from rrto_ros.api.results import CUresult
from rrto_ros.devices.protocol import Launch
from rrto_ros.devices.textures import (
    AS_INTEGER,
    BORDER,
    CLAMP,
    LINEAR,
    MIRROR,
    NORMALISED,
    OVER_BYTES,
    OVER_PLANES,
    OVER_ROW,
    OVER_ROWS,
    POINT,
    SURFACE,
    WRAP,
    Texture,
)
from rrto_ros.errors import CudaError, PtxError

HEAD = ".version 7.0\n.target sm_70\n.address_size 64\n"
FORMATS = {"u1": 0x01, "u2": 0x02, "u4": 0x03, "i1": 0x08, "i2": 0x09, "i4": 0x0A, "f2": 0x10,
           "f4": 0x20}  # fmt: skip
WIDTH, HEIGHT, PITCH = 13, 7, 512
COUNT = 192


def kernel(read, result="f32", coordinate="f32", guard=""):
    """A kernel `k`: thread i reads at (x[i], y[i]) and writes the four channels."""
    kind = "b32" if result != "f32" else "f32"
    return f"""{HEAD}
.visible .entry k(.param .u64 tex, .param .u64 xs, .param .u64 ys, .param .u64 out,
 .param .u32 n) {{
 .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .{kind} %v<5>; .reg .pred %p<3>;
 .reg .{"f32" if coordinate == "f32" else "b32"} %c<3>;
 ld.param.u64 %rd1, [tex]; ld.param.u64 %rd2, [xs]; ld.param.u64 %rd3, [ys];
 ld.param.u64 %rd4, [out]; ld.param.u32 %r1, [n];
 mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.u32 %r5, %r2, %r3, %r4;
 setp.ge.u32 %p1, %r5, %r1; @%p1 bra done;
 mul.wide.u32 %rd5, %r5, 4; add.s64 %rd2, %rd2, %rd5; add.s64 %rd3, %rd3, %rd5;
 ld.global.{coordinate} %c1, [%rd2]; ld.global.{coordinate} %c2, [%rd3];
 mul.wide.u32 %rd6, %r5, 16; add.s64 %rd7, %rd4, %rd6;
 and.b32 %r6, %r5, 1; setp.eq.u32 %p2, %r6, 0;
 mov.b32 %v1, 0; mov.b32 %v2, 0; mov.b32 %v3, 0; mov.b32 %v4, 0;
 {guard}{read}
 st.global.v4.{kind} [%rd7], {{%v1, %v2, %v3, %v4}};
done: ret; }}
"""


def read_2d(result="f32", coordinate="f32", level=""):
    more = ", 0f00000000" if level else ""
    return (
        f"tex{level}.2d.v4.{result}.{coordinate} "
        f"{{%v1, %v2, %v3, %v4}}, [%rd1, {{%c1, %c2}}]{more};"
    )


def read_1d(result="f32", coordinate="f32"):
    return f"tex.1d.v4.{result}.{coordinate} {{%v1, %v2, %v3, %v4}}, [%rd1, {{%c1}}];"


class Bench:
    """A device with a texture's memory and buffers for coordinates and results."""

    def __init__(self, harness):
        self.harness, self.device = harness, harness.device
        info = self.device.info
        self.base = info.arena_base + info.arena_bytes // 4 // 4096 * 4096
        self.made = []
        self.next_texture = 1
        for at, size in ((self.base, 64 << 10), (self.base + (1 << 20), 64 << 10)):
            self.device.mem_alloc(at, size, 0)

    def close(self):
        for texture in self.made:
            self.device.texture_destroy(texture)
        self.device.mem_free(self.base, 0)
        self.device.mem_free(self.base + (1 << 20), 0)

    def texture(self, image, **options):
        """A texture of (rows, columns, channels); gives its number for kernels."""
        *planes, rows, width, channels = image.shape
        every = rows * math.prod(planes)
        content = np.zeros((every, PITCH), np.uint8)
        content[:, : width * channels * image.itemsize] = image.view(np.uint8).reshape(every, -1)
        self.device.memcpy_htod(self.base, content.tobytes(), 0)
        row = width * channels * image.itemsize
        values = {
            "address": self.base, "size": PITCH * (every - 1) + row, "width": width,
            "height": rows, "depth": every // rows, "pitch": PITCH,
            "kind": OVER_PLANES if planes else OVER_ROWS,
            "format": FORMATS[image.dtype.str[1:]], "channels": channels, "filter": POINT,
            "flags": 0, "mode_x": CLAMP, "mode_y": CLAMP, "mode_z": CLAMP,
            "border": (0.0, 0.0, 0.0, 0.0),
        }  # fmt: skip
        number = self.device.texture_create(self.next_texture, Texture(**(values | options)))
        self.made.append(self.next_texture)
        self.next_texture += 1
        return number

    def run(self, text, number, xs, ys, result=np.float32):
        """What the kernel of `text` reads at each place: (places, 4)."""
        module, names, _ = self.harness.load(text)
        at = self.base + (1 << 20)
        count = len(xs)
        self.device.memcpy_htod(at, xs.tobytes(), 0)
        self.device.memcpy_htod(at + (16 << 10), ys.tobytes(), 0)
        params = np.array([number, at, at + (16 << 10), at + (32 << 10)], np.uint64).tobytes()
        params += np.uint32(count).tobytes()
        self.device.launch(
            Launch(module, names["k"], (-(-count // 64), 1, 1), (64, 1, 1), 0, params), 0
        )
        got = bytes(self.device.memcpy_dtoh(at + (32 << 10), 16 * count, 0))
        return np.frombuffer(got, result).reshape(count, 4)


@pytest.fixture
def bench(harness):
    made = Bench(harness)
    yield made
    made.close()


# ---- the guide's formulas ----


def place(i, n, mode):
    """Which element index `i` means; None is outside."""
    if mode == WRAP:
        return i % n
    if mode == CLAMP:
        return min(max(i, 0), n - 1)
    if mode == MIRROR:
        m = i % (2 * n)
        return m if m < n else 2 * n - 1 - m
    return i if 0 <= i < n else None


def scaled(x, n, mode, normalised):
    if not normalised:
        return np.float32(x)
    x = np.float32(x)
    if mode == WRAP:
        x = x - np.floor(x)
    if mode == MIRROR:
        x = x - np.float32(2) * np.floor(x * np.float32(0.5))
    return x * np.float32(n)


def expected(image, *at, sampling=POINT, modes=(CLAMP,) * 3, normalised=False,
             border=(0.0,) * 4):  # fmt: skip
    """The four channels at a place (x first); `image` has what elements mean as numbers.

    Axes of the image without a coordinate are read at 0.
    """
    sizes, channels = image.shape[-2::-1], image.shape[-1]

    def element(*index):
        where = [place(i, n, mode) for i, n, mode in zip(index, sizes, modes, strict=False)]
        if None in where:
            return np.array(border, np.float64)
        where += [0] * (len(sizes) - len(where))
        return np.pad(image[tuple(reversed(where))].astype(np.float64), (0, 4 - channels))

    at = [scaled(x, n, mode, normalised) for x, n, mode in zip(at, sizes, modes, strict=False)]
    if sampling == POINT:
        return element(*map(math.floor, at)).astype(np.float32)
    moved = [x - np.float32(0.5) for x in at]
    low = [math.floor(x) for x in moved]
    high = [math.floor((x - np.floor(x)) * np.float32(256) + np.float32(0.5)) / 256 for x in moved]
    total = np.zeros(4)
    for corner in itertools.product((0, 1), repeat=len(at)):
        steps = corner[::-1]  # x changes first
        weight = math.prod(a if k else 1 - a for a, k in zip(high, steps, strict=True))
        if weight:
            total = total + weight * element(*(i + k for i, k in zip(low, steps, strict=True)))
    return total.astype(np.float32)


def meant(image):
    """Elements as the numbers that a texture makes of them."""
    if image.dtype.kind == "f":
        return image.astype(np.float32)
    most = np.float32(np.iinfo(image.dtype).max)
    return np.maximum(image.astype(np.float32) / most, np.float32(-1))


def places(rng, normalised):
    """Coordinates inside, on edges, and outside on both sides."""
    size = np.array([WIDTH, HEIGHT], np.float32)
    spread = rng.uniform(-1.4, 2.4, (COUNT, 2)).astype(np.float32)
    spread[:8] = [
        [0, 0],
        [1, 1],
        [0.5, 0.5],
        [-1, -1],
        [2, 2],
        [0.999999, 1e-6],
        [-1e-6, 0],
        [1, 0],
    ]
    out = spread if normalised else spread * size
    return np.ascontiguousarray(out[:, 0]), np.ascontiguousarray(out[:, 1])


def random_image(rng, kind, channels):
    dtype = np.dtype(f"<{kind}")
    if dtype.kind == "f":
        return rng.uniform(-3, 3, (HEIGHT, WIDTH, channels)).astype(dtype)
    limits = np.iinfo(dtype)
    image = rng.integers(limits.min, limits.max, (HEIGHT, WIDTH, channels), dtype, endpoint=True)
    image[0, 0], image[0, 1] = limits.min, limits.max
    return image


def check(bench, image, options, text, *, axes=2):
    rng = np.random.default_rng(3)
    normalised = bool(options.get("flags", 0) & NORMALISED)
    xs, ys = places(rng, normalised)
    modes = [options.get(f"mode_{axis}", CLAMP) for axis in "xyz"]
    border = options.get("border", (0.0,) * 4)
    got = bench.run(text, bench.texture(image, **options), xs, ys)
    numbers = meant(image)
    wanted = np.array([
        expected(numbers, *at[:axes], sampling=options.get("filter", POINT), modes=modes,
                 normalised=normalised, border=border)
        for at in zip(xs, ys, xs, strict=True)
    ])  # fmt: skip
    if bench.device.info.kind == "gpu":  # its filter adds up in an order of its own
        assert np.allclose(got, wanted, rtol=0, atol=2**-7 * np.abs(numbers).max())
    else:
        assert np.array_equal(got, wanted)


MODES = {"clamp": CLAMP, "wrap": WRAP, "mirror": MIRROR, "border": BORDER}


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("kind", ["f4", "u1", "i1", "u2", "i2", "f2"])
@pytest.mark.parametrize("sampling", [POINT, LINEAR], ids=["point", "linear"])
def test_elements_of_every_format_are_read(bench, kind, channels, sampling):
    image = random_image(np.random.default_rng(1), kind, channels)
    check(bench, image, {"filter": sampling}, kernel(read_2d()))


@pytest.mark.parametrize("mode_y", MODES)
@pytest.mark.parametrize("mode_x", MODES)
@pytest.mark.parametrize("sampling", [POINT, LINEAR], ids=["point", "linear"])
def test_what_lies_outside_is_as_each_mode_says(bench, mode_x, mode_y, sampling):
    image = random_image(np.random.default_rng(2), "f4", 1)
    options = {
        "filter": sampling, "flags": NORMALISED, "mode_x": MODES[mode_x], "mode_y": MODES[mode_y],
        "border": (5.0, 6.0, 7.0, 8.0),
    }  # fmt: skip
    check(bench, image, options, kernel(read_2d()))


def test_without_normalised_coordinates_the_border_is_as_far_as_the_image(bench):
    image = random_image(np.random.default_rng(4), "u1", 4)
    options = {
        "filter": LINEAR,
        "mode_x": BORDER,
        "mode_y": BORDER,
        "border": (1.0, 0.5, 0.0, 2.0),
    }
    check(bench, image, options, kernel(read_2d()))


def test_a_level_changes_nothing_and_lanes_that_do_not_read_keep_their_values(bench):
    image = random_image(np.random.default_rng(5), "f4", 4)
    check(bench, image, {"filter": LINEAR}, kernel(read_2d(level=".level")))
    xs, ys = places(np.random.default_rng(6), normalised=False)
    got = bench.run(kernel(read_2d(), guard="@%p2 "), bench.texture(image), xs, ys)
    assert not got[1::2].any()
    wanted = [expected(image, x, y) for x, y in zip(xs[::2], ys[::2], strict=True)]
    assert np.array_equal(got[::2], np.array(wanted))


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_integers_are_read_as_they_are(bench, kind):
    image = random_image(np.random.default_rng(7), kind, 2)
    result = "u32" if kind[0] == "u" else "s32"
    xs, ys = places(np.random.default_rng(8), normalised=False)
    got = bench.run(
        kernel(read_2d(result), result), bench.texture(image, flags=AS_INTEGER), xs, ys, np.int32
    )
    wide = image.astype(np.int64).astype(np.uint32).astype(np.int32)
    for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
        at = place(math.floor(y), HEIGHT, CLAMP), place(math.floor(x), WIDTH, CLAMP)
        assert got[k, :2].tolist() == wide[at].tolist()


def test_whole_coordinates_name_elements(bench):
    image = random_image(np.random.default_rng(9), "f4", 1)
    rng = np.random.default_rng(10)
    xs = rng.integers(-3, WIDTH + 3, COUNT).astype(np.int32)
    ys = rng.integers(-3, HEIGHT + 3, COUNT).astype(np.int32)
    got = bench.run(kernel(read_2d(coordinate="s32"), coordinate="s32"), bench.texture(image),
                    xs, ys)  # fmt: skip
    clipped = image[np.clip(ys, 0, HEIGHT - 1), np.clip(xs, 0, WIDTH - 1), 0]
    assert np.array_equal(got[:, 0], clipped)


def test_linear_memory_is_read_by_element_and_zero_behind_its_end(bench):
    image = random_image(np.random.default_rng(11), "f4", 2)[:1]
    xs = np.arange(-4, WIDTH + 4, dtype=np.int32)
    options = {"kind": OVER_BYTES, "pitch": WIDTH * 8, "size": WIDTH * 8, "border": (9.0,) * 4}
    got = bench.run(
        kernel(read_1d(coordinate="s32"), coordinate="s32"), bench.texture(image, **options),
        xs, xs,
    )  # fmt: skip
    inside = (xs >= 0) & (xs < WIDTH)
    assert np.array_equal(got[inside, :2], image[0])
    assert not got[~inside].any()


@pytest.mark.parametrize("sampling", [POINT, LINEAR], ids=["point", "linear"])
@pytest.mark.parametrize("mode", MODES)
def test_one_row_is_read_by_one_coordinate(bench, mode, sampling):
    if bench.device.info.kind == "gpu":
        pytest.skip("textures of one row are refused there")
    image = random_image(np.random.default_rng(12), "f4", 1)[:1]
    options = {"kind": OVER_ROW, "filter": sampling, "flags": NORMALISED, "mode_x": MODES[mode]}
    check(bench, image, options, kernel(read_1d()), axes=1)


READ_3D = "tex.3d.v4.f32.f32 {%v1, %v2, %v3, %v4}, [%rd1, {%c1, %c2, %c1, %c1}];"


@pytest.mark.parametrize("mode_z", MODES)
@pytest.mark.parametrize("sampling", [POINT, LINEAR], ids=["point", "linear"])
def test_planes_are_read_by_three_coordinates(bench, mode_z, sampling):
    if bench.device.info.kind == "gpu":
        pytest.skip("textures of planes are refused there")
    rng = np.random.default_rng(16)
    image = rng.uniform(-3, 3, (5, HEIGHT, WIDTH, 2)).astype(np.float32)
    options = {
        "filter": sampling, "flags": NORMALISED, "mode_x": WRAP, "mode_z": MODES[mode_z],
        "border": (1.0, 2.0, 3.0, 4.0),
    }  # fmt: skip
    check(bench, image, options, kernel(READ_3D), axes=3)


def surface_kernel(kind, vector, mode):
    """Thread i reads at (x[i], y[i]) of a surface, adds 1 to each element and writes it back."""
    bits = int(kind[1:])
    wide = max(bits, 16)
    count = int(vector[1:]) if vector else 1
    registers = ", ".join(f"%v{k}" for k in range(count))
    more = f".{vector}" if vector else ""
    adds = " ".join(f"add.u{wide} %v{k}, %v{k}, 1;" for k in range(count))
    return f"""{HEAD}
.visible .entry k(.param .u64 surf, .param .u64 xs, .param .u64 ys, .param .u64 out,
 .param .u32 n) {{
 .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .b{wide} %v<5>; .reg .pred %p<3>;
 ld.param.u64 %rd1, [surf]; ld.param.u64 %rd2, [xs]; ld.param.u64 %rd3, [ys];
 ld.param.u32 %r1, [n];
 mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.u32 %r5, %r2, %r3, %r4;
 setp.ge.u32 %p1, %r5, %r1; @%p1 bra done;
 mul.wide.u32 %rd5, %r5, 4; add.s64 %rd2, %rd2, %rd5; add.s64 %rd3, %rd3, %rd5;
 ld.global.s32 %r6, [%rd2]; ld.global.s32 %r7, [%rd3];
 suld.b.2d{more}.{kind}.{mode} {{{registers}}}, [%rd1, {{%r6, %r7}}];
 {adds}
 setp.ne.s32 %p2, %r7, 3;
 @%p2 sust.b.2d{more}.{kind}.{mode} [%rd1, {{%r6, %r7}}], {{{registers}}};
done: ret; }}
"""


@pytest.mark.parametrize("vector", ["", "v2", "v4"])
@pytest.mark.parametrize("kind", ["b8", "b16", "b32", "b64"])
def test_bytes_of_a_surface_are_read_and_written_where_they_are(bench, kind, vector):
    if bench.device.info.kind == "gpu":
        pytest.skip("surfaces are refused there")
    step = int(kind[1:]) // 8 * int(vector[1:] or 1)
    image = np.arange(HEIGHT * 128, dtype=np.uint32).astype(np.uint8).reshape(HEIGHT, 128, 1)
    number = bench.texture(image, flags=SURFACE)
    wanted = image.reshape(HEIGHT, 128).copy()
    every = [(x, y) for y in range(-1, HEIGHT + 1) for x in range(-step, 128 + step, step)]
    view = wanted.view(f"<u{int(kind[1:]) // 8}")
    view[[y for y in range(HEIGHT) if y != 3]] += 1
    for some in np.array_split(np.array(every, np.int32), len(every) // 900 + 1):
        xs, ys = np.ascontiguousarray(some[:, 0]), np.ascontiguousarray(some[:, 1])
        bench.run(surface_kernel(kind, vector, "zero"), number, xs, ys)
    got = bytes(bench.device.memcpy_dtoh(bench.base, PITCH * HEIGHT, 0))
    rows = np.frombuffer(got, np.uint8).reshape(HEIGHT, PITCH)
    assert np.array_equal(rows[:, :128], wanted)
    assert not rows[:, 128:].any()


def test_a_place_outside_a_surface_is_the_nearest_or_ends_the_launch(bench):
    if bench.device.info.kind == "gpu":
        pytest.skip("surfaces are refused there")
    image = np.zeros((HEIGHT, WIDTH, 1), np.uint32)
    number = bench.texture(image, flags=SURFACE)
    xs, ys = np.array([4 * WIDTH + 40], np.int32), np.array([-5], np.int32)
    bench.run(surface_kernel("b32", "", "clamp"), number, xs, ys)
    got = bytes(bench.device.memcpy_dtoh(bench.base + 4 * (WIDTH - 1), 4, 0))
    assert got == b"\1\0\0\0"
    with pytest.raises(CudaError) as caught:
        bench.run(surface_kernel("b32", "", "trap"), number, xs, ys)
    assert caught.value.result is CUresult.LAUNCH_FAILED


def test_what_is_no_texture_is_refused(bench):
    image = random_image(np.random.default_rng(13), "u4", 1)

    def refused(**options):
        with pytest.raises(CudaError) as caught:
            bench.texture(image, **options)
        assert caught.value.result is CUresult.INVALID_VALUE

    refused(flags=0)
    refused(flags=AS_INTEGER, filter=LINEAR)
    refused(flags=AS_INTEGER, width=WIDTH + 1)
    refused(flags=AS_INTEGER, address=bench.base + (63 << 10))
    refused(flags=AS_INTEGER, channels=3)
    refused(flags=AS_INTEGER, format=0xB0)
    refused(flags=AS_INTEGER, mode_x=4)
    refused(flags=AS_INTEGER, depth=2)
    refused(flags=SURFACE | NORMALISED)
    refused(flags=SURFACE, filter=LINEAR)
    refused(flags=AS_INTEGER, kind=OVER_BYTES)
    with pytest.raises(CudaError) as caught:
        bench.device.texture_destroy(4242)
    assert caught.value.result is CUresult.INVALID_HANDLE


@pytest.mark.parametrize(
    "read",
    [
        "tex.cube.v4.f32.f32 {%v1, %v2, %v3, %v4}, [%rd1, {%c1, %c2, %c1, %c2}];",
        "tex.2d.v4.f32.f32 {%v1, %v2, %v3, %v4}, [%rd1, %rd2, {%c1, %c2}];",
        "tex.a2d.v4.f32.f32 {%v1, %v2, %v3, %v4}, [%rd1, {%r1, %c1, %c2, %c2}];",
    ],
)
def test_forms_that_are_not_offered_are_refused_by_name(bench, read):
    if bench.device.info.kind == "gpu":
        pytest.skip("the GPU has them")
    with pytest.raises(PtxError, match="tex"):
        bench.run(kernel(read), 0, np.zeros(1, np.float32), np.zeros(1, np.float32))


def test_a_texture_that_was_destroyed_reads_zeros(bench):
    if bench.device.info.kind == "gpu":
        pytest.skip("nobody says what a GPU does")
    image = random_image(np.random.default_rng(14), "f4", 1)
    number = bench.texture(image)
    bench.device.texture_destroy(bench.made.pop())
    xs, ys = places(np.random.default_rng(15), normalised=False)
    assert not bench.run(kernel(read_2d()), number, xs, ys).any()
