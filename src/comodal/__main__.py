"""`python -m comodal` is the command `comodal`."""

from __future__ import annotations

import sys

from comodal.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
