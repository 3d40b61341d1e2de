"""Draws the studies' pages from their committed results: ``python docs/build_studies.py OUT_DIR``.

The documentation site holds them as ``studies/NAME.html``; generated pages are not kept in the repository.
"""

import sys
from pathlib import Path

from coterie.reports.studies.page import read_measured, report_studies

RESULTS = Path(__file__).parent / "results"


def build_studies(out: Path) -> list[Path]:
    """Write a page for each study of the package whose results are committed; replaces older ones.

    Args:
        out: The folder, made where missing.

    Returns:
        The pages.
    """
    names = [path.stem for path in sorted(RESULTS.glob("*.json")) if not path.stem.startswith("backbones")]
    return [report_studies([read_measured(RESULTS / f"{name}.json")], out / f"{name}.html") for name in names]


if __name__ == "__main__":
    for page in build_studies(Path(sys.argv[1])):
        print(page)
