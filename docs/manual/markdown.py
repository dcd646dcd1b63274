"""Docstrings as Markdown reads them."""

import re

EXAMPLE = re.compile(r"(?:^[ ]*(?:>>>|\.\.\.) ?.*\n?)+", re.M)


def fenced(text: str) -> str:
    """A docstring in which lines that begin with ">>>" or "..." stand in a fence, without these signs."""
    return EXAMPLE.sub(
        lambda found: f"\n```python\n{re.sub(r'(?m)^ *(>>>|[.]{3}) ?', '', found[0]).strip()}\n```\n", text
    )


def with_blocks(text: str) -> str:
    """A docstring in which indented tables become blocks, where Markdown would join their lines."""
    return re.sub(r"(?m)^ {2,3}(?=\S)", "    ", text)


def with_links(text: str, up: str) -> str:
    """A text in which docs/data.md is a link to that page, `up` the way to the pages of docs/."""
    return re.sub(r"docs/(\w+)\.md", rf"[\1]({up}\1.md)", text)
