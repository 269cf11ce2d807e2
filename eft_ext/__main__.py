"""`python -m eft_ext` is the command line `eft`."""

import sys

from eft_ext.cli import main

sys.exit(main())
