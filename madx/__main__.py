"""`python -m madx`: the same as the console script, for torchrun and for environments without scripts."""

from madx.cli import main

if __name__ == "__main__":
    main()
