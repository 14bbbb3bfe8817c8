"""``python -m serkd.bench NAME ...``: one measurement, on this machine."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from serkd.errors import InputError

_NAMES = ("extract", "kmeans", "meta", "sharing", "stream", "student", "sweep", "teacher")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; 0 done, 2 the user's input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m serkd.bench", description=__doc__)
    parser.add_argument("name", choices=_NAMES, help="what is measured; each has --help of its own")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its options")
    chosen = parser.parse_args(arguments)
    # lazily: each imports what it measures
    bench = importlib.import_module(f"serkd.bench.{chosen.name}")
    try:
        bench.main(chosen.rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
