"""The generated JSON Schema files are what the models say, and real messages hold against them."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from schemas import codec
from schemas.export import documents
from tests.kit.results import make_result

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", sorted(documents()))
def test_the_file_is_what_the_model_says(name: str) -> None:
    path = ROOT / "docs" / "schema" / f"{name}.json"
    assert json.loads(path.read_text("utf-8")) == json.loads(json.dumps(documents()[name])), "run scripts/schemas"
    jsonschema.Draft202012Validator.check_schema(documents()[name])


def test_the_check_notices_a_stale_file(tmp_path: Path) -> None:
    script = (ROOT / "scripts" / "schemas").read_text("utf-8")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "schemas").write_text(script, "utf-8")
    command = [sys.executable, str(tmp_path / "scripts" / "schemas")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    assert subprocess.run([*command, "--check"], env=environment, capture_output=True, check=False).returncode == 1
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
    assert subprocess.run([*command, "--check"], env=environment, capture_output=True, check=False).returncode == 0


def test_a_result_holds_against_its_document() -> None:
    jsonschema.validate(json.loads(codec.encode(make_result())), documents()["result"])


def test_the_smallest_command_holds_and_an_unknown_field_does_not() -> None:
    document = documents()["command.run"]
    jsonschema.validate({"ping": {"target": "192.0.2.7"}}, document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"ping": {"target": "192.0.2.7"}, "colour": 1}, document)
