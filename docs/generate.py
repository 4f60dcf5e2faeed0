"""Write the reference pages from the code: `python docs/generate.py`. A test compares what is committed with this.

settings.md    every setting (service/settings.py)
metrics.md     every metric with type and labels (service/observe/metrics.py, service/feedback/drift.py)
reference.md   every route and every field (the OpenAPI document, service/admission/access.py)
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from service.admission.access import ROUTES  # noqa: E402
from service.app import create_app  # noqa: E402
from service.feedback.drift import Drift, DriftCollector  # noqa: E402
from service.observe.metrics import Metrics  # noqa: E402
from service.settings import PREFIX, READ_ELSEWHERE, Settings  # noqa: E402

_MADE = "<!-- Made by `python docs/generate.py`; change the code, not this page. -->"


def settings_page() -> str:
    """Every field of `Settings`, then what others read."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None else f"`{default}`"
        rows.append(f"| `{PREFIX + name.upper()}` | {shown} | {field.description} |")
    rows += [f"| `{name}` |  | {text} |" for name, text in READ_ELSEWHERE.items()]
    head = (
        "Environment variables, or lines of a `.env` file in the working directory; `python -m service --help` prints "
        "the same list. An unknown `HGUARD_` name or a wrong value ends the start with exit code 2 and one line."
    )
    return _page("Settings", head, "| variable | default | |\n|---|---|---|", *rows)


def metrics_page() -> str:
    """Every family of the registry."""
    metrics = Metrics()
    metrics.registry.register(DriftCollector(Drift(lambda: None, 1000)))
    rows = []
    for collector in metrics.registry._collector_to_names:  # there is no public list
        for family in collector.describe() if hasattr(collector, "describe") else ():
            labels = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
            name = family.name + ("_total" if family.type == "counter" else "")
            shown = ", ".join(f"`{label}`" for label in labels)
            rows.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    head = (
        "What `GET /metrics` has, beside `process_*` of the Prometheus client. [api.md](api.md) says what the labels "
        "hold and which of them are worth an alert."
    )
    return _page("Metrics", head, "| metric | type | labels | |\n|---|---|---|---|", *sorted(rows))


def reference_page() -> str:
    """Routes in the order of the table of access, then the schemas that they name."""
    settings = Settings(_env_file=None, engine="fake", feedback_url="off")  # type: ignore[call-arg]
    document = create_app(settings).openapi()
    head = (
        "Every route with the key that it needs and every field, from the OpenAPI document that a running server has "
        "at `/openapi.json`. [api.md](api.md) says what the fields mean together."
    )
    operations = [
        _route(route, need, document["paths"][path][method.lower()])
        for route, need in ROUTES.items()
        for method, path in [route.split(" ", 1)]
        if path in document["paths"]
    ]
    schemas = [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return _page("HTTP reference", head, *operations, "## Schemas\n", *schemas)


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "reference.md": reference_page,
}


def main() -> None:
    """Write all of them."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")


def _page(title: str, head: str, *parts: str) -> str:
    return "\n".join([_MADE, "", f"# {title}", "", head, "", *parts]).rstrip() + "\n"


def _route(route: str, need: str, operation: dict[str, Any]) -> str:
    keys = {"public": "no key", "any": "any key"}.get(need, f"a key with the scope `{need}`")
    lines = [f"## {route}", "", operation.get("description") or operation.get("summary", ""), "", f"- needs {keys}"]
    if "requestBody" in operation:
        lines.append(f"- body: {_type(operation['requestBody']['content']['application/json']['schema'])}")
    errors = []
    for status, response in sorted(operation["responses"].items()):
        kinds = response.get("content", {})
        shown = _type(kinds.get("application/json", {}).get("schema", {"type": "text"}))
        words = "" if response["description"] == "Successful Response" else f" ({response['description']})"
        if "ErrorResponse" in shown:
            errors.append(status + words)
        else:
            lines.append(f"- {status}: {shown}{words}")
    if errors:
        lines.append(f"- [ErrorResponse](#errorresponse): {', '.join(errors)}")
    return "\n".join([*lines, ""])


def _schema(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### {name}", "", schema.get("description", ""), ""]
    if "enum" in schema:
        lines.append(_type(schema))
    elif "properties" in schema:
        required = schema.get("required", ())
        lines += ["| field | type | default | |", "|---|---|---|---|"]
        for field, part in schema["properties"].items():
            default = (
                "required" if field in required else f"`{json.dumps(part['default'])}`" if "default" in part else ""
            )
            words = " ".join(part.get("description", "").split())
            lines.append(f"| `{field}` | {_type(part)} | {default} | {_cell(words)} |")
    return "\n".join([*lines, ""])


_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "over {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "under {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}


def _type(schema: dict[str, Any]) -> str:
    """In words, with its limits; a named schema as a link."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema and "type" not in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[union]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list of {_type(schema.get('items', {}))}"
    limits = [words.format(schema[name]) for name, words in _LIMITS.items() if name in schema]
    return f"{kind} ({', '.join(limits)})" if limits else kind


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
