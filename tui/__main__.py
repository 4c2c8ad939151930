"""`portal-tui`: reserved name; the dashboard is not built yet and this says so."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the console script."""
    sys.stderr.write("portal-tui: the dashboard does not exist yet in this version\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
