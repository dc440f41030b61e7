"""``python -m diffexp``."""

from diffexp.cli import main

if __name__ == "__main__":
    main()
