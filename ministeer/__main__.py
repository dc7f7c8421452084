"""`python -m ministeer` is the `ministeer` command."""

from ministeer.cli import main

if __name__ == "__main__":
    main()
