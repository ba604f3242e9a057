"""What a person reads: tables for the terminal, plots, and one self-contained HTML page."""

from bibench.report.html import Meta, write_report
from bibench.report.tables import print_plainly, print_tables

__all__ = ["Meta", "print_plainly", "print_tables", "write_report"]
