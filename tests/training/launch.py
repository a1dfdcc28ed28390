"""`python tests/training/launch.py ...` is `comodal ...` with the method of two stages of the tests."""

from __future__ import annotations

import sys

from tests.training.fakes import register

from comodal.cli.main import main

if __name__ == "__main__":
    register("tests.training.fakes")
    sys.exit(main())
