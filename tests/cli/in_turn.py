"""Run commands one after the other: python -m tests.cli.in_turn JSON, a list of their words."""

import json
import sys

from lit_cascade.cli import main

if __name__ == "__main__":
    for words in json.loads(sys.argv[1]):
        sys.argv = ["lit-cascade"]
        if main(words) != 0:
            sys.exit(f"failed: {words}")
