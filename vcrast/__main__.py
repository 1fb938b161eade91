"""`python -m vcrast` is the `vcrast` command."""

import sys

from vcrast.cli.main import main

sys.exit(main())
