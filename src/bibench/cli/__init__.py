"""The command line: the only place where strings become objects."""

from bibench.cli import deploy, detect, measure, run, show, status
from bibench.cli.app import app

__all__ = ["app", "deploy", "detect", "main", "measure", "run", "show", "status"]


def main() -> None:
    """The command ``bibench``."""
    app()
