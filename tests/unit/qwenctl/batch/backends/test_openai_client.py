"""Which servers are asked and where; no server is needed to know that."""

from __future__ import annotations

import pytest

from qwenctl.batch.backends.openai_client import EndpointSpec, completions_url


@pytest.mark.parametrize(
    "url",
    [
        "http://host:8000",
        "http://host:8000/",
        "http://host:8000/v1",
        "http://host:8000/v1/",
        "http://host:8000/v1/chat/completions",
    ],
)
def test_address_of_a_server_has_one_path_however_it_is_given(url: str) -> None:
    assert completions_url(url) == "http://host:8000/v1/chat/completions"


def test_batch_may_be_resumed_by_another_server_of_the_same_model() -> None:
    one, other = EndpointSpec(("http://a",), "qwen", api_key="k"), EndpointSpec(("http://b", "http://c"), "qwen", 8)
    assert one.identity() == other.identity() != EndpointSpec(("http://a",), "llama").identity()


def test_key_of_a_server_is_not_shown() -> None:
    assert "secret" not in repr(EndpointSpec(("http://a",), api_key="secret"))
