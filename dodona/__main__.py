"""`python -m dodona`."""

import sys

from dodona.cli import main

if __name__ == "__main__":
    sys.exit(main())
