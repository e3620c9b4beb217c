"""The hooks of contract_fuzz.py must accept any JSON value as a body: generated requests have any type in any field."""

import re
from pathlib import Path
from types import SimpleNamespace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import contract_hooks

SOURCE = Path(contract_hooks.__file__).read_text(encoding="utf-8")
WORDS = sorted(set(re.findall(r'"([a-z_]+)"', SOURCE)))  # the fields and values that the hooks use
PATHS = sorted(set(re.findall(r'"(/[a-z0-9/_{}-]+)"', SOURCE)))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
VALUES = st.recursive(
    SCALARS,
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.sampled_from(WORDS), value, max_size=8),
    max_leaves=24,
)
FIELDS = {
    "messages": st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), VALUES), max_size=3),
    "input": st.lists(st.dictionaries(st.sampled_from(["type", "role", "content"]), VALUES), max_size=3),
    "tools": st.lists(st.dictionaries(st.sampled_from(["function", "name", "parameters"]), VALUES), max_size=3),
}
BODIES = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=12) | st.fixed_dictionaries({}, optional=FIELDS) | VALUES


@settings(max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(PATHS), body=BODIES)
def test_hooks_accept_any_body(path, body):
    context = SimpleNamespace(operation=SimpleNamespace(path=path, method="POST"))
    contract_hooks.map_body(context, body)


if __name__ == "__main__":
    test_hooks_accept_any_body()
