"""The schema of the service file has the keys of its reader, no other, and lets good files pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisor.core.file.problems import Section
from supervisor.core.schema import SECTIONS, WORDS, make_schema
from tests.core.test_spec_contract import contract_keys

CONFIGS = Path(__file__).parents[2] / "configs"
SCHEMA = make_schema()


def complaints(value: Any, schema: dict[str, Any], path: str = "$") -> list[str]:
    """What a value breaks of a schema, for the words of JSON Schema that ours has."""
    if "$ref" in schema:
        return complaints(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], path)
    if "anyOf" in schema and all(complaints(value, one, path) for one in schema["anyOf"]):
        return [f"{path}: none of {len(schema['anyOf'])}"]
    if "const" in schema and value != schema["const"]:
        return [f"{path}: not {schema['const']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: not one of {schema['enum']}"]
    types = schema.get("type", [])
    if types and not set(kinds(value)) & set([types] if isinstance(types, str) else types):
        return [f"{path}: not {types}"]
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        return [f"{path}: does not match {schema['pattern']}"]
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return [f"{path}: out of range"]
    if isinstance(value, list):
        found = [one for item in value for one in complaints(item, schema.get("items", {}), f"{path}[]")]
        return found + ([f"{path}: too short"] if len(value) < schema.get("minItems", 0) else [])
    return members(value, schema, path) if isinstance(value, dict) else []


def members(value: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
    found = [f"{path}.{key}: missing" for key in schema.get("required", []) if key not in value]
    for key, item in value.items():
        inner = [one for pattern, one in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
        inner += [schema["properties"][key]] if key in schema.get("properties", {}) else []
        rest = schema.get("additionalProperties", True)
        if not inner and rest is False:
            found.append(f"{path}.{key}: unknown")
        inner += [rest] if not inner and isinstance(rest, dict) else []
        found += [one for part in inner for one in complaints(item, part, f"{path}.{key}")]
    return found


def kinds(value: object) -> tuple[str, ...]:
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int():
            return ("integer", "number")
        case float():
            return ("number",)
        case str():
            return ("string",)
        case list():
            return ("array",)
        case _:
            return ("object",)


@pytest.mark.parametrize("name", SECTIONS)
def test_keys_of_a_map_are_those_of_its_reader(name: str) -> None:
    """Every key that is read, none that is refused as not supported yet."""
    section, _ = SECTIONS[name]
    shown = SCHEMA if name == "" else SCHEMA["$defs"][name]

    assert set(shown["properties"]) == set(section.keys)
    assert shown["additionalProperties"] is False


def test_every_map_of_the_file_is_there() -> None:
    """A section that readers know and the schema does not would be empty to an editor."""
    from supervisor.core import spec
    from supervisor.core.file import keys

    sections = [one for module in (keys, spec) for one in vars(module).values() if isinstance(one, Section)]

    assert all(any(one is known for known, _ in SECTIONS.values()) for one in sections)


def test_every_key_has_its_words() -> None:
    """And there are none for a key that is not there."""
    keys = {f"{name}.{key}" if name else key for name, (section, _) in SECTIONS.items() for key in section.keys}

    assert set(WORDS) == keys


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_files_that_are_shipped_pass(file: Path) -> None:
    """As they pass the reader."""
    assert complaints(yaml.safe_load(file.read_text()), SCHEMA) == []


@pytest.mark.parametrize(("key", "document"), contract_keys(), ids=[key for key, _ in contract_keys()])
def test_schema_and_reader_accept_the_same_keys(key: str, document: dict[str, Any]) -> None:
    """One by one, over every key of the contract."""
    from supervisor.core.spec import SpecError, parse_spec

    try:
        parse_spec(document, base_dir="/")
    except SpecError:
        assert complaints(document, SCHEMA), key
    else:
        assert complaints(document, SCHEMA) == [], key


@pytest.mark.parametrize(
    "service",
    [
        {"command": "x", "workers": "many"},
        {"command": "x", "port": 70000},
        {"command": "x", "stop": {"timeout": "soon"}},
        {"command": "x", "resources": {"gpu_memory": "20 apples"}},
        {"command": "x", "wrokers": 2},
    ],
)
def test_what_an_editor_should_underline_is_underlined(service: dict[str, Any]) -> None:
    """Values of the wrong kind and keys that are not there."""
    assert complaints({"services": {"a": service}}, SCHEMA)


@pytest.mark.parametrize(("text", "is_good"), [("500ms", True), ("1.5h", True), ("5 m", False), ("ms", False)])
def test_durations_are_the_readers(text: str, is_good: bool) -> None:
    """The pattern is as strict as the reader."""
    document = {"services": {"a": {"command": "x", "stop": {"timeout": text}}}}

    assert (complaints(document, SCHEMA) == []) is is_good
