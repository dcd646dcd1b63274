"""Examples of docstrings as blocks of code, which Markdown would take for quotations: an extension of mkdocstrings."""

import griffe

from docs.manual.markdown import fenced


class DocstringExamples(griffe.Extension):
    """Puts examples into fences in all docstrings."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
