"""The `ministeer` command's way in. It stands beside the package, as importing that takes seconds of torch, in which Ctrl-C would
print a traceback."""

import sys


def main() -> None:
    try:
        from ministeer.cli import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)
