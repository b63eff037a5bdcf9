"""Children that read foreign files get an environment without secrets, and limits."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.child_process import child_command, clean_environment, is_allowed
from qwenctl.machine.llama_process import llama_environment

SECRETS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "GH_TOKEN",
    "QWENCTL_API_KEY", "PYTHON_KEYRING_PASSWORD", "SSH_AUTH_SOCK", "http_proxy", "DATABASE_URL", "NETRC", "HF_HOME",
)  # fmt: skip
NEEDED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "GOMP_SPINCOUNT",
    "GGML_VK_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "LLAMA_CPP_LIB_PATH", "PYTHONPATH", "XDG_CACHE_HOME",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_secret_is_not_given_to_a_child(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert name not in clean_environment()
    assert name not in llama_environment()


@pytest.mark.parametrize("name", NEEDED)
def test_what_a_child_needs_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert llama_environment()[name] == "x"


@given(st.text(st.characters(categories=["Lu", "Nd"], include_characters="_"), max_size=12))
def test_nothing_named_as_a_secret_is_allowed(text: str) -> None:
    for word in ("TOKEN", "API_KEY", "PASSWORD", "SECRET"):
        assert not any(is_allowed(prefix + text + word) for prefix in ("", "QWENCTL_", "PYTHON", "CUDA_"))


def test_command_runs_the_module_with_its_arguments() -> None:
    command = child_command("some.module", "a", "b")
    assert command[0] == sys.executable
    assert command[-3:] == ["some.module", "a", "b"]
