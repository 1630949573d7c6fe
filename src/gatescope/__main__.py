"""`python -m gatescope` is the command line."""

from gatescope.cli import main

main()
