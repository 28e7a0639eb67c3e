"""`python -m v6kit`: the same as the command `v6kit`."""

from v6kit.cli import main

if __name__ == "__main__":
    main()
