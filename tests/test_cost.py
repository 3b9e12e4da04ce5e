"""Costs against arithmetic by hand, the papers' architectures, and the files themselves."""

import json
from typing import Any

import pytest

from binsr_jax import cost, models
from binsr_jax.config import default
from binsr_jax.cost import CONVENTIONS

FLOAT_EDSR: dict[str, Any] = {
    "unit": "residual",
    "body_end": "conv",
    "upsampler": "float",
    "head_activation": "none",
}


def counted(size=(180, 320), scale=2, **fields):
    config = default()
    config.scale = scale
    config.model.update(fields)
    return cost.count(config, size)


def macs(inputs, outputs, kernel=3):
    return kernel * kernel * inputs * outputs


@pytest.mark.parametrize(
    ("scale", "macs_per_pixel", "parameters"),
    # SPEC of EDSR-PyTorch: the body at LR, the upsampler's convolutions, the tail at HR.
    [(2, 1_372_608, 1_369_859), (3, None, 1_554_499), (4, None, 1_517_571)],
)
def test_float_edsr(scale, macs_per_pixel, parameters):
    result = counted((5, 7), scale, **FLOAT_EDSR)
    upsampler = {2: macs(64, 256), 3: macs(64, 576), 4: 5 * macs(64, 256)}[scale]
    by_hand = macs(3, 64) + 33 * macs(64, 64) + upsampler + scale**2 * macs(64, 3)
    assert by_hand == (macs_per_pixel or by_hand)
    assert result.float_macs == by_hand * 5 * 7
    assert result.float_parameters == parameters
    assert (result.binary_macs, result.binary_parameters) == (0, 0)
    assert result.file_bytes == 4 * parameters
    assert result.half_file_bytes == 2 * parameters


def test_binary_edsr():
    result = counted()
    pixels = 180 * 320
    assert result.binary_parameters == 33 * 36_864 + 147_456 == 1_363_968
    assert result.binary_macs == 1_363_968 * pixels
    assert result.float_macs == (macs(3, 64) + 4 * macs(64, 3)) * pixels
    # Without attention a unit has scale, threshold and three of RPReLU by channel, and two scalars.
    head_and_tail = macs(3, 64) + 64 + macs(64, 3) + 3
    upsampler = 64 + 4 * 256
    assert result.float_parameters == head_and_tail + 33 * (5 * 64 + 2) + upsampler
    assert result.file_bytes == 1_363_968 // 8 + 4 * result.float_parameters
    assert result.half_file_bytes == 1_363_968 // 8 + 2 * result.float_parameters


def test_binary_units_in_a_float_frame_cost_what_the_paper_says():
    """BBCU-L x2 but for its conv_hr: 32 binary units and a float one, upsampler and tail.

    OPs of the paper: MAC_fp + MAC_bin / 64 at an LR image of 320x180.
    """
    result = counted(unit="bbcu", body_end="conv", upsampler="float")
    operations = result.float_macs + result.binary_macs / 64
    per_pixel = (
        macs(3, 64) + macs(64, 64) + macs(64, 256) + 4 * macs(64, 3) + 32 * macs(64, 64) / 64
    )
    assert operations == per_pixel * 180 * 320
    # Beside it conv_hr works at HR, where the paper's has it: 18.55 G.
    conv_hr, body_end = 4 * macs(64, 64) * 57_600, macs(64, 64) * 57_600
    assert round((operations - body_end + conv_hr) / 1e9, 2) == 18.55


@pytest.mark.parametrize("features", [5, 8])
def test_elementwise_operations_by_hand(features):
    """One operation a number written; a pixel of this network, layer by layer."""
    result = counted(
        (6, 4), features=features, blocks=1, unit="bbcu", head_activation="none", amplification=9.0
    )
    mean_and_k = 2 * 3
    head = features  # its bias
    # RSign compares and chooses, a scale, RPReLU is - > * choose +, and the residual sum.
    unit = (2 + 1 + 5 + 1) * features
    skip = features
    upsampler = 2 * features + (1 + 5) * 4 * features + 4 * features
    tail = 4 * 3
    k_and_mean = 3 * 4 * 3  # times 1 / k, rounded (see ops.image.product), plus the mean
    per_pixel = mean_and_k + head + 3 * unit + skip + upsampler + tail + k_and_mean
    assert result.elementwise == per_pixel * 6 * 4


@pytest.mark.parametrize("branch", ["residual", "binary"])
@pytest.mark.parametrize(
    ("attention", "macs_per_unit"),
    [("spatial", 16 * 35), ("pixel", 16 * 16 * 35), ("se", 2 * 16 * 3)],
)
def test_attention_costs_what_its_layers_do(attention, macs_per_unit, branch):
    fields = {"features": 16, "blocks": 2, "attention_hidden": 3}
    plain = counted((5, 7), **fields)
    result = counted((5, 7), **fields, **{f"{branch}_attention": attention})
    assert result.float_macs - plain.float_macs == 5 * macs_per_unit
    assert result.binary_macs == plain.binary_macs
    assert result.elementwise > plain.elementwise


def test_operations_grow_with_the_pixels():
    small, large = (counted(size, features=8, blocks=3) for size in ((10, 20), (20, 40)))
    for kind in ("binary_macs", "float_macs", "elementwise", "profiled", "activation_bytes"):
        assert getattr(large, kind) == 4 * getattr(small, kind)
    assert large.file_bytes == small.file_bytes


def test_parameters_of_the_papers_code(reference_dir):
    path = reference_dir / "5_parameter_counts.json"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    counts = json.loads(path.read_text())
    for name, fields in (("baseline", {}), ("full", {"features": 256, "blocks": 32})):
        for scale in (2, 3, 4):
            if published := counts.get(f"edsr_{name}_x{scale}"):
                result = counted((1, 1), scale, **FLOAT_EDSR, **fields)
                assert result.float_parameters == published["without_mean_shift"]
    result = counted((1, 1), unit="bbcu", body_end="conv", upsampler="float")
    assert result.binary_parameters == counts["bbcul_x2"]["binary"]


def test_the_table_has_every_number():
    result = counted((2, 3), features=4, blocks=1)
    table = cost.markdown(result)
    assert table.splitlines()[0] == "| cost | number |"
    assert "3x2" in table
    for number in (result.float_macs, result.binary_macs, result.elementwise, result.file_bytes):
        assert f"| {number:,} |" in table


@pytest.mark.parametrize("features", [5, 16])
def test_feature_maps_by_hand(features):
    """Of few features at the tail, of more at the upsampler, whose input is there as bits too."""
    fields: dict[str, Any] = {"features": features, "blocks": 2}
    pixels = 6 * 4
    tail = pixels * 4 * 4 * (features + 3)
    upsampler = pixels * 4 * (features + 4 * features)
    signs = -(-features * pixels // 8)
    result = counted((6, 4), **fields)
    assert result.activation_bytes == max(tail, upsampler + signs)
    # In floats there are no signs; for a skip of the image it is kept.
    result = counted((6, 4), image_skip="bilinear", **fields, **FLOAT_EDSR)
    assert result.activation_bytes == max(tail, upsampler) + pixels * 4 * 3


@pytest.mark.parametrize("attention", ["none", "se"])
def test_a_loop_over_units_costs_what_they_do(attention, monkeypatch):
    fields = {"features": 4, "blocks": 3, "residual_attention": attention}
    plain = counted((4, 5), **fields)
    build = models.build
    monkeypatch.setattr(models, "build", lambda *a, **k: build(*a, **k).clone(scan=True))
    looped = counted((4, 5), **fields)
    assert (looped.binary_macs, looped.float_macs) == (plain.binary_macs, plain.float_macs)
    assert looped.profiled == plain.profiled


@pytest.mark.parametrize("size", [(128, 128), (5, 7)])
@pytest.mark.parametrize(("features", "blocks", "hidden"), [(64, 16, 4), (6, 2, 3)])
@pytest.mark.parametrize(("residual", "binary"), [("none", "se"), ("spatial", "spatial")])
def test_what_ptflops_counts_by_hand(size, features, blocks, hidden, residual, binary):
    """A unit's PReLU and what is in the frame; the one shared attention n n times, not n."""
    pixels, units = size[0] * size[1], 2 * blocks
    result = counted(
        size,
        features=features,
        blocks=blocks,
        attention_hidden=hidden,
        residual_attention=residual,
        binary_attention=binary,
    )
    head, tail = macs(3, features) + features, 4 * (macs(features, 3) + 3)
    prelu, leaky_relu = (units + 1) * features + 4 * features, features
    attention = {
        "none": 0,
        "se": pixels * features + 2 * features * hidden + features + hidden + hidden,
        "spatial": pixels * (features + 1),
    }
    uses = attention[residual] + attention[binary]
    binary_macs = pixels * ((units + 1) * macs(features, features) + macs(features, 4 * features))
    others = pixels * (head + tail + prelu + leaky_relu)
    convention = CONVENTIONS["ptflops"]
    assert convention.true_operations is not None
    assert convention.true_operations(result) == 2 * (others + (units + 1) * uses + binary_macs / 8)
    assert convention.operations(result) == 2 * (
        others + (units * units + 1) * uses + binary_macs / 8
    )


@pytest.mark.parametrize(
    ("operations", "decimals", "text"),
    [
        (31_680 * 57_600, 2, "1.83"),  # BBCU-M x2
        (1_374_912 * 57_600, 2, "79.20"),  # BBCU-L x4
        (321_984 * 57_600, 2, "18.55"),
        (5_952_110_592, 1, "6.0"),
        (0, 3, "0.000"),
    ],
)
def test_operations_are_rounded_as_the_paper_does(operations, decimals, text):
    assert cost.giga(operations, decimals) == text


def test_the_challenge_counts_float_macs():
    """The constant of the challenge's code, for EDSR x2 at its 96x96 pixels."""
    convention = CONVENTIONS["bsrc"]
    result = counted(convention.size, **FLOAT_EDSR)
    assert convention.operations(result) == 12_649_955_328
    assert convention.parameters is None
