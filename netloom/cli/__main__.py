"""`python -m netloom.cli`: how a supervisor starts its roles, whatever PATH holds."""

import sys

from netloom.cli import main

if __name__ == "__main__":
    sys.exit(main())
