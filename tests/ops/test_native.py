"""The native convolutions, in every form that this machine can run."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from native_forms import FORMS, needs_each, needs_native
from test_conv import numpy_conv
from test_packed import CHANNELS, IMAGES, random_operands

from binsr_jax.ops.branch import (
    Branch,
    PlainResidual,
    SpatialResidual,
    can_upsample,
    packed_branch,
    packed_chain,
    packed_upsample,
)
from binsr_jax.ops.conv import conv2d
from binsr_jax.ops.native import call, choose
from binsr_jax.ops.packed import (
    pack_activations,
    pack_weights,
    packed_conv,
    packed_conv_reference,
)

pytestmark = needs_native


@pytest.fixture(autouse=True)
def _loaded(request):
    """The form of the test, made; then the process chooses anew."""
    if "form" in request.fixturenames:
        choose.load(request.getfixturevalue("form"))
    yield
    choose.chosen_form.cache_clear()


def assert_exact(form, seed, image, channels, outputs, kernel):
    # One program for a shape, since what a test of many shapes costs is their compilation.
    @jax.jit
    def run(x, w):
        x_bits, w_bits = pack_activations(x), pack_weights(w)
        return x_bits, w_bits, call.packed_conv(x_bits, w_bits, channels, form)

    x_bits, w_bits, y = run(*random_operands(seed, image, channels, outputs, kernel))
    assert y.dtype == jnp.int16
    expected = packed_conv_reference(np.asarray(x_bits), np.asarray(w_bits), channels)
    np.testing.assert_array_equal(y, expected)


@needs_each
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("channels", CHANNELS)
def test_every_channel_count_is_exact(form, channels, kernel):
    assert_exact(form, channels, (2, 5, 7), channels, 6, kernel)


@needs_each
@settings(max_examples=15, deadline=None)
@given(
    **IMAGES,
    channels=st.sampled_from(CHANNELS),
    outputs=st.sampled_from((1, 3, 63, 64, 65, 130)),
    kernel=st.sampled_from(((1, 1), (3, 3), (5, 5), (1, 3), (3, 1), (1, 7))),
)
def test_any_shape_is_exact(form, seed, batch, height, width, channels, outputs, kernel):
    assert_exact(form, seed, (batch, height, width), channels, outputs, kernel)


@needs_each
def test_the_largest_count_is_exact(form):
    """All signs agree, or none does: 9 x 256 channels, past what a byte holds many times over."""
    x = jnp.ones((1, 3, 6, 256), jnp.float32)
    for sign in (1, -1):
        w = jnp.full((3, 3, 256, 64), sign, jnp.float32)
        y = call.packed_conv(pack_activations(x), pack_weights(w), 256, form)
        assert np.asarray(y)[0, 1, 2].tolist() == [sign * 2304] * 64


@needs_each
def test_parts_worked_by_several_threads_fit_together(form):
    """Images of many rows are shared out in parts, also where one image ends and another starts."""
    assert_exact(form, 1, (3, 37, 50), 64, 64, (3, 3))


def branch_operands(channels, outputs, size=(2, 5, 7)) -> tuple[jax.Array, Branch]:
    x, w = random_operands(outputs, size, channels, outputs, (3, 3))
    rng = np.random.default_rng(channels)
    threshold = rng.normal(size=channels).astype(np.float32)
    others = rng.normal(size=(5, outputs)).astype(np.float32)
    # Some features lie exactly on their threshold, which is negative.
    x = np.array(x)
    x[0, 0] = threshold
    w_bits = jax.jit(pack_weights)(w)
    arrays = (jnp.asarray(a) for a in (threshold, *others))
    threshold, *others = arrays
    return jnp.asarray(x), Branch(threshold, w_bits, *others, residual=None)


def residuals(channels):
    """What may be added to a branch: nothing, x times a number, or times a map of it."""
    drawn = np.random.default_rng(channels + 1).normal(size=2 + channels).astype(np.float32)
    gain, bias, weights = map(jnp.asarray, (drawn[0], drawn[1], np.float32(0.3) * drawn[2:]))
    spatial = SpatialResidual(gain, bias, weights)
    return {"none": None, "plain": PlainResidual(gain), "spatial": spatial}


def test_the_residual_with_a_map_is_that_of_numpy():
    x, branch = branch_operands(6, 6)
    residual = residuals(6)["spatial"]
    a, b, w = (np.asarray(numbers, np.float64) for numbers in residual)
    added = packed_branch(x, branch._replace(residual=residual)) - packed_branch(x, branch)
    gain = a / (1 + np.exp(-(np.asarray(x, np.float64) @ w + b)))
    np.testing.assert_allclose(added, gain[..., None] * x, rtol=1e-4, atol=1e-4)


def test_the_factor_is_of_the_branch_alone():
    x, branch = branch_operands(6, 6)
    plain, doubled = (packed_branch(x, branch._replace(factor=f)) for f in (1.0, 2.0))
    np.testing.assert_array_equal(doubled, 2 * plain)


def by_xla(monkeypatch, x, branch, shuffle):
    with monkeypatch.context() as patch:
        patch.setattr(choose, "chosen_form", lambda: "xla")
        return jax.jit(lambda x, branch: packed_branch(x, branch, shuffle))(x, branch)


@needs_each
@pytest.mark.parametrize(
    ("channels", "outputs", "residual", "options"),
    [
        (64, 64, "plain", {}),
        (64, 64, "none", {}),
        (64, 64, "spatial", {"factor": -0.75}),
        (33, 33, "plain", {"factor": 1.5}),
        (33, 33, "spatial", {}),
        (5, 20, "spatial", {"shuffle": 2}),
        (5, 20, "plain", {"shuffle": 2}),
        (64, 256, "plain", {"shuffle": 2}),
        (96, 96, "spatial", {}),
        (48, 48 * 9, "plain", {"shuffle": 3}),
        (64, 12, "none", {"shuffle": 2}),
        (32, 3, "none", {"factor": 0.0}),
    ],
)
def test_a_branch_is_that_of_xla(monkeypatch, form, channels, outputs, residual, options):
    """The integers are equal; scale and shifts differ by the rounding of a few float operations."""
    x, branch = branch_operands(channels, outputs)
    factor, shuffle = options.get("factor", 1.0), options.get("shuffle", 1)
    branch = branch._replace(factor=factor, residual=residuals(channels)[residual])
    expected = by_xla(monkeypatch, x, branch, shuffle)
    monkeypatch.setattr(choose, "chosen_form", lambda: form)
    y = jax.jit(lambda x, branch: packed_branch(x, branch, shuffle))(x, branch)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@needs_each
@pytest.mark.parametrize("channels", [64, 30])
@pytest.mark.parametrize("residual", ["plain", "spatial"])
def test_a_pixel_does_not_depend_on_the_image_around_it(monkeypatch, form, residual, channels):
    """What tiles rest on: far from the border a piece gives the very bits of the whole."""
    monkeypatch.setattr(choose, "chosen_form", lambda: form)
    x, branch = branch_operands(channels, channels, (1, 19, 23))
    branch = branch._replace(residual=residuals(channels)[residual])
    whole, piece = packed_branch(x, branch), packed_branch(x[:, 4:15, 3:20], branch)
    np.testing.assert_array_equal(piece[:, 1:-1, 1:-1], whole[:, 5:14, 4:19])


@needs_each
@settings(max_examples=5, deadline=None)
@given(
    **IMAGES,
    features=st.sampled_from((8, 16, 40)),
    outputs=st.integers(1, 3),
    shuffle=st.integers(1, 3),
    side=st.sampled_from((1, 3, 5)),
)
def test_upsampling_to_an_image_is_its_two_parts(
    form, seed, batch, height, width, features, outputs, shuffle, side
):
    """To the last bit, whatever rows a thread has."""
    x, branch = branch_operands(features, features * shuffle**2, (batch, 3 * height, width))
    branch = branch._replace(residual=residuals(features)["spatial"])
    draw = np.random.default_rng(seed).normal(size=(side, side, features, outputs))
    tail = jnp.asarray(draw, jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "chosen_form", lambda: form)
        assert can_upsample(x, branch, tail, shuffle)

        @jax.jit
        def both(x, branch, tail):
            large = packed_branch(x, branch, shuffle)
            return packed_upsample(x, branch, tail, shuffle=shuffle), call.conv(large, tail, form)

        np.testing.assert_array_equal(*both(x, branch, tail))


@needs_each
@pytest.mark.parametrize("part", ["conv", "branch", "chain", "few outputs", "many outputs"])
def test_devices_work_their_part_of_the_batch(monkeypatch, form, part):
    monkeypatch.setattr(choose, "chosen_form", lambda: form)
    x, branch = branch_operands(40, 40, (8, 6, 5))
    branch = branch._replace(factor=jnp.float32(1.5), residual=residuals(40)["spatial"])
    mesh = Mesh(np.array(jax.devices()), ("data",))
    batch, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

    def run(x, branch):
        if part == "conv":
            return packed_conv(pack_activations(x), branch.w_bits, 40)
        if part == "chain":
            return packed_chain(x, [branch, branch])
        if part.endswith("outputs"):
            return conv2d(x, jnp.ones((3, 3, 40, 3 if part.startswith("few") else 16)))
        return packed_branch(x, branch)

    expected = jax.jit(run)(x, branch)
    placed = jax.device_put(x, batch), jax.device_put(branch, whole)
    compiled = jax.jit(run).lower(*placed).compile()
    assert "all-gather" not in str(compiled.as_text())
    y = compiled(*placed)
    assert y.sharding.is_equivalent_to(batch, 4)
    np.testing.assert_array_equal(y, expected)


FLOAT_KERNELS = st.sampled_from(((1, 1), (3, 3), (5, 5), (1, 3), (3, 1), (1, 7)))


def assert_convolves(form, seed, image, inputs, outputs, kernel, lanes=1):
    """To the rounding of so many sums side by side, beside the same sum in double precision."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*image, inputs)).astype(np.float32)
    k = rng.normal(size=(*kernel, inputs, outputs)).astype(np.float32)
    y = jax.jit(partial(call.conv, form=form))(x, k)
    products = kernel[0] * kernel[1] * inputs
    size = numpy_conv(np.abs(x), np.abs(k))
    assert np.all(np.abs(y - numpy_conv(x, k)) <= 2.0**-24 * (products / lanes + 4) * size)


@needs_each
@settings(max_examples=20, deadline=None)
@given(
    **IMAGES,
    inputs=st.sampled_from((8, 16, 40, 64)),
    outputs=st.integers(1, 3),
    kernel=FLOAT_KERNELS,
)
def test_few_outputs_in_any_shape(form, seed, batch, height, width, inputs, outputs, kernel):
    assert_convolves(form, seed, (batch, height, width), inputs, outputs, kernel, lanes=8)


@needs_each
@settings(max_examples=12, deadline=None)
@given(
    **IMAGES,
    inputs=st.sampled_from((1, 3, 16, 37, 64)),
    outputs=st.sampled_from((4, 12, 16, 27, 48, 64, 80, 256)),
    kernel=FLOAT_KERNELS,
)
def test_many_outputs_in_any_shape(form, seed, batch, height, width, inputs, outputs, kernel):
    assert_convolves(form, seed, (batch, height, width), inputs, outputs, kernel)


@needs_each
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(64, 1), (64, 2), (64, 3), (64, 12), (64, 64), (3, 16)]
)
def test_a_piece_of_a_float_convolution_is_that_of_the_whole(form, inputs, outputs):
    rng = np.random.default_rng(outputs)
    x = jnp.asarray(rng.normal(size=(2, 17, 26, inputs)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, inputs, outputs)), jnp.float32)
    whole = call.conv(x, kernel, form)
    for left, right in ((0, 7), (1, 14), (2, 25), (3, 26), (9, 12)):
        piece = call.conv(x[:, 3:12, left:right], kernel, form)
        inner = whole[:, 4:11, left + 1 : right - 1]
        np.testing.assert_array_equal(piece[:, 1:-1, 1:-1], inner)


def gradient_operands(seed, image, inputs, outputs, kernel):
    draw = np.random.default_rng(seed).standard_normal
    sizes = ((*image, inputs), (*kernel, inputs, outputs), (*image, outputs))
    return tuple(draw(size).astype(np.float32) for size in sizes)


def numpy_gradients(x, kernel, dy):
    """By x a convolution of dy with the flipped kernel; by the kernel, windows of x times dy."""
    kh, kw = kernel.shape[:2]
    margins = ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0))
    padded = np.pad(x.astype(np.float64), margins)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(1, 2))
    dkernel = np.einsum("bhwcij,bhwo->ijco", windows, dy.astype(np.float64))
    return numpy_conv(dy, kernel[::-1, ::-1].swapaxes(2, 3)), dkernel


def assert_gradients(arrays, gradients):
    """To the rounding of a sum of so many products, beside the same sums in double precision."""
    _, kernel, dy = arrays
    products = kernel.shape[0] * kernel.shape[1] * dy.shape[3], dy[..., 0].size
    expected = numpy_gradients(*arrays)
    sizes = numpy_gradients(*map(np.abs, arrays))
    for ours, exact, size, count in zip(gradients, expected, sizes, products, strict=True):
        assert np.all(np.abs(ours - exact) <= 2.0**-24 * (count + 4) * size)


@needs_each
@settings(max_examples=12, deadline=None)
@given(
    **IMAGES,
    inputs=st.sampled_from((16, 48, 64, 112)),
    outputs=st.sampled_from((16, 32, 64, 80)),
    kernel=FLOAT_KERNELS,
)
def test_gradients_in_any_shape(form, seed, batch, height, width, inputs, outputs, kernel):
    arrays = gradient_operands(seed, (batch, height, width), inputs, outputs, kernel)
    assert_gradients(arrays, jax.jit(partial(call.conv_gradient, form=form))(*arrays))


@needs_each
def test_gradients_do_not_depend_on_the_threads(form):
    """What a resumed run rests on: a sum has one order."""
    arrays = gradient_operands(1, (3, 37, 50), 64, 64, (3, 3))
    first = jax.jit(partial(call.conv_gradient, form=form))(*arrays)
    assert_gradients(arrays, first)
    for _ in range(5):
        again = jax.jit(partial(call.conv_gradient, form=form))(*arrays)
        jax.tree.map(np.testing.assert_array_equal, again, first)


@needs_each
def test_devices_work_the_gradients_of_their_part_of_the_batch(form):
    arrays = gradient_operands(2, (8, 6, 5), 16, 32, (3, 3))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    batch, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    x, kernel, dy = (
        jax.device_put(a, place) for a, place in zip(arrays, (batch, whole, batch), strict=True)
    )
    compiled = jax.jit(partial(call.conv_gradient, form=form)).lower(x, kernel, dy).compile()
    assert "all-gather" not in str(compiled.as_text())
    dx, dkernel = compiled(x, kernel, dy)
    assert dx.sharding.is_equivalent_to(batch, 4)
    assert dkernel.sharding.is_equivalent_to(whole, 4)
    assert_gradients(arrays, (dx, dkernel))


@needs_each
def test_the_gradient_of_conv2d_is_native_but_in_bfloat16(monkeypatch, form):
    monkeypatch.setattr(choose, "chosen_form", lambda: form)

    def program(channels):
        x, kernel, _ = gradient_operands(0, (1, 5, 6), channels, 16, (3, 3))
        # A new function each time, since a trace is kept of one.
        gradient = jax.grad(lambda *arrays: conv2d(*arrays).sum(), (0, 1))
        return jax.jit(gradient).lower(x, kernel).as_text()

    assert "kernel_gradients" in program(16)
    assert "kernel_gradients" not in program(9)
    with jax.default_matmul_precision("bfloat16"):
        assert "kernel_gradients" not in program(16)


@needs_each
@pytest.mark.parametrize(
    ("inputs", "outputs", "is_native"),
    [(16, 3, True), (9, 3, False), (9, 16, True), (64, 17, True)],
)
def test_which_float_convolutions_are_native(monkeypatch, form, inputs, outputs, is_native):
    """None is in bfloat16."""
    monkeypatch.setattr(choose, "chosen_form", lambda: form)

    def program():
        # A new function each time, since a trace is kept of one.
        arrays = jnp.ones((1, 5, 6, inputs)), jnp.ones((3, 3, inputs, outputs))
        return jax.jit(lambda *arrays: conv2d(*arrays)).lower(*arrays).as_text()

    assert (f"binsr_{form}_float_conv" in program()) == is_native
    assert ("binsr_" in program()) == is_native
    with jax.default_matmul_precision("bfloat16"):
        assert "binsr_" not in program()


@pytest.mark.skipif(
    not FORMS or not choose.has_amx(FORMS[0]), reason="needs a CPU with a matrix unit (AMX)"
)
@pytest.mark.parametrize(
    ("image", "inputs", "outputs", "kernel"),
    [((2, 5, 7), 32, 96, (3, 3)), ((1, 1, 1), 64, 32, (1, 1)), ((1, 33, 3), 32, 32, (5, 3))],
)
def test_bfloat16_on_the_matrix_unit(image, inputs, outputs, kernel):
    arrays = gradient_operands(4, image, inputs, outputs, kernel)
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32) for a in arrays]
    with jax.default_matmul_precision("bfloat16"):
        # New functions, since a trace is kept of one.
        step = jax.jit(lambda x, k, dy: (conv2d(x, k), jax.vjp(conv2d, x, k)[1](dy)))
        program = step.lower(*arrays).as_text()
        y, gradients = step(*arrays)
    assert "bf16_conv" in program
    assert "bf16_kernel_gradients" in program
    np.testing.assert_allclose(y, conv2d(*map(jnp.asarray, rounded[:2])), rtol=1e-4, atol=1e-4)
    assert_gradients(rounded, gradients)


def test_results_past_16_bits_are_left_to_xla():
    x, w = random_operands(0, (1, 2, 2), 3680, 1, (3, 3))
    x_bits, w_bits = jax.jit(lambda x, w: (pack_activations(x), pack_weights(w)))(x, w)
    assert choose.form_for_packed(x_bits, w_bits) == "xla"
    expected = packed_conv_reference(np.asarray(x_bits), np.asarray(w_bits), 3680)
    y = jax.jit(packed_conv, static_argnums=2)(x_bits, w_bits, 3680)
    np.testing.assert_array_equal(y, expected)


def test_under_vmap():
    x, w = random_operands(2, (3, 2, 4), 32, 5, (3, 3))

    @jax.jit
    def both(x, w):
        bits, w_bits = pack_activations(x), pack_weights(w)
        each = jax.vmap(lambda image: packed_conv(image[None], w_bits, 32)[0])(bits)
        return each, packed_conv(bits, w_bits, 32)

    np.testing.assert_array_equal(*both(x, w))
