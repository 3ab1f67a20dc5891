"""What a study found, shown: the verdict in words, tables, figures, one HTML file. No mathematics.

`figures` (matplotlib) and `text` (rich) are imported where they are used.
"""

from .html import write_report
from .verdict import Verdict, verdict

__all__ = ["Verdict", "verdict", "write_report"]
