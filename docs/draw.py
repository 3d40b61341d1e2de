"""Draw who teaches whom for every method, from what the methods say of themselves.

python docs/draw.py                    # writes docs/teaching/METHOD.svg
"""

from pathlib import Path

from coterie.files import write_text
from coterie.methods import METHODS
from coterie.reports.teaching import teaching

PICTURES = Path(__file__).parent / "teaching"


def main() -> None:
    """One picture for each method in which somebody teaches."""
    for name, method in METHODS.items():
        edges = method().teaching()
        if edges and name != "online":
            svg = teaching(edges, f"Who teaches whom in {name}")
            head, _, rest = svg.partition(">")
            # A file of its own has no page whose colours it could take.
            write_text(PICTURES / f"{name}.svg", f'{head} color="#57606a" style="background:none">{rest}\n')


if __name__ == "__main__":
    main()
