"""Hook of mkdocs: puts files outside docs/ that the pages link to on the site, and mends the links.

The pages are written for a checkout: README.md links to ``docs/cem.md``, and that to
``../examples/own_robot.py``. On the site README.md is the first page. Other Markdown becomes a page of its
own; a text file or a folder that is linked becomes a page that shows it; any other file is copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".xml": "xml", "": "text"}
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def place(path: Path) -> str:
    """Where a file or folder of the checkout lies on the site, as a path below its root.

    Args:
        path: absolute path within the checkout.
    """
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return PAGES[name]
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"source/{name}.md" if path.is_dir() or path.suffix in LANGUAGES else f"source/{name}"


def links(text: str, source: Path) -> dict[str, Path]:
    """The relative links of a page outside its code: as written, and the path of the checkout they lead to.

    Args:
        text: the page in Markdown.
        source: absolute path of the page in the checkout.
    """
    written = [match[2] for match in _LINK.finditer(_FENCE.sub("", text))]
    local = {link for link in written if not re.match(r"[a-z]+:|#", link)}
    return {link: (source.parent / link.partition("#")[0]).resolve() for link in local}


def mended(text: str, source: Path, at: str) -> str:
    """A page whose links lead to places on the site.

    Args:
        text: the page in Markdown.
        source: absolute path of the page in the checkout.
        at: place of the page on the site.
    """
    targets = links(text, source)

    def mend(match: re.Match[str]) -> str:
        target = targets.get(match[2])
        # a link that leads nowhere stays as it is: mkdocs reports it
        if target is None or not target.exists():
            return match[0]
        anchor = match[2].partition("#")[1:]
        return match[1] + os.path.relpath(place(target), os.path.dirname(at)) + "".join(anchor) + match[3]

    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(mend, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(mend, text[end:])])


def shown(path: Path) -> str:
    """The page of a file or folder outside docs/: Markdown as it is, a list of files, or the text."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        known = {*LANGUAGES, ".json"}
        files = sorted(file.name for file in path.iterdir() if file.is_file() and file.suffix in known)
        return "\n".join([f"# `{name}/`", "", *(f"- [`{file}`]({file})" for file in files), ""])
    text = path.read_text()
    if path.suffix == ".md":
        return text
    return f"# `{name}`\n\n````{LANGUAGES[path.suffix]}\n{text.rstrip()}\n````\n"


def collect() -> dict[Path, str | None]:
    """Every file and folder outside docs/ that belongs on the site: its page, or None for a file to copy."""
    found: dict[Path, str | None] = {}
    waiting = [ROOT / name for name in PAGES]
    waiting += [path for page in DOCS.rglob("*.md") for path in links(page.read_text(), page).values()]
    while waiting:
        path = waiting.pop()
        if path in found or not path.exists() or path.is_relative_to(DOCS):
            continue
        if not place(path).endswith(".md"):
            found[path] = None
            continue
        at, page = path / "index.md" if path.is_dir() else path, shown(path)
        waiting += links(page, at).values()
        found[path] = mended(page, at, place(path))
    return found


def on_files(files: Any, config: Any) -> Any:
    """Adds the files outside docs/; mkdocs calls this with those below docs/."""
    from mkdocs.structure.files import File

    for path, page in collect().items():
        content = {"abs_src_path": str(path)} if page is None else {"content": page}
        files.append(File.generated(config, place(path), **content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Mapping[str, Any], files: Any) -> str:
    """Mends the links of a page of docs/; mkdocs calls this with every page."""
    source = DOCS / page.file.src_uri
    return mended(markdown, source, page.file.src_uri) if source.is_file() else markdown
