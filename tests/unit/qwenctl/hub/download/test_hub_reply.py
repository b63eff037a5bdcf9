"""Whatever the Hub replies, the answer is a listing with values of the right types, or an error of one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.utils import close_session
from huggingface_hub.utils._http import default_client_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.http_errors import RetryableError
from qwenctl.hub.download.hub_api import fetch_listing, open_range, resolve_url
from qwenctl.hub.repository.listing import Listing, RemoteFile

Result = TypeVar("Result")
NAME, COMMIT = "owner/name", "c" * 40
INFO: dict[str, Any] = {
    "id": NAME,
    "sha": COMMIT,
    "lastModified": "2026-01-01T00:00:00.000Z",
    "siblings": [{"rfilename": "a.gguf"}],
    "tags": ["gguf"],
    "cardData": {"license": "apache-2.0", "base_model": ["owner/base"], "model-index": []},
    "gguf": {"total": 1000, "architecture": "qwen35", "context_length": 4096},
    "safetensors": {"parameters": {"BF16": 1000}, "total": 1000},
}
TREE: list[Any] = [
    {"type": "directory", "oid": "1" * 40, "size": 0, "path": "folder"},
    {"type": "file", "oid": "2" * 40, "size": 5, "path": "config.json"},
    {
        "type": "file", "oid": "3" * 40, "size": 9, "path": "folder/a.gguf",
        "lfs": {"oid": "4" * 64, "size": 9, "pointerSize": 130},
    },
]  # fmt: skip
REPLIES = {"info": INFO, "tree": TREE}


class Hub:
    """The replies of a Hub, without a network. `headers` are those for a file."""

    def __init__(self) -> None:
        self.replies: dict[str, Any] = REPLIES
        self.headers: dict[str, str] = {}
        self.status = 200

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        """The reply to one request."""
        if "/resolve/" in request.url.path:
            return httpx2.Response(self.status, headers=self.headers)
        reply = self.replies["tree" if "/tree/" in request.url.path else "info"]
        return httpx2.Response(200, text=json.dumps(reply))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(hub.answer)))
    yield hub
    huggingface_hub.set_client_factory(default_client_factory)
    close_session()


@pytest.fixture(autouse=True)
def fresh(hub: Hub) -> None:
    hub.__init__()  # type: ignore[misc]  # as it was made


def list_files() -> Listing:
    return fetch_listing(NAME, "main", 0, lambda _: None)


def error_or(call: Callable[[], Result]) -> Result | str:
    """What `call` returns, or the message of its error, which must be one that a user may see."""
    try:
        return call()
    except (QwenctlError, RetryableError) as error:
        return str(error)


def places(value: Any) -> list[list[Any]]:
    """The paths to all values inside `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [[], *([key, *rest] for key, one in items for rest in places(one))]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["abc", "../../x", "2026-01-01", 10**400]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["total", "oid"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def test_reply_is_read(hub: Hub) -> None:
    large = RemoteFile("folder/a.gguf", 9, "3" * 40, "4" * 64)
    files = (RemoteFile("config.json", 5, "2" * 40), large)
    assert list_files() == Listing(NAME, "main", COMMIT, files, "apache-2.0", "qwen35", 1000, 4096)


@settings(max_examples=300, deadline=None)
@given(which=st.sampled_from(["info", "tree"]), data=st.data(), value=VALUES)
def test_reply_with_a_value_of_another_type_gives_right_types_or_one_error(
    which: str, data: st.DataObject, value: Any, hub: Hub
) -> None:
    replies = copy.deepcopy(REPLIES)
    *path, last = [which, *data.draw(st.sampled_from(places(REPLIES[which])))]
    place: Any = replies
    for key in path:
        place = place[key]
    place[last] = value
    hub.replies = replies
    listing = error_or(list_files)
    if isinstance(listing, str):
        assert "\n" not in listing
        return
    assert {type(number) for number in (listing.parameters, listing.context_length)} == {int}
    assert {type(text) for text in (listing.license, listing.architecture, listing.commit)} == {str}
    for file in listing.files:
        assert (type(file.path), type(file.size)) == (str, int)
        assert len(file.etag) in (40, 64)
        assert set(file.etag) <= set("0123456789abcdef")


@pytest.mark.parametrize("value", ["abc", float("inf"), float("nan"), -1, True, [], {}, 10**400, 1.5])
def test_number_that_is_none_is_left_out(value: object, hub: Hub) -> None:
    hub.replies = {**REPLIES, "info": {**INFO, "gguf": {"total": value, "context_length": value}, "safetensors": None}}
    listing = list_files()
    assert (listing.parameters, listing.context_length) == (0, 0)


@pytest.mark.parametrize(("value", "text"), [(["mit", "other"], "mit, other"), ({"name": "mit"}, ""), (5, "")])
def test_license_is_a_text(value: object, text: str, hub: Hub) -> None:
    hub.replies = {**REPLIES, "info": {**INFO, "cardData": {"license": value}}}
    assert list_files().license == text


@pytest.mark.parametrize(
    "change", [{"oid": "../../../x"}, {"oid": None}, {"size": "5"}, {"size": float("inf")}, {"lfs": {"oid": 5}}]
)
def test_file_without_what_a_download_needs_is_one_clear_error(change: dict[str, Any], hub: Hub) -> None:
    hub.replies = {**REPLIES, "tree": [{**TREE[1], **change}]}
    with pytest.raises(QwenctlError, match=f"the reply of huggingface.co about {NAME} cannot be read") as caught:
        list_files()
    assert caught.value.code == ExitCode.BAD_DATA


HEADERS = st.sampled_from(
    ["X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "ETag", "Location", "Content-Length", "X-Xet-Hash", "Link",
     "Retry-After", "RateLimit", "X-Error-Code", "X-Error-Message"]
)  # fmt: skip
HEADER_VALUES = st.sampled_from(
    ["", "abc", "-1", "9" * 5000, "http://[", "http://a:99999999/", "//", "inf", '"api";r=0;t=' + "9" * 400, "4" * 64]
) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    headers=st.dictionaries(HEADERS, HEADER_VALUES, max_size=4),
    status=st.sampled_from([200, 302, 307, 400, 401, 404, 429]),
)
def test_headers_of_any_content_give_a_url_or_one_error(headers: dict[str, str], status: int, hub: Hub) -> None:
    file = RemoteFile("folder/a.gguf", 9, "3" * 40, "4" * 64)
    hub.headers, hub.status = {"X-Repo-Commit": COMMIT, "ETag": "4" * 64, **headers}, status

    def read_file() -> bytes:
        with open_range(resolve_url(Listing(NAME, "main", COMMIT, (file,)), file), 0, 9) as chunks:
            return b"".join(chunks)

    error = error_or(read_file)
    assert isinstance(error, bytes) or "\n" not in error
