"""``python -m windvane`` and ``accelerate launch -m windvane``."""

from windvane.cli import main

if __name__ == "__main__":
    main()
