"""A probe stays small: what importing it loads is pinned."""

import json
import subprocess
import sys

PROGRAM = """
import sys
before = set(sys.modules)
import probe.service
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
import json
print(json.dumps(sorted(tops - set(sys.stdlib_module_names))))
"""
OURS = {"broker", "netloom", "probe", "schemas"}
THIRD_PARTY = {
    "annotated_types",
    "paho",
    "pydantic",
    "pydantic_core",
    "pythonping",
    "typing_extensions",
    "typing_inspection",
}


def test_importing_the_probe_loads_these_packages_and_no_others() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout
    found = {name for name in json.loads(said) if not name.startswith("_")}
    assert found - OURS == THIRD_PARTY


def test_the_probe_loads_no_other_role_and_no_broker() -> None:
    program = (
        "import sys, probe.service; print([n for n in sys.modules if n.startswith(('broker', 'controller', 'web'))])"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "broker.client" in said
    assert "broker.server" not in said
    assert "'controller" not in said
    assert "'web" not in said
