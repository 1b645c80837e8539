"""`schema`: the JSON Schema of the service file, for editors."""

from __future__ import annotations

import json

import click

from supervisor.cli.outcome import put


@click.command()
def schema() -> None:
    """Print the JSON Schema of the service file, for editors."""
    from supervisor.core.schema import make_schema

    put(json.dumps(make_schema(), indent=2) + "\n")
