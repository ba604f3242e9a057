"""The command line: the only place where strings become objects."""

from bibench.cli import deploy, run, show
from bibench.cli.app import app

__all__ = ["app", "deploy", "main", "run", "show"]


def main() -> None:
    """The command ``bibench``."""
    app()
