"""What a run found, as one self-contained HTML page, figures and CSV files; and several runs side by side.

    numbers (effects, found)  ->  page.html, figures (PNG, SVG), tables (CSV)

The page opens from disk and asks the network for nothing. Everything on it is computed from the run directory alone,
but for pictures and questions, which a run does not hold: give the examples to have them shown.
"""

from gatescope.reports.compare import compare
from gatescope.reports.page import report

__all__ = ["compare", "report"]
