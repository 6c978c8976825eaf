"""`thg-proxy schema`: JSON Schema of the configuration, with which editors complete and check it."""

import json
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
import msgspec

from proxy.secret import SecretRef
from proxy.settings import Address, Duration, Settings, Size

_Schema = dict[str, Any]

_TEXT = {"type": "string", "minLength": 1}
_DEFINITIONS: dict[Any, _Schema] = {
    Duration: {"type": ["string", "number"], "minimum": 0, "pattern": f"^(?:{Duration.pattern})$"},
    Size: {"type": ["string", "integer"], "minimum": 0, "pattern": f"^(?:{Size.pattern})$"},
    Address: {"type": "string", "pattern": f"^(?:{Address.pattern})$"},
    SecretRef: {
        "type": ["object", "string", "number"],
        "properties": {
            "env": _TEXT,
            "file": _TEXT,
            "keyring": {"type": "string", "pattern": f"^{SecretRef.entry_pattern}$"},
        },
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
        "minLength": 1,
    },
}
_TYPES: dict[Any, _Schema] = {
    # Where text is wanted, the configuration takes 7 and true for text.
    str: {"type": ["string", "number", "boolean"]},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    NoneType: {"type": "null"},
}


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    click.echo(json.dumps(_document(), indent=2))


def _document() -> _Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of thg-proxy",
        **_section(Settings),
        "$defs": {kind.__name__: {"description": kind.form, **each} for kind, each in _DEFINITIONS.items()},
    }


def _section(kind: type[msgspec.Struct]) -> _Schema:
    fields = msgspec.structs.fields(kind)
    required = [field.name for field in fields if field.required]
    return {
        # A section with nothing below it, which is null in YAML, is all defaults.
        "type": "object" if required else ["object", "null"],
        "properties": {field.name: {**_value(field.type), **_default(field)} for field in fields},
        "required": required,
        "additionalProperties": False,
    }


def _value(kind: Any) -> _Schema:
    if get_origin(kind) in (Union, UnionType):
        return {"anyOf": [_value(option) for option in get_args(kind)]}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is dict:
        return {"type": ["object", "null"], "additionalProperties": _value(get_args(kind)[1])}
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _value(get_args(kind)[0])}
    if kind in _DEFINITIONS:
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return _TYPES[kind] if kind in _TYPES else _section(kind)


def _default(field: msgspec.structs.FieldInfo) -> _Schema:
    """Nothing for a section, whose keys have their own."""
    if field.required:
        return {}
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return {} if isinstance(default, msgspec.Struct) else {"default": _written(default)}


def _written(value: Any) -> Any:
    """As it stands in a file."""
    match value:
        case SecretRef():
            return {value.kind: value.source}
        case Duration() | Size() | Address():
            return str(value)
        case tuple():
            return [_written(item) for item in value]
        case msgspec.Struct():
            return {name: _written(getattr(value, name)) for name in value.__struct_fields__}
    return value
