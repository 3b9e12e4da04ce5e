"""Measures every packaged network and writes binsr_jax/pretrained/times.json.

    python benchmarks/packaged.py "two cores of a 2.3 GHz server CPU with AVX-512"

The argument describes the machine, which should be idle.
"""

import json
import sys

from binsr_jax.deploy.cards import TIMES, seconds_per_megapixel
from binsr_jax.pretrained import NETWORKS


def main() -> None:
    """Measures and writes."""
    if len(sys.argv) != 2:
        sys.exit("Say what machine this is, as the one argument.")
    seconds = {
        name: round(seconds_per_megapixel(name), 3)
        for name, network in NETWORKS.items()
        if network.there
    }
    content = {"machine": sys.argv[1], "seconds_per_megapixel": seconds}
    TIMES.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(TIMES.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
