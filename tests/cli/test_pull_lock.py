"""`qwenctl.lock.json`, `pull --locked`, pulls without a network, and variables that change a pull."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from tests.support.fake_hub import FakeHub, Repo, serve_folder
from tests.support.fake_hub_faults import Fault
from tests.support.paths import DATA
from tests.support.pulling import REPO, assert_whole, failure, hub_cache, qwenctl, snapshot, write_random

MODEL, NAMES = f"{REPO}:Q4_K_M", ["Toy-Q4_K_M.gguf", "mmproj-F16.gguf"]
SOURCE, TOKEN = "Qwen/Toy", "hf_abcdefghijklmnopqrstuvwxyz"
NO_HUB = "http://127.0.0.1:9"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    for number, name in enumerate(NAMES):
        write_random(tmp_path / "repo" / name, 2_000_000, number)
    return serve_folder(tmp_path / "repo", cardData={"license": "apache-2.0"})


@pytest.fixture
def hub(repo: Repo) -> Iterator[FakeHub]:
    with FakeHub({REPO: repo, SOURCE: serve_folder(DATA / "toy")}, cdn=True) as hub:
        yield hub


# ------------------------------------------------------------------ the lock file


def lock_path(home: Path, repo: Repo) -> Path:
    return snapshot(home, repo) / "qwenctl.lock.json"


def lock_of(repo: Repo) -> dict[str, Any]:
    """A lock file of the repository."""
    files = [{"path": name, "size": repo.files[name].size, "sha256": repo.files[name].sha256} for name in NAMES]
    texts = {"repository": REPO, "commit": repo.commit, "quant": "Q4_K_M", "license": "", "recipe": "", "version": ""}
    return {"format": 1, "models": [{**texts, "files": files, "outputs": []}]}


def test_lock_file_lists_pulled_files(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    qwenctl(hub, tmp_path, "pull", MODEL)
    lock = json.loads(lock_path(tmp_path, repo).read_text())
    (model,) = lock["models"]
    assert (model["repository"], model["commit"], model["quant"]) == (REPO, repo.commit, "Q4_K_M")
    assert (model["license"], model["recipe"], model["outputs"]) == ("apache-2.0", "", [])
    assert model["files"] == [
        {"path": name, "size": repo.files[name].size, "sha256": repo.files[name].sha256} for name in NAMES
    ]


def test_locked_pull_elsewhere_writes_the_same_lock_file(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    qwenctl(hub, tmp_path / "first", "pull", MODEL)
    lock = lock_path(tmp_path / "first", repo)
    done = qwenctl(hub, tmp_path / "second", "pull", "--locked", lock)
    assert done.returncode == 0, done.stderr
    assert lock_path(tmp_path / "second", repo).read_bytes() == lock.read_bytes()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sha256": "0" * 64}, f"{REPO}@COMMIT does not match the lock file: {NAMES[0]} is "),
        ({"size": 5}, f"{REPO}@COMMIT does not match the lock file: {NAMES[0]} is "),
        ({"path": "gone.gguf"}, f"{REPO}@COMMIT does not match the lock file: gone.gguf is not there"),
        ({"path": "../../x"}, f"{REPO} lists the unsafe path '../../x'"),
        ({"sha256": "xyz"}, "PATH is not a lock file (sha256 'xyz')"),
    ],
)
def test_locked_pull_with_a_changed_entry_is_refused(
    change: dict[str, object], line: str, hub: FakeHub, repo: Repo, tmp_path: Path
) -> None:
    lock, path = lock_of(repo), tmp_path / "changed.json"
    path.write_text(json.dumps(lock))
    assert qwenctl(hub, tmp_path, "pull", "--locked", path, "--dry-run").returncode == 0
    lock["models"][0]["files"][0].update(change)
    path.write_text(json.dumps(lock))
    message, _, code = failure(qwenctl(hub, tmp_path, "pull", "--locked", path))
    assert message.startswith(line.replace("COMMIT", repo.commit[:12]).replace("PATH", str(path)))
    assert (code, hub.sent) == (65, 0)


def test_locked_pull_checks_small_files(hub: FakeHub, tmp_path: Path) -> None:
    source = hub.repos[SOURCE]
    qwenctl(hub, tmp_path / "first", "pull", SOURCE, "--source")
    lock = json.loads((snapshot(tmp_path / "first", source, SOURCE) / "qwenctl.lock.json").read_text())
    config = next(file for file in lock["models"][0]["files"] if file["path"] == "config.json")
    config["sha256"] = "0" * 64
    (tmp_path / "changed.json").write_text(json.dumps(lock))
    line, _, code = failure(qwenctl(hub, tmp_path / "second", "pull", "--locked", tmp_path / "changed.json"))
    assert line == f"{SOURCE}@{source.commit[:12]} does not match the lock file: config.json has different content"
    assert code == 65


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9, "models": []}', '{"format": 1, "models": [{}]}'])
def test_invalid_lock_file_is_refused(text: str, hub: FakeHub, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    line, _, code = failure(qwenctl(hub, tmp_path, "pull", "--locked", path))
    assert line.startswith(f"{path} is not a lock file (")
    assert code == 65


def test_locked_pull_reproduces_a_quantized_model(hub: FakeHub, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    qwenctl(hub, tmp_path, "pull", SOURCE, "--quantize", "q4_0", "--no-vision", "-o", folders[0])
    lock = folders[0] / "qwenctl.lock.json"
    assert json.loads(lock.read_text())["models"][0]["recipe"] == "Q4_0 --no-vision"
    done = qwenctl(hub, tmp_path, "pull", "--locked", lock, "-o", folders[1])
    assert done.returncode == 0, done.stderr
    for name in ("Toy-Q4_0.gguf", "qwenctl.lock.json"):
        assert (folders[1] / name).read_bytes() == (folders[0] / name).read_bytes()


@pytest.mark.parametrize("outputs", [[], [{"path": "../x.gguf", "size": 1, "sha256": "0" * 64}]])
def test_lock_file_with_missing_or_outside_outputs_is_refused(
    outputs: list[object], hub: FakeHub, tmp_path: Path
) -> None:
    files = [{"path": "config.json", "size": 1, "sha256": "0" * 64}]
    model = {"repository": SOURCE, "commit": "0" * 40, "quant": "", "license": "", "recipe": "Q8_0", "version": ""}
    path = tmp_path / "evil.json"
    path.write_text(json.dumps({"format": 1, "models": [{**model, "files": files, "outputs": outputs}]}))
    line, _, code = failure(qwenctl(hub, tmp_path, "pull", "--locked", path, "-o", tmp_path))
    assert re.search(r"is not a lock file \(a model without files\)|lists the unsafe path '\.\./x\.gguf'", line)
    assert (code, hub.requests) == (65, [])


def test_locked_pull_with_a_different_output_is_reported(hub: FakeHub, tmp_path: Path) -> None:
    qwenctl(hub, tmp_path, "pull", SOURCE, "--quantize", "q4_0", "--no-vision", "-o", tmp_path)
    lock = json.loads((tmp_path / "qwenctl.lock.json").read_text())
    lock["models"][0]["outputs"][0]["sha256"] = "0" * 64
    (tmp_path / "changed.json").write_text(json.dumps(lock))
    (tmp_path / "again").mkdir()
    done = qwenctl(hub, tmp_path, "pull", "--locked", tmp_path / "changed.json", "-o", tmp_path / "again", "-q")
    assert done.returncode == 65
    assert "Toy-Q4_0.gguf has the sha256 " in done.stderr


# ------------------------------------------------------------------ without a network


def test_offline_pull_finds_a_local_model(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    made = qwenctl(hub, tmp_path, "pull", SOURCE, "--quantize", "q8_0", "-o", tmp_path / "toy.gguf", "-q")
    assert made.returncode == 0
    for more in ({"arguments": ["--offline"]}, {"HF_HUB_OFFLINE": "1"}):
        arguments = more.pop("arguments", [])
        done = qwenctl(NO_HUB, tmp_path, "pull", f"{SOURCE}:Q8_0", *arguments, **more)
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'toy.gguf'}\n"), done.stderr
    line, hint, code = failure(qwenctl(NO_HUB, tmp_path, "pull", "a/b:Q8_0", "--offline"))
    assert (line, code) == ("a/b:Q8_0 is not on this machine", 66)
    assert hint == f"available: {SOURCE}:Q8_0"


def test_pull_without_network_counts_local_models(hub: FakeHub, tmp_path: Path) -> None:
    qwenctl(hub, tmp_path, "pull", SOURCE, "--quantize", "q8_0", "-o", tmp_path / "toy.gguf", "-q")
    line, hint, code = failure(qwenctl(NO_HUB, tmp_path, "pull", MODEL))
    assert (line, code) == ("cannot reach 127.0.0.1:9 (connection refused)", 69)
    assert hint == "check proxy/HF_ENDPOINT; `--offline` uses the 1 local model"


def test_offline_pull_accepts_only_the_local_revision(hub: FakeHub, tmp_path: Path) -> None:
    source = hub.repos[SOURCE]
    assert qwenctl(hub, tmp_path, "pull", SOURCE, "--source", "-q").returncode == 0
    for revision in ("main", source.commit):
        done = qwenctl(NO_HUB, tmp_path, "pull", SOURCE, "--source", "--offline", "--revision", revision)
        assert (done.returncode, done.stdout) == (0, f"{snapshot(tmp_path, source, SOURCE)}\n"), done.stderr
    for more, wrong in (
        (("--revision", "0" * 40), f"{SOURCE}:checkpoint is not here at revision {'0' * 40}"),
        (("--quantize", "q8_0"), f"{SOURCE} is not on this machine"),
    ):
        line, _, code = failure(qwenctl(NO_HUB, tmp_path, "pull", SOURCE, "--offline", *more))
        assert (line, code) == (wrong, 66)


def test_offline_locked_pull_checks_cached_files(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    lock = tmp_path / "saved.json"
    pull = ("pull", "--locked", lock, "--offline")
    qwenctl(hub, tmp_path, "pull", MODEL)
    lock.write_bytes(lock_path(tmp_path, repo).read_bytes())
    path = snapshot(tmp_path, repo) / NAMES[0]
    assert qwenctl(NO_HUB, tmp_path, *pull).stdout == f"{path}\n"
    line, hint, code = failure(qwenctl(NO_HUB, tmp_path / "another", *pull))
    assert line.startswith(f"{NAMES[0]} of {REPO}@{repo.commit[:12]} is not in ")
    assert (hint, code) == ("pull it without --offline", 66)
    path.resolve().write_bytes(b"x" * 2_000_000)
    line, _, code = failure(qwenctl(NO_HUB, tmp_path, *pull))
    assert (line, code) == (
        f"{REPO}@{repo.commit[:12]} does not match the lock file: {NAMES[0]} has different content",
        65,
    )


def test_offline_locked_pull_finds_a_quantized_output(hub: FakeHub, tmp_path: Path) -> None:
    made = qwenctl(hub, tmp_path, "pull", SOURCE, "--quantize", "q4_0", "--no-vision", "-o", tmp_path, "-q")
    assert made.returncode == 0
    done = qwenctl(NO_HUB, tmp_path, "pull", "--locked", tmp_path / "qwenctl.lock.json", "--offline", "-o", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'Toy-Q4_0.gguf'}\n")


# ------------------------------------------------------------------ environment variables


def test_hf_hub_cache_variable_moves_the_cache(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    assert (
        qwenctl(hub, tmp_path, "pull", MODEL, HF_HUB_CACHE=str(tmp_path / "hf" / "hub"), HF_HOME="/none").returncode
        == 0
    )
    assert_whole(tmp_path, repo, *NAMES)


def test_ls_lists_a_checkpoint_pulled_into_a_chosen_folder(hub: FakeHub, tmp_path: Path) -> None:
    toy = serve_folder(DATA / "toy")
    hub.repos[SOURCE] = toy
    assert qwenctl(hub, tmp_path, "pull", SOURCE, "--source", "--to", tmp_path / "disk").returncode == 0
    rows = json.loads(qwenctl(NO_HUB, tmp_path, "ls", "--json").stdout)
    assert [row["name"] for row in rows] == [f"{SOURCE}:checkpoint"]
    assert not hub_cache(tmp_path).exists()


def test_token_is_sent_only_to_the_hub(repo: Repo, tmp_path: Path) -> None:
    with FakeHub({REPO: repo}, cdn=True) as hub:
        hub.token = TOKEN
        hub.break_with(Fault("status", times=3, on="HEAD"))
        done = qwenctl(hub, tmp_path, "--debug", "pull", MODEL, HF_TOKEN=TOKEN, HF_DEBUG="1")
        assert done.returncode == 0
        assert hub.leaked == []
        assert hub.known >= 3
        hub.break_with(Fault("status", times=1000, on="HEAD", status=403))
        refused = qwenctl(hub, tmp_path / "other", "--debug", "pull", MODEL, HF_TOKEN=TOKEN, HF_DEBUG="1")
        assert refused.returncode == 77
    for text in (done.stderr, done.stdout, refused.stderr, refused.stdout):
        assert TOKEN not in text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_pull_requests_only_the_listing_and_its_files(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    assert qwenctl(hub, tmp_path, "pull", MODEL, "-q", CLAUDECODE="1").returncode == 0
    api = [f"/api/models/{REPO}/revision/main", f"/api/models/{REPO}/tree/{repo.commit}"]
    paths = {path for _, path, _ in hub.requests}
    assert paths == {
        *api,
        *(f"/{REPO}/resolve/{repo.commit}/{name}" for name in NAMES),
        *(f"/{REPO}/{n}" for n in NAMES),
    }


class _Proxy(BaseHTTPRequestHandler):
    """Forwards requests and records their URLs."""

    def do_GET(self) -> None:
        self._forward()

    def do_HEAD(self) -> None:
        self._forward()

    def _forward(self) -> None:
        self.server.urls.append(self.path)  # type: ignore[attr-defined]
        headers = {name: value for name, value in self.headers.items() if name.lower() in ("range", "accept-encoding")}
        url = f"http://127.0.0.1:{self.server.to}{urlsplit(self.path).path}"  # type: ignore[attr-defined]
        try:
            answer = urlopen(Request(url, headers=headers, method=self.command))
        except HTTPError as error:
            answer = error
        with answer:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.read())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_pull_uses_the_http_proxy(repo: Repo, tmp_path: Path) -> None:
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    with FakeHub({REPO: repo}) as hub:
        proxy.urls, proxy.to = [], urlsplit(hub.url).port  # type: ignore[attr-defined]
        address = f"http://127.0.0.1:{proxy.server_port}"
        done = qwenctl("http://hub.invalid", tmp_path, "pull", MODEL, HTTP_PROXY=address, NO_PROXY="")
        assert done.returncode == 0, done.stderr
        assert len(proxy.urls) >= len(hub.requests) > 4  # type: ignore[attr-defined]
    proxy.shutdown()
    proxy.server_close()
    assert_whole(tmp_path, repo, *NAMES)
