"""`python -m lit_cascade` is `lit-cascade`."""

import sys

from lit_cascade.cli import main

if __name__ == "__main__":
    sys.exit(main())
