"""What a run found, as one self-contained HTML page, figures and CSV files; and several runs side by side.

    numbers (effects, found)  ->  page.html, figures (PNG, SVG), tables (CSV)

The page opens from disk and makes no network requests. Everything on it is computed from the run directory alone, and
from the files of the pictures, of which a run keeps the paths.
"""

from gatescope.reports.compare import compare
from gatescope.reports.page import report

__all__ = ["compare", "report"]
