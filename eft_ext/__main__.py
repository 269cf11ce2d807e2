"""The command line `eft`, also `python -m eft_ext`."""

import sys

from eft_ext import _interrupt
from eft_ext._extras import MissingExtra, needs


def main() -> int:
    """Run the command line, or say in one line what it needs."""
    _interrupt.watch()
    try:
        with needs("the command line", "cli"):
            from eft_ext import cli
    except MissingExtra as error:
        print(f"eft: {error}", file=sys.stderr)
        return 1
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
