"""The command line: the only place where strings become objects."""

from bibench.cli import deploy, detect, measure, run, show
from bibench.cli.app import app

__all__ = ["app", "deploy", "detect", "main", "measure", "run", "show"]


def main() -> None:
    """The command ``bibench``."""
    app()
