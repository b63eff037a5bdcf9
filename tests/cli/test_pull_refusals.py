"""Failed pulls: the error line, the hint, the exit code, and the files left on the disk."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub, Repo
from tests.support.fake_hub_faults import Fault
from tests.support.pulling import REPO, assert_whole, failure, hub_cache, one_file_repo, qwenctl, saved

SIZE = 20_000_000
MODEL, NAME = f"{REPO}:Q4_K_M", "Toy-Q4_K_M.gguf"
ALWAYS = 1 << 30
RIGHT, WRONG = "hf_right", "hf_wrong"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return one_file_repo(tmp_path_factory.mktemp("repo"), NAME, SIZE)


@pytest.fixture
def hub(repo: Repo) -> Iterator[FakeHub]:
    with FakeHub({REPO: repo}, cdn=True) as hub:
        yield hub


def refusal(hub: FakeHub | str, home: Path, *arguments: str, **more: str) -> tuple[str, str, int]:
    return failure(qwenctl(hub, home, "pull", *(arguments or (MODEL,)), **more))


# ------------------------------------------------------------------ repositories, revisions and files


def test_unknown_repository_is_refused_with_a_suggestion(hub: FakeHub, tmp_path: Path) -> None:
    line = f"repo 'Qwen/Qwen3.5-379B' not found on {hub.host}"
    hint = "did you mean Qwen/Qwen3.5-397B-A17B? Private repos need a token"
    assert refusal(hub, tmp_path, "Qwen/Qwen3.5-379B:Q4_K_M") == (line, hint, 66)


def test_gated_repository_is_refused_with_its_page(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.repos["x/y"] = Repo(repo.files, repo.commit, {"gated": "manual"})
    expected = ("access to 'x/y' needs approval by its owner", "open https://hf.co/x/y, accept, then run again", 77)
    assert refusal(hub, tmp_path, "x/y:Q4_K_M") == expected
    assert refusal(hub, tmp_path, "x/y:Q4_K_M", HF_TOKEN=RIGHT) == expected


def test_rejected_token_is_reported(repo: Repo, tmp_path: Path) -> None:
    with FakeHub({REPO: repo}, token=RIGHT) as hub:
        line, hint, code = refusal(hub, tmp_path, HF_TOKEN=WRONG)
        assert line == "the Hub rejected the token from HF_TOKEN (401)"
        assert (hint, code) == ("`hf auth login`, or unset HF_TOKEN for public repos", 77)
        assert qwenctl(hub, tmp_path, "pull", MODEL, HF_TOKEN=RIGHT).returncode == 0


def test_unknown_revision_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    line, hint, code = refusal(hub, tmp_path, MODEL, "--revision", "v9")
    assert (line, hint, code) == (f"no revision 'v9' in {REPO}", f"qwenctl ls {REPO}", 66)


def test_unknown_revision_on_a_mirror_that_does_not_say_so_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_with(Fault("status", times=1, on="api", status=404))
    line, hint, code = refusal(hub, tmp_path, MODEL, "--revision", "0" * 40)
    assert (line, hint, code) == (f"no revision '{'0' * 40}' in {REPO}", f"qwenctl ls {REPO}", 66)


def test_folder_that_cannot_exist_is_not_taken_for_a_full_disk(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in (MODEL, REPO):
        line, hint, code = refusal(hub, tmp_path, name, "--to", str(tmp_path / "file" / "folder"))
        assert (line, code) == (f"cannot write to {tmp_path}/file/folder (not a directory)", 73)
        assert "--to DIR" in hint


def test_malformed_revision_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    line, _, code = refusal(hub, tmp_path, MODEL, "--revision", "../../etc")
    assert (line, code) == ("'../../etc' is not the name of a branch, a tag or a commit", 2)


def test_unknown_quantization_is_refused_with_the_nearest(hub: FakeHub, tmp_path: Path) -> None:
    line, hint, code = refusal(hub, tmp_path, f"{REPO}:Q4_K_XL")
    assert line == f"no file 'Q4_K_XL' in {REPO}@main; 1 quantizations exist"
    assert (hint, code) == (f"nearest: Q4_K_M (`qwenctl ls {REPO}`)", 66)


@pytest.mark.parametrize(
    "path",
    ["../../x.gguf", "aux/x.gguf", "x\x1b[2J.gguf", "toy-q4_k_m.GGUF"],  # more in test_pull_names
)
def test_listing_with_unsafe_path_is_refused(path: str, hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    entry = {"type": "file", "path": path, "size": 5, "oid": "0" * 40}
    hub.repos[REPO] = Repo(repo.files, repo.commit, {}, (entry,))
    line, hint, code = refusal(hub, tmp_path)
    assert re.fullmatch(rf"{REPO} lists the unsafe path '.*'; nothing was downloaded", line)
    assert (hint, code) == ("report it to its owner, or pull another repository", 65)
    assert list(tmp_path.rglob("*.gguf")) == []
    assert hub.sent == 0


# ------------------------------------------------------------------ the network


def test_unresolvable_host_is_reported(tmp_path: Path) -> None:
    line, hint, code = refusal("http://hub.invalid", tmp_path)
    assert (line, code) == ("cannot reach hub.invalid (DNS)", 69)
    assert hint == "check proxy/HF_ENDPOINT; `--offline` uses the 0 local models"


def test_refused_connection_is_reported(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        line, _, code = refusal(f"http://{host}", tmp_path)
    assert (line, code) == (f"cannot reach {host} (connection refused)", 69)


@pytest.mark.parametrize("on", ["api", "HEAD", "GET"])
def test_login_page_in_place_of_the_hub_is_reported(on: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.break_with(Fault("portal", times=ALWAYS, on=on))  # type: ignore[arg-type]
    line, hint, code = refusal(hub, tmp_path)
    assert line == "the response from HF_ENDPOINT is not from a Hub (no X-Repo-Commit)"
    assert (hint, code) == ("log in to the network or unset HF_ENDPOINT", 69)


@pytest.mark.parametrize("on", ["api", "HEAD", "GET"])
def test_redirect_loop_is_reported(on: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.break_with(Fault("loop", times=ALWAYS, on=on))  # type: ignore[arg-type]
    assert refusal(hub, tmp_path) == (f"{hub.host} redirects in a loop", "unset HF_ENDPOINT", 69)


def test_file_hash_that_contradicts_the_listing_is_refused(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.break_with(Fault("etag", times=ALWAYS, on="HEAD"))
    line, hint, code = refusal(hub, tmp_path)
    assert line == f"{NAME}: the file's own hash is {'0' * 64}, its list says {repo.files[NAME].sha256}"
    assert (hint, code) == ("run again; if this repeats, the mirror in HF_ENDPOINT is not up to date", 65)


def test_stalled_download_stops_and_resumes(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.break_with(Fault("reset", times=2, after=2_000_000), Fault("status", times=ALWAYS))
    line, hint, code = refusal(hub, tmp_path, MODEL, "--patience", "2", "--connections", "2")
    assert re.fullmatch(r"no progress for 2 s after \d+ retries; (4\.00|3\.\d\d) MB saved", line)
    assert (hint, code) == ("run again to continue", 75)
    hub.break_with()
    assert qwenctl(hub, tmp_path, "pull", MODEL).returncode == 0
    assert hub.sent < 1.02 * SIZE
    assert_whole(tmp_path, repo, NAME)


@pytest.mark.parametrize("on", ["api", "GET"])
def test_long_retry_after_is_reported(on: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.break_with(Fault("status", times=ALWAYS, on=on, status=429, headers={"Retry-After": "400"}))  # type: ignore[arg-type]
    line, hint, code = refusal(hub, tmp_path)
    assert line.startswith("the Hub asks to wait 400 s (429)")
    assert (hint, code) == ("`--patience 400` waits automatically; a token raises the limit", 75)


def test_short_retry_after_is_waited_for(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_with(Fault("status", on="api", status=429, headers={"Retry-After": "2"}))
    done = qwenctl(hub, tmp_path, "pull", MODEL)
    assert done.returncode == 0
    assert "waiting: the Hub asks to wait 2 s (429)\n" in done.stderr


def test_retry_after_date_is_waited_for(hub: FakeHub, tmp_path: Path) -> None:
    date = formatdate(time.time() + 9, usegmt=True)
    hub.break_with(Fault("status", on="api", status=429, headers={"Retry-After": date}))
    done = qwenctl(hub, tmp_path, "pull", MODEL)
    assert done.returncode == 0
    assert re.search(r"^waiting: the Hub asks to wait [1-9] s \(429\)$", done.stderr, re.MULTILINE)


# ------------------------------------------------------------------ wrong bytes


def wrong_bytes(repo: Repo) -> str:
    return rf"{NAME}: sha256 is [0-9a-f]{{12}}\.\., expected {repo.files[NAME].sha256[:12]}\.\."


def test_flipped_byte_is_detected_and_downloaded_again(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.break_with(Fault("flip", after=1234567))
    done = qwenctl(hub, tmp_path, "pull", MODEL)
    assert done.returncode == 0
    hint = r"downloading it again \(20\.0 MB\); if this repeats, test RAM and disk"
    warning = rf"qwenctl: warning: {wrong_bytes(repo)}\n  hint: {hint}\n"
    assert re.search(warning, done.stderr)
    assert hub.sent == 2 * SIZE
    assert_whole(tmp_path, repo, NAME)


def test_file_damaged_twice_is_refused(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.break_with(Fault("flip", times=ALWAYS, after=1234567))
    line, hint, code = refusal(hub, tmp_path)
    assert re.fullmatch(wrong_bytes(repo), line)
    assert (hint, code) == ("it arrived damaged twice: test RAM and disk, then run again", 65)
    assert saved(tmp_path) == 0
    assert list(hub_cache(tmp_path).rglob(repo.files[NAME].sha256)) == []


def test_byte_changed_on_disk_between_runs_is_detected(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.break_with(Fault("reset", times=2, after=2_000_000), Fault("status", times=ALWAYS))
    refusal(hub, tmp_path, MODEL, "--patience", "0", "--connections", "2")
    (part,) = hub_cache(tmp_path).rglob("*.part")
    with part.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    hub.break_with()
    done = qwenctl(hub, tmp_path, "pull", MODEL)
    assert done.returncode == 0
    assert re.search(wrong_bytes(repo), done.stderr)
    assert_whole(tmp_path, repo, NAME)
