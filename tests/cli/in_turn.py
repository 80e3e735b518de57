"""Commands, one after the other in this process: see runs."""

import json
import sys

from lit_cascade.cli import main

if __name__ == "__main__":
    for words in json.loads(sys.argv[1]):
        sys.argv = ["lit-cascade"]
        if main(words) != 0:
            sys.exit(f"failed: {words}")
