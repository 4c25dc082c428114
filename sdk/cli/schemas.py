"""JSON Schemas for people: the fields of an input or of parameters as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text


def is_base64(form: Mapping[str, Any]) -> bool:
    """Whether a field's schema asks for bytes, which JSON has as base64."""
    return "base64" in (form.get("contentEncoding"), form.get("format")) or form.get("format") == "binary"


def forms_of(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The field's own schema and those that it may be instead; `schema` is the whole, which references point into."""
    yield field
    for part in (*field.get("anyOf", ()), *field.get("oneOf", ()), *field.get("allOf", ())):
        yield from forms_of(part, schema)
    reference = str(field.get("$ref", ""))
    if reference.startswith("#/$defs/"):
        yield from forms_of(schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {}), schema)


def fields_table(title: str, schema: Mapping[str, Any]) -> Table:
    """One row for each field: its name, what it may be, and what it is if it is left out."""
    table = Table(title, "what it is", "left out", box=box.SIMPLE_HEAD)
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else json.dumps(field.get("default"), ensure_ascii=False)
        described = Text(type_in_words(field, schema))
        if "description" in field:
            described.append(f"\n{field['description']}", style="dim")
        table.add_row(name, described, Text("" if default == "null" else default))
    return table


def type_in_words(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """
    >>> type_in_words({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]}, {})
    'number, from 0 to 1'
    >>> type_in_words({"type": "array", "items": {"type": "string"}, "maxItems": 9}, {})
    'list of texts, at most 9'
    """
    words = dict.fromkeys(_words(form, schema) for form in forms_of(field, schema))
    return " or ".join(word for word in words if word) or "anything"


def _words(form: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "enum" in form or "const" in form:
        return "one of " + ", ".join(str(value) for value in form.get("enum", [form.get("const")]))
    if is_base64(form):
        return "bytes (base64 in JSON)"
    match form.get("type"):
        case "string":
            words = "text" + (f", at most {form['maxLength']:,} characters" if "maxLength" in form else "")
        case "integer":
            words = "whole number" + _range(form)
        case "number":
            words = "number" + _range(form)
        case "boolean":
            words = "true or false"
        case "array":
            item = type_in_words(form.get("items", {}), schema)
            words = f"list of {'texts' if item.startswith('text') else item}"
            words += f", at most {form['maxItems']:,}" if "maxItems" in form else ""
        case "object":
            value = form.get("additionalProperties")
            words = "object" + (f" of {type_in_words(value, schema)}" if isinstance(value, Mapping) else "")
        case _:
            words = ""
    return words


def _range(form: Mapping[str, Any]) -> str:
    low, high = form.get("minimum", form.get("exclusiveMinimum")), form.get("maximum", form.get("exclusiveMaximum"))
    if low is not None and high is not None:
        return f", from {low:g} to {high:g}"
    return f", at least {low:g}" if low is not None else f", at most {high:g}" if high is not None else ""
