"""`python -m esrt` is the `esrt` command."""

from esrt.cli.main import entry

if __name__ == "__main__":
    entry()
