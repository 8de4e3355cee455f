"""`python -m swarmsh`."""

from swarmsh.cli import main

if __name__ == "__main__":
    main()
