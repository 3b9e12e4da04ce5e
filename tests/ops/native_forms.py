"""The native forms that this machine can run, for the tests of each."""

import pytest

from binsr_jax.ops.native import choose

FORMS = choose.forms()
needs_native = pytest.mark.skipif(not FORMS, reason="no native form can be made here")
needs_each = pytest.mark.parametrize("form", FORMS)
