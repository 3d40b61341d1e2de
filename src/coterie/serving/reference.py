"""The OpenAPI page: every address, read from the application's own schema, with nothing fetched from elsewhere."""

from collections.abc import Mapping
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>coterie serve: addresses</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }}
h2 {{ margin: 2rem 0 .3rem; font-size: 1.1rem }}
code {{ font-size: .95em; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; width: 100% }}
td {{ border-top: 1px solid #8886; padding: .35rem .8rem .35rem 0; vertical-align: top }}
td:first-child {{ width: 7rem; white-space: nowrap }}
</style>
<h1>{title} {version}</h1>
<p>{about}</p>
<p>The schema itself, for tools that make clients: <a href="openapi.json">openapi.json</a>.
<a href="./">A page to drop images on</a>.</p>
{addresses}
<h1>Forms</h1>
{forms}
</html>
"""


def reference_page(schema: Mapping[str, Any]) -> str:
    """The page of a schema of OpenAPI."""
    addresses = [
        _address(f"{verb.upper()} {path}", operation)
        for path, operations in schema["paths"].items()
        for verb, operation in operations.items()
    ]
    forms = [
        _section(name, form.get("description", ""), [(field, _words(of)) for field, of in form["properties"].items()])
        for name, form in schema["components"]["schemas"].items()
        if "properties" in form and name not in ("HTTPValidationError", "ValidationError")
    ]
    info = schema["info"]
    return _PAGE.format(
        title=escape(info["title"]),
        version=escape(info["version"]),
        about=escape(info["description"]),
        addresses="\n".join(addresses),
        forms="\n".join(forms),
    )


def _address(name: str, operation: Mapping[str, Any]) -> str:
    rows = [(f"?{of['name']}=", _words({**of["schema"], **of})) for of in operation.get("parameters", [])]
    rows += [("body", ", or ".join(body)) for body in [operation.get("requestBody", {}).get("content")] if body]
    for status, response in operation["responses"].items():
        if status == "422":  # FastAPI's own, which is answered as 400 here
            continue
        form = response.get("content", {}).get("application/json", {}).get("schema", {})
        what = "" if status == "200" else response["description"]
        rows.append((status, " ".join(filter(None, (what, f"({_kind(form)})")))))
    return _section(name, operation.get("description", ""), rows)


def _section(name: str, about: str, rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td><code>{escape(left)}</code><td>{escape(right)}" for left, right in rows)
    return f"<h2><code>{escape(name)}</code></h2>\n<p>{escape(about)}</p>\n<table>{cells}</table>"


def _words(of: Mapping[str, Any]) -> str:
    default = f"; {str(of['default']).lower()} where it is left out" if of.get("default") is not None else ""
    return f"{_kind(of)}: {of['description']}{default}" if "description" in of else _kind(of) + default


def _kind(of: Mapping[str, Any]) -> str:
    """A type for people: ``list of Likely``."""
    if "$ref" in of:
        return str(of["$ref"].rpartition("/")[2])
    if "anyOf" in of:
        return " or ".join(map(_kind, of["anyOf"]))
    if of.get("type") == "array":
        return f"list of {_kind(of['items'])}" if "items" in of else f"{of.get('maxItems', '')} values".strip()
    if of.get("type") == "object":
        return f"{_kind(of['additionalProperties'])} by name" if "additionalProperties" in of else "object"
    return str(of.get("type", "any"))
