"""The values of `--chat-template` and `--chat-template-kwargs`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.commands.options.template_options import parse_variables, read_template
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import OWN_TEMPLATE_VARIABLES


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_object_is_taken_unless_a_request_sets_its_names(variables: dict[str, object]) -> None:
    if OWN_TEMPLATE_VARIABLES.isdisjoint(variables):
        assert parse_variables(json.dumps(variables)) == variables


@pytest.mark.parametrize("text", ["", "x", "1", "[]", "{", "null", "[" * 100_000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not "):
        parse_variables(text)


@pytest.mark.parametrize("name", sorted(OWN_TEMPLATE_VARIABLES))
def test_variable_that_a_request_sets_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be set"):
        parse_variables(json.dumps({name: 1}))


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_file_without_a_template_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.jinja").write_bytes(content)
    with pytest.raises(QwenctlError) as caught:
        read_template(tmp_path / "x.jinja")
    assert caught.value.code == ExitCode.BAD_DATA


def test_file_without_an_end_is_no_template() -> None:
    with pytest.raises(QwenctlError, match="/dev/zero has more than 16 MiB"):
        read_template(Path("/dev/zero"))
