"""`python -m penguins.keys` is `python -m penguins.api_keys` now."""

import sys

if __name__ == "__main__":
    sys.exit(f"This command is called `python -m penguins.api_keys {' '.join(sys.argv[1:])}` now.")
