"""Train organisms again, or list those there are; see `prepare`."""

import sys

from gatescope.organism.prepare import main

if __name__ == "__main__":
    sys.exit(main())
