"""Train every organism that is not in the cache yet."""

from gatescope.organism.prepare import main

if __name__ == "__main__":
    main()
