"""The documentation is under test: every setting, topic, state, verb and field occurs in it."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from netloom.settings import Settings
from schemas.errors import CATALOGUE
from schemas.request import VERBS, TestState
from schemas.topics import ProbeLeaf

DOCS = Path(__file__).resolve().parents[1] / "docs"
REFERENCE = (DOCS / "reference.md").read_text("utf-8")


def _settings(model: type[BaseModel], path: str = "") -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += _settings(kind, f"{path}{name}.")
        else:
            found.append(path + name)
    return found


@pytest.mark.parametrize("name", _settings(Settings))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{name}`" in REFERENCE


@pytest.mark.parametrize("leaf", get_args(ProbeLeaf))
def test_every_topic_is_documented(leaf: str) -> None:
    assert f"`probe/<name>/{leaf}`" in REFERENCE


@pytest.mark.parametrize("state", get_args(TestState))
def test_every_state_is_documented(state: str) -> None:
    assert f"`{state}`" in REFERENCE


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_documented_with_its_fields(verb: str) -> None:
    row = next(line for line in REFERENCE.splitlines() if line.startswith(f"| `{verb}` |"))
    asks = set(VERBS[verb].request.model_fields) - {"v", "id", "not_after", "loaded_latency", "origin"}
    if verb == "target.update":
        assert "the same and `target_id`" in row
        return
    assert [name for name in asks if f"`{name}`" not in row] == []


def test_every_exit_code_is_documented() -> None:
    codes = {0, 1} | {entry.exit_code for entry in CATALOGUE.values()}
    assert [code for code in sorted(codes) if f"| {code} |" not in REFERENCE] == []


def test_links_lead_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for target in (part.split(")")[0] for part in page.read_text("utf-8").split("](")[1:]):
            if "://" not in target and not target.startswith("#"):
                assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"
