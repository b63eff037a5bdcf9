"""`--chat-template` and `--chat-template-kwargs`: another template, more variables, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli_runner import outcome, run
from tests.support.paths import TOY

SOURCE = (TOY / "chat_template.jinja").read_text()
NEXT = "{%- if add_generation_prompt %}"
BODY = "{{- '<|im_start|>' + message.role + '\\n' + content }}\n        {%- endif %}"
QUESTION = "What is the capital of France?"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """The model's template as people change it: a switch in a message, a date, and a mark for training."""
    assert NEXT in SOURCE
    assert BODY in SOURCE
    switch = "{%- if '/no_think' in (messages[-1].content|string) %}{%- set enable_thinking = false %}{%- endif %}\n"
    marked = "{%- generation %}" + BODY.replace("\n        {%- endif %}", "{%- endgeneration %}\n        {%- endif %}")
    path = tmp_path / "x.jinja"
    path.write_text(
        "{%- set today = strftime_now('%d %B %Y') %}\n" + SOURCE.replace(NEXT, switch + NEXT).replace(BODY, marked)
    )
    return path


def test_chat_uses_the_template_in_a_file(toy_gguf: Path, template: Path) -> None:
    arguments = ["chat", "-m", str(toy_gguf), "--chat-template", str(template), "--temp", "0", "-n", "40", "--json"]
    done = run(*arguments, f"{QUESTION} /no_think")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["thinking"] == ""


def test_batch_gives_variables_to_the_template(toy_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.jinja"
    path.write_text(
        "{{ a }}{{ b }}{% if a != 'A' or b != 'own' %}{{ raise_exception('a is ' ~ a) }}{% endif %}" + SOURCE
    )
    record = {"prompt": QUESTION, "max_tokens": 3, "think": False, "chat_template_kwargs": {"b": "own"}}
    given = ["--chat-template", str(path), "--chat-template-kwargs", '{"a": "A", "b": "B"}', "-q"]
    done = run("batch", "-m", str(toy_gguf), *given, stdin=json.dumps(record).encode())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "line", "code"),
    [
        (["--chat-template-kwargs", "{"], "not JSON", 2),
        (["--chat-template-kwargs", "[1]"], "not a JSON object", 2),
        (["--chat-template-kwargs", '{"messages": []}'], "messages cannot be set", 2),
        (["--chat-template-kwargs", '{"enable_thinking": false}'], "use --no-think", 2),
        (["--chat-template-kwargs", "[" * 100_000], "not JSON", 2),
        (["--chat-template", "missing.jinja"], "missing.jinja", 66),
        (["--chat-template", "empty.jinja"], "--chat-template empty.jinja is empty", 65),
        (["--chat-template", "binary.jinja"], "--chat-template binary.jinja is not UTF-8 text", 65),
    ],
)
def test_invalid_option_is_refused_in_one_line(
    given: list[str], line: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jinja").write_text("\n")
    (tmp_path / "binary.jinja").write_bytes(b"\xff\xfe\0a")
    found, _, returned = outcome("chat", "-m", "x.gguf", *given)
    assert (line in found, returned) == (True, code), found


def test_invalid_template_is_refused(toy_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jinja").write_text("{% for %}")
    found, _, code = outcome("chat", "-m", str(toy_gguf), "--chat-template", str(tmp_path / "x.jinja"))
    assert "the model's chat template fails: Expected" in found
    assert code == 65
