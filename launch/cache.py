#!/usr/bin/env python3
"""Write a reference cache on as many ranks as a launcher starts: `sparsepo cache` for references that need sharding."""

import sys

from sparsepo_dist.commands.cache import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
