"""What the documentation site shows and the code says: MkDocs runs this hook while it builds the site.

Drawings and help texts are made in memory, so that nothing generated lies in the repository and nothing can be out of
date. A page asks for them by a line of its own:

    <!-- coterie train --help -->         what the command prints
    <!-- the options of every method -->  of each method its part of `coterie train --method NAME --help`

The drawing of who teaches whom stands beside each method's page, as ``methods/NAME.svg``, and the studies' pages are
``studies/NAME.html``.
"""

import io
import os
import re
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from build_studies import build_studies
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from coterie.cli import main
from coterie.methods import METHODS
from coterie.reports.drawing.teaching import draw_teaching


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a drawing for each method in which somebody teaches, and a page for each study with results."""
    for name, method in METHODS.own.items():
        if edges := method().teaching():
            svg = draw_teaching(edges, f"Who teaches whom in {name}")
            head, _, rest = svg.partition(">")
            # An image in a page does not take the page's colours; this grey can be read on light and on dark.
            drawing = f'{head} color="#768390" style="background:none">{rest}'
            files.append(File.generated(config, f"methods/{name}.svg", content=drawing))
    with TemporaryDirectory() as folder:
        for page in build_studies(Path(folder)):
            content = page.read_text(encoding="utf-8")
            files.append(File.generated(config, f"studies/{page.name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what the commands print where a page asks for it."""
    markdown = re.sub(r"^<!-- (coterie .*) -->$", lambda command: as_block(help_of(command[1])), markdown, flags=re.M)
    return re.sub(r"^<!-- the options of every method -->$", lambda _: options_of_methods(), markdown, flags=re.M)


@cache
def help_of(command: str) -> str:
    """What a ``coterie …`` command prints."""
    os.environ["COLUMNS"] = "100"
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            main(command.split()[1:])
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"`{command}` ends with {end.code}") from end
    return printed.getvalue()


def options_of_methods() -> str:
    """A section for each method: its options alone, which stand in one group of the command's help."""
    sections = []
    for name in METHODS.own:
        groups = help_of(f"coterie train --method {name} --help").split("\n\n")
        group = next(group for group in groups if re.search(r"^  --method\.\w", group, flags=re.M))
        sections.append(f"### `--method {name}` {{ #method-{name} }}\n\n{as_block(group)}")
    return "\n\n".join(sections)


def as_block(text: str) -> str:
    """A text as a block that is shown as it is."""
    return f"```text\n{text.strip()}\n```"
