"""`python -m fastkv.cli.manual`: write the generated pages of the repository anew. `scripts/docs.sh update` is this."""

from __future__ import annotations

from pathlib import Path

from fastkv.cli import cli
from fastkv.cli.manual.configuration import rewritten
from fastkv.cli.manual.described import commands
from fastkv.cli.manual.markdown import markdown_page

DOCS = Path(__file__).parents[3] / "docs"


def main() -> None:
    """Write docs/cli.md, and the tables of docs/configuration.md."""
    (DOCS / "cli.md").write_text(markdown_page(commands(cli)))
    settings = DOCS / "configuration.md"
    settings.write_text(rewritten(settings.read_text()))


if __name__ == "__main__":
    main()
