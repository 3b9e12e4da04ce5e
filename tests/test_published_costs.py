"""The cost columns of the papers' tables, counted from the recipes' networks."""

import json
from functools import cache
from pathlib import Path

import pytest

from binsr_jax import cost
from binsr_jax.cost import CONVENTIONS
from binsr_jax.recipes import list_recipes

# What the papers print: operations in G and, of BBCU's, parameters in K.
PUBLISHED = {
    recipe: columns
    for recipe, *columns in map(
        str.split,
        """
        bbcu_sr:row=srresnet,scale=2                     85.43   1367
        bbcu_sr:row=srresnet_lite,scale=2                3.08    49
        bbcu_sr:row=bnn,scale=2                          18.55   225
        bbcu_sr:row=bireal,scale=2                       18.55   225
        bbcu_sr:row=bam,scale=2                          20.52   226
        bbcu_sr:row=irnet,scale=2                        18.55   225
        bbcu_sr:row=btm,scale=2                          18.55   225
        bbcu_sr:row=reactnet,scale=2                     18.55   225
        bbcu_sr:row=bbcu_m,scale=2                       1.83    46
        bbcu_sr:row=bbcu_l,scale=2                       18.55   225
        bbcu_sr:row=srresnet,scale=4                     146.14  1515
        bbcu_sr:row=srresnet_lite,scale=4                5.39    54
        bbcu_sr:row=bnn,scale=4                          79.20   372
        bbcu_sr:row=bireal,scale=4                       79.20   372
        bbcu_sr:row=bam,scale=4                          81.17   373
        bbcu_sr:row=irnet,scale=4                        79.20   372
        bbcu_sr:row=btm,scale=4                          79.20   372
        bbcu_sr:row=reactnet,scale=4                     79.20   372
        bbcu_sr:row=bbcu_m,scale=4                       3.95    51
        bbcu_sr:row=bbcu_l,scale=4                       79.20   372
        denoise:row=dncnn                                38.42   667
        denoise:row=dncnn_lite                           1.38    24
        denoise:row=bnn                                  0.80    24
        denoise:row=bireal                               0.80    24
        denoise:row=irnet                                0.80    24
        denoise:row=btm                                  0.80    24
        denoise:row=reactnet                             0.80    24
        denoise:row=bbcu                                 0.80    24
        jpeg:row=dncnn                                   38.29   665
        jpeg:row=dncnn_lite                              1.36    24
        jpeg:row=bnn                                     0.66    22
        jpeg:row=bireal                                  0.66    22
        jpeg:row=irnet                                   0.66    22
        jpeg:row=btm                                     0.66    22
        jpeg:row=reactnet                                0.66    22
        jpeg:row=bbcu                                    0.66    22
        attention:block=attention,res=none,bin=none      6.0
        attention:block=attention,res=none,bin=se        8.1
        attention:block=attention,res=se,bin=se          10.4
        attention:block=edsr,res=none,bin=none           45.1
        attention:block=base,res=none,bin=none           5.97
        attention:block=rescale_post,res=none,bin=global 8.12
        attention:block=single,res=none,bin=spatial      8.14
        attention:block=single,res=none,bin=se           8.12
        attention:block=dual,res=global,bin=spatial      10.28
        attention:block=both,res=se,bin=se               10.27
        attention:block=both,res=se,bin=spatial          10.29
        attention:block=both,res=spatial,bin=se          10.29
        attention:block=both,res=spatial,bin=spatial     10.31
        attention:block=both,res=global,bin=global       10.25
        attention:block=bbcu,res=none,bin=none           6.0
        """.strip().splitlines(),
    )
}
# What the architectures give where that is not what the papers print. SRResNet x4: its body costs
# 66.88 G more than a binary one in the rows of x2, but 66.94 G in those of x4. 10.4: two SE are
# 10.27 in the author's own later table. Of the later blocks the code was never published.
ELSEWHERE = {
    "bbcu_sr:row=srresnet,scale=4": ["146.08", "1515"],
    "attention:block=attention,res=se,bin=se": ["10.3"],
    "attention:block=base,res=none,bin=none": ["5.95"],
    "attention:block=rescale_post,res=none,bin=global": ["8.11"],
    "attention:block=single,res=none,bin=se": ["8.10"],
    "attention:block=dual,res=global,bin=spatial": ["10.29"],
    "attention:block=both,res=se,bin=se": ["10.25"],
    "attention:block=both,res=spatial,bin=spatial": ["10.32"],
    "attention:block=both,res=global,bin=global": ["10.27"],
}
RECIPES = {
    Path(recipe.file).name + recipe.spec.removeprefix(recipe.file): recipe
    for recipe in list_recipes()
}


@cache
def cost_of(name: str) -> cost.Cost:
    recipe = RECIPES[name]
    return cost.count(recipe.config, CONVENTIONS[recipe.published.convention].size)


def printed(name: str) -> list[str]:
    """Our numbers with the digits of the paper's."""
    convention = CONVENTIONS[RECIPES[name].published.convention]
    operations, *parameters = PUBLISHED[name]
    decimals = len(operations.partition(".")[2])
    texts = [cost.giga(convention.operations(cost_of(name)), decimals)]
    if parameters:
        assert convention.parameters is not None
        texts.append(f"{convention.parameters(cost_of(name)) / 1e3:.0f}")
    return texts


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_cost_columns(name):
    assert printed(name) == ELSEWHERE.get(name, PUBLISHED[name])


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_differs_differs_little(name):
    ours, papers = (float(texts[0]) for texts in (ELSEWHERE[name], PUBLISHED[name]))
    assert ours == pytest.approx(papers, rel=0.01)


def test_recipes_hold_what_the_papers_print():
    for name, recipe in RECIPES.items():
        numbers = (recipe.published.operations, recipe.published.parameters)
        assert [n for n in numbers if n is not None] == list(map(float, PUBLISHED.get(name, ())))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_counted(name):
    result = cost_of(name)
    model = RECIPES[name].config.model
    binary = model.name not in ("rrdbnet", "srvgg") and model.unit not in ("residual", "float")
    assert (result.binary_macs > 0) == (result.binary_parameters > 0) == binary
    assert result.elementwise > 0
    assert result.activation_bytes > 0


@pytest.mark.parametrize(
    ("reference", "name", "scales"),
    [
        ("bbcul_x2", "bbcu_sr:row=bbcu_l,scale=2", 32 * 64),
        ("bbcul_x4", "bbcu_sr:row=bbcu_l,scale=4", 32 * 64),
        ("bbcum_x2", "bbcu_sr:row=bbcu_m,scale=2", 33 * 64 + 256),
        ("bbcum_x4", "bbcu_sr:row=bbcu_m,scale=4", 33 * 64 + 2 * 256),
        ("denoise_colour_nb20", "denoise:row=bbcu", 18 * 64),
        ("jpeg_grey_nb20", "jpeg:row=bbcu", 18 * 64),
        ("ovch_BinEDSR_x2", "attention:block=attention,res=none,bin=none", 33 * 64 + 256),
        ("ovch_EDSR_x2", "attention:block=edsr,res=none,bin=none", 0),
    ],
)
def test_parameters_of_the_papers_networks(reference, name, scales, reference_dir):
    """Beside the parameters of the papers' code, a packed network has the scales of its weights."""
    path = reference_dir / "5_parameter_counts.json"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    counts = json.loads(path.read_text())[reference]
    result = cost_of(name)
    assert result.float_parameters - scales == counts["all"] - result.binary_parameters
    assert result.binary_parameters == counts.get("binary", result.binary_parameters)
