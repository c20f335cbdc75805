"""Writes docs/tutorial.ipynb from docs/tutorial.md, or runs the tutorial's code without Jupyter.

    python docs/tools/notebook.py                  # writes the notebook
    python docs/tools/notebook.py --run            # runs all code in the current folder, printing as it goes

The Markdown page is the only source. Its Python blocks become code cells, all else Markdown cells.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "tutorial.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
_BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def cells(page: str) -> list[tuple[str, str]]:
    """A page's cells in order, as (kind, text): kind is "code" or "markdown".

    Args:
        page: the text in Markdown.
    """
    parts = _BLOCK.split(page)  # text, code, text, code, ..., text
    kinds = ["markdown", "code"] * len(parts)
    return [(kind, part.strip("\n")) for kind, part in zip(kinds, parts, strict=False) if part.strip()]


def notebook(page: str) -> str:
    """The notebook of a page, as the text of an .ipynb file without outputs (format 4.5)."""
    made: list[dict[str, Any]] = []
    for number, (kind, text) in enumerate(cells(page)):
        lines = text.splitlines(keepends=True)
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": made,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def run(text: str) -> dict[str, Any]:
    """Runs the code cells of a notebook in the current folder, in one namespace, which is returned.

    Args:
        text: of the .ipynb file.
    """
    names: dict[str, Any] = {"__name__": "tutorial"}
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, {cell['id']}", "exec"), names)
    return names


def main() -> int:
    """Writes the notebook, or runs it."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--run", action="store_true", help="run the tutorial's code in the current folder")
    if parser.parse_args().run:
        run(NOTEBOOK.read_text())
    else:
        NOTEBOOK.write_text(notebook(PAGE.read_text()))
        print(f"wrote {NOTEBOOK}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
