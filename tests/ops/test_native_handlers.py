"""What the native handlers say to arrays that do not fit: an error that names them, no more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_forms import FORMS, needs_native

from binsr_jax.ops.native import choose, direct

pytestmark = needs_native

F, U, S = jnp.float32, jnp.uint32, jnp.int16
# Of each handler its arguments, its attributes and its results, as they fit.
X = ((1, 4, 5, 16), F)
FITTING = {
    "packed_conv": (
        {"x": ((1, 4, 5, 1), U), "k": ((3, 3, 1, 7), U)},
        {"channels": np.int64(16)},
        ((1, 4, 5, 7), S),
    ),
    "packed_branch": (
        {
            "x": X,
            "threshold": ((16,), F),
            "k": ((3, 3, 1, 64), U),
            "epilogue": ((5, 64), F),
            "residual": ((18,), F),
        },
        {"kind": "spatial", "shuffle": np.int64(2)},
        ((1, 8, 10, 16), F),
    ),
    "packed_upsample": (
        {
            "x": X,
            "threshold": ((16,), F),
            "k": ((3, 3, 1, 64), U),
            "epilogue": ((5, 64), F),
            "residual": ((1,), F),
            "tail": ((3, 3, 16, 3), F),
        },
        {"kind": "plain", "shuffle": np.int64(2)},
        ((1, 8, 10, 3), F),
    ),
    "packed_chain": (
        {
            "x": X,
            "threshold": ((2, 16), F),
            "k": ((2, 3, 3, 1, 16), U),
            "epilogue": ((2, 5, 16), F),
            "residual": ((2, 1), F),
        },
        {"kind": "plain", "skip": True},
        X,
    ),
    "packed_attended": (
        {
            "x": X,
            "threshold": ((2, 16), F),
            "k": ((2, 3, 3, 1, 16), U),
            "epilogue": ((2, 5, 16), F),
            "binary": ((2, 4 + 16 * 4 + 16 + 4 * 16), F),
            "residual": ((2, 18), F),
            "means": ((1, 2, 1, 16), F),
        },
        {"binary": "se", "residual": "spatial", "skip": True},
        X,
        ((1, 2, 1, 16), F),
    ),
    "float_conv": ({"x": X, "k": ((3, 3, 16, 3), F)}, {}, ((1, 4, 5, 3), F)),
    "float_layer": (
        {"x": X, "k": ((3, 3, 16, 12), F), "bias": ((12,), F), "slope": ((1,), F)},
        {"shuffle": np.int64(2)},
        ((1, 8, 10, 3), F),
    ),
    "image_skip": (
        {"z": ((1, 8, 10, 16), F), "x": X, "numbers": ((5, 16), F)},
        {"factor": np.int64(2)},
        ((1, 8, 10, 16), F),
    ),
    "kernel_gradients": ({"x": X, "dy": ((1, 4, 5, 32), F)}, {}, ((1, 3, 3, 16, 32), F)),
}

if FORMS and choose.has_amx(FORMS[0]):
    WIDE = ((1, 4, 5, 32), F)
    FITTING |= {
        "bf16_conv": ({"x": WIDE, "k": ((3, 3, 32, 64), F)}, {}, ((1, 4, 5, 64), F)),
        "bf16_kernel_gradients": (
            {"x": WIDE, "dy": ((1, 4, 5, 64), F)},
            {},
            ((1, 3, 3, 32, 64), F),
        ),
    }


def run(handler, arguments, attributes, *results):
    choose.load(FORMS[0])
    shapes = [jax.ShapeDtypeStruct(*result) for result in results]
    call = jax.ffi.ffi_call(f"binsr_{FORMS[0]}_{handler}", shapes)
    return call(*(jnp.ones(*argument) for argument in arguments.values()), **attributes)


def named(results):
    return dict(zip(("the result", "the other result"), results, strict=False))


@pytest.mark.parametrize("handler", FITTING)
def test_what_fits_is_computed(handler):
    arguments, attributes, *results = FITTING[handler]
    made = run(handler, arguments, attributes, *results)
    assert [array.shape for array in made] == [shape for shape, _ in results]


def wrong_arrays():
    """Each array of each handler, of another type, with an axis more, or with another size."""
    for handler, (arguments, _, *results) in FITTING.items():
        for name, (shape, dtype) in [*arguments.items(), *named(results).items()]:
            other = U if dtype == F else F
            changes = [((*shape, 1), dtype), (shape, other)]
            changes += [
                ((*shape[:i], shape[i] + 1, *shape[i + 1 :]), dtype) for i in range(len(shape))
            ]
            for change in changes:
                yield handler, name, change


@pytest.mark.parametrize("handler", FITTING)
def test_what_does_not_fit_is_refused(handler):
    arguments, attributes, *results = FITTING[handler]
    refused = 0
    for of, name, change in wrong_arrays():
        if of != handler:
            continue
        changed = {**arguments, **named(results), name: change}
        given = {k: changed.pop(k) for k in arguments}
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"{handler}: "):
            run(handler, given, attributes, *changed.values())
        refused += 1
    assert refused >= 18


@pytest.mark.parametrize(
    ("handler", "change", "words"),
    [
        ("packed_conv", {"channels": np.int64(33)}, "1 words for 33 channels"),
        ("packed_conv", {"channels": np.int64(0)}, "1 words for 0 channels"),
        ("packed_conv", {"channels": np.int64(-5)}, "for -5 channels"),
        ("packed_branch", {"shuffle": np.int64(0)}, "shuffle"),
        ("packed_branch", {"shuffle": np.int64(3)}, "shuffle"),
        ("packed_branch", {"shuffle": np.int64(1 << 40)}, "shuffle"),
        ("packed_branch", {"kind": "none"}, "residual is [18]"),
        ("packed_branch", {"kind": "other"}, "no residual other"),
        ("float_layer", {"shuffle": np.int64(0)}, "shuffle 0 does not fit 12 outputs"),
        ("float_layer", {"shuffle": np.int64(3)}, "shuffle 3 does not fit 12 outputs"),
        ("float_layer", {"shuffle": np.int64(1 << 40)}, "does not fit 12 outputs"),
        ("image_skip", {"factor": np.int64(0)}, "there is no factor 0"),
        ("image_skip", {"factor": np.int64(1 << 40)}, "there is no factor"),
        ("image_skip", {"factor": np.int64(4)}, "z is [1, 8, 10, 16] and must be [1, 16, 20, 16]"),
        ("packed_chain", {"kind": "none"}, "no residual none"),
        ("packed_chain", {"kind": "spatial"}, "residual is [2, 1] and must be [2, 18]"),
        ("packed_attended", {"binary": "other"}, "there is no attention other"),
        ("packed_attended", {"residual": "other"}, "there is no attention other"),
        ("packed_attended", {"binary": "pixel"}, "binary has 148 numbers, which do not fit pixel"),
        ("packed_attended", {"residual": "se"}, "residual has 18 numbers, which do not fit se"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(handler, change, words):
    arguments, attributes, *results = FITTING[handler]
    with pytest.raises(jax.errors.JaxRuntimeError) as refusal:
        run(handler, arguments, attributes | change, *results)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("handler", "kernel", "channels", "words"),
    [
        ("packed_conv", (2, 3, 1, 7), 16, "odd sides"),
        ("float_conv", (3, 4, 16, 3), 16, "odd sides"),
        ("float_conv", (3, 3, 17, 3), 17, "no form for 17 channels and 3 outputs"),
    ],
)
def test_kernels_without_a_form_are_refused(handler, kernel, channels, words):
    arguments, attributes, ((*image, _), dtype) = FITTING[handler]
    x = ((*arguments["x"][0][:-1], channels), arguments["x"][1])
    arguments = {**arguments, "x": x, "k": (kernel, arguments["k"][1])}
    with pytest.raises(jax.errors.JaxRuntimeError, match=words):
        run(handler, arguments, attributes, ((*image, kernel[-1]), dtype))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_empty_batch_has_an_empty_result(axis):
    for handler in ("packed_conv", "float_conv"):
        arguments, attributes, (shape, dtype) = FITTING[handler]
        image = list(arguments["x"][0])
        image[axis], shape = 0, list(shape)
        shape[axis] = 0
        changed = {**arguments, "x": (tuple(image), arguments["x"][1])}
        (empty,) = run(handler, changed, attributes, (tuple(shape), dtype))
        assert empty.size == 0


def directly(handler, arguments, attributes, *results):
    arrays = [np.ones(shape, np.dtype(kind)) for shape, kind in arguments.values()]
    made = [np.empty(shape, np.dtype(kind)) for shape, kind in results]
    plain = {k: v if isinstance(v, str | bool) else int(v) for k, v in attributes.items()}
    direct.call(FORMS[0], handler, arrays, plain, *made)
    return made


@pytest.mark.parametrize("handler", FITTING)
def test_without_xla_the_result_is_the_same(handler):
    arguments, attributes, *results = FITTING[handler]
    expected = run(handler, arguments, attributes, *results)
    made = directly(handler, arguments, attributes, *results)
    for own, other in zip(made, expected, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("handler", FITTING)
def test_without_xla_what_does_not_fit_is_refused(handler):
    arguments, attributes, *results = FITTING[handler]
    for of, name, change in wrong_arrays():
        if of == handler:
            changed = {**arguments, **named(results), name: change}
            given = {k: changed.pop(k) for k in arguments}
            with pytest.raises(ValueError, match=f"{handler}: "):
                directly(handler, given, attributes, *changed.values())
    with pytest.raises(ValueError, match="float64"):
        directly(handler, {**arguments, "more": ((1,), "float64")}, attributes, *results)
    with pytest.raises(ValueError, match="arguments"):
        directly(handler, {**arguments, "more": ((1,), F)}, attributes, *results)
    with pytest.raises(ValueError, match="results"):
        directly(handler, arguments, attributes, *results, results[0])
    if attributes:
        with pytest.raises(ValueError, match="attribute"):
            directly(handler, arguments, {}, *results)


def test_bfloat16_without_a_form_is_refused():
    """A CPU without AMX refuses all; one with it takes multiples of 32 channels."""
    arguments = {"x": X, "k": ((3, 3, 16, 32), F)}
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"bf16_conv: .*(no AMX|no form)"):
        run("bf16_conv", arguments, {}, ((1, 4, 5, 32), F))
