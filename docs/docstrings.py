"""Reads docstrings for the reference: what Sphinx calls a role becomes a link, where the reference has its target."""

import re
from typing import Any

import griffe

ROLE = r":(?:class|data|func|meth|mod):`~?([\w.]+)`"


class Roles(griffe.Extension):
    """Turns ``:class:`~coterie.outputs.Batch``` into a link that reads ``Batch``."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = re.sub(ROLE, lambda role: link(role[1], obj), obj.docstring.value)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.M)


def link(target: str, obj: griffe.Object) -> str:
    """A link to a name in full; no link, and no error, where the reference has no such name."""
    path = target if target.startswith("coterie.") else f"{obj.module.path}.{target}"
    return f'<autoref optional identifier="{path}"><code>{target.rpartition(".")[2]}</code></autoref>'
