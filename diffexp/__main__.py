"""``python -m diffexp``."""

from diffexp.cli.main import main

if __name__ == "__main__":
    main()
