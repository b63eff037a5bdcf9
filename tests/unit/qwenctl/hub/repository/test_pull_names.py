"""Model names that users type, and the repository files that they resolve to, judged by names alone."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from quantize.recipe.recipes import RECIPES
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.repository.catalog import is_same_generation, load_families, nearest_repository
from qwenctl.hub.repository.listing import Listing, RemoteFile, check_paths
from qwenctl.hub.repository.model_name import ModelName, check_revision, is_link, parse_name, quant_key
from qwenctl.hub.repository.quantizations import choose_quant, find_quants, find_vision
from qwenctl.hub.select.fit import PullCandidate
from qwenctl.hub.select.target import PullRequest, ResolvedTarget, resolve_target


def parts(name: ModelName) -> tuple[str, str, str, str]:
    return name.repository, name.family.name if name.family else "", name.quant, name.revision


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("qwen3.5-397b-a17b", ("", "qwen3.5-397b-a17b", "", "")),
        ("Qwen3.5-397B-A17B:q4_k_m", ("", "qwen3.5-397b-a17b", "q4_k_m", "")),
        ("Qwen/Qwen3.5-35B-A3B", ("Qwen/Qwen3.5-35B-A3B", "qwen3.5-35b-a3b", "", "")),
        ("unsloth/Some-GGUF:UD-Q4_K_XL", ("unsloth/Some-GGUF", "", "UD-Q4_K_XL", "")),
        ("hf.co/a/b:Q8_0", ("a/b", "", "Q8_0", "")),
        ("https://huggingface.co/a/b", ("a/b", "", "", "")),
        ("https:/huggingface.co/a/b/", ("a/b", "", "", "")),  # a URL after path normalization
        ("hf://models/a/b@v1.0", ("a/b", "", "", "v1.0")),
        ("a/b@q4_k_m", ("a/b", "", "q4_k_m", "")),
        ("a/b@0123456789abcdef0123456789abcdef01234567:IQ4_XS", None),
    ],
)
def test_model_name_is_parsed(text: str, expected: tuple[str, str, str, str] | None) -> None:
    if expected is None:
        expected = ("a/b", "", "IQ4_XS", "0123456789abcdef0123456789abcdef01234567")
    assert parts(parse_name(text)) == expected


@pytest.mark.parametrize("host", ["https://huggingface.co/", "http://www.huggingface.co/", "hf.co/", "https:/hf.co/"])
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a/b", ("", "")),
        ("a/b/", ("", "")),
        ("a/b.git", ("", "")),
        ("a/b#usage", ("", "")),
        ("a/b?library=llama.cpp", ("", "")),
        ("a/b?show_file_info=x%2Fy-Q8_0.gguf", ("", "x/y-Q8_0.gguf")),
        ("a/b/tree/main", ("main", "")),
        ("a/b/tree/v1.0/Q4_K_M", ("v1.0", "Q4_K_M")),
        ("a/b/blob/main/x y-Q8_0.gguf", ("main", "x y-Q8_0.gguf")),
        ("a/b/blob/main/x%20y-Q8_0.gguf", ("main", "x y-Q8_0.gguf")),
        ("a/b/resolve/refs%2Fpr%2F1/d/x.gguf?download=true", ("refs/pr/1", "d/x.gguf")),
        ("a/b/commit/0123abc", ("0123abc", "")),
        ("a/b/discussions/3", ("", "")),
    ],
)
def test_address_in_a_browser_is_parsed(host: str, address: str, expected: tuple[str, str]) -> None:
    name = parse_name(f"{host}{address}")
    assert (name.repository, name.quant, name.revision, name.file) == ("a/b", "", *expected)
    assert is_link(f"{host}{address}")


def test_address_of_a_mirror_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example:8000/")
    for text in ("http://hub.example:8000/a/b/tree/main", "http:/hub.example:8000/a/b/tree/main"):
        assert parts(parse_name(text)) == ("a/b", "", "", "main")


@pytest.mark.parametrize("text", ["https://huggingface.co/datasets/a/b", "https://example.com/a/b", "https://hf.co/a"])
def test_address_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(QwenctlError, match="does not name a model"):
        parse_name(text)


def test_existing_file_is_no_name_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "a b.gguf").touch()
    with pytest.raises(QwenctlError, match="is a file here, not a name on the Hub") as caught:
        parse_name(f"{tmp_path}/a b.gguf")
    assert caught.value.hint == f"qwenctl show '{tmp_path}/a b.gguf'"


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "../b", "a/..", "a b/c", "a/b:x/y", "/etc/passwd", "a/b@../x"])
def test_invalid_model_name_is_refused(text: str) -> None:
    with pytest.raises(QwenctlError):
        parse_name(text)


@hypothesis.given(strategies.text(max_size=40))
def test_random_model_name_is_parsed_or_refused(text: str) -> None:
    try:
        name = parse_name(text)
    except QwenctlError:
        return
    assert name.family or name.repository.count("/") == 1
    assert ".." not in name.repository


@pytest.mark.parametrize("revision", ["main", "refs/pr/1", "v1.0", "a" * 40])
def test_valid_revision_is_accepted(revision: str) -> None:
    assert check_revision(revision) == revision


@pytest.mark.parametrize("revision", ["", "../x", "/x", "a//b", "a b", "-x", "x.lock", "x/"])
def test_invalid_revision_is_refused(revision: str) -> None:
    with pytest.raises(QwenctlError):
        check_revision(revision)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Qwen/Qwen3.5-379B", "Qwen/Qwen3.5-397B-A17B"),
        ("qwen3.5-35b", "qwen3.5-35b-a3b"),
        ("qwen3.5-397b-a71b", "qwen3.5-397b-a17b"),
        ("Qwen/Qwen3.5-27B-fp", "Qwen/Qwen3.5-27B-FP8"),
        ("unsloth/Qwen3.5-122b-GGUF", "unsloth/Qwen3.5-122B-A10B-GGUF"),
        ("meta/Llama-3", ""),
        ("Qwen/Qwen3.7-35B-A3B", ""),
        ("qwen3.4-27b", ""),
        ("Qwen/Qwen3-35B-A3B", ""),
        ("ggml-org/Qwen3.6-27B-GUFF", "ggml-org/Qwen3.6-27B-GGUF"),
        ("unsloth/Qwen3.5-0.8B-GGUF", "ggml-org/Qwen3.5-0.8B-GGUF"),
        ("unsloth/Qwen3.5-4B-GGUF", "Qwen/Qwen3.5-4B"),
    ],
)
def test_misspelled_repository_gets_nearest_name(wrong: str, right: str) -> None:
    assert nearest_repository(wrong) == right


@hypothesis.given(
    strategies.sampled_from(
        [name for family in load_families().values() for name in (family.name, *family.repositories)]
    ),
    strategies.sampled_from(["", "-", "x", "S"]),
)
def test_suggestion_is_never_the_name_itself_or_of_another_generation(name: str, more: str) -> None:
    near = nearest_repository(name + more)
    assert near.lower() != (name + more).lower()
    assert not near or is_same_generation(near, name)


def test_every_catalog_entry_is_valid_model_name() -> None:
    for name, family in load_families().items():
        assert parts(parse_name(name)) == ("", name, "", "")
        assert family.source.startswith("Qwen/")
        for repository in family.repositories:
            assert parts(parse_name(repository)) == (repository, name, "", "")


# ------------------------------------------------------------------ files of a repository


def files(*paths: str, size: int = 10) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(path, size, "0" * 40, "1" * 64) for path in paths)


def splits(stem: str, count: int) -> list[str]:
    return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


REPOSITORY = files(
    *splits("Q4_K_M/Qwen3.5-397B-A17B-Q4_K_M", 6),
    *splits("UD-Q4_K_XL/Qwen3.5-397B-A17B-UD-Q4_K_XL", 7),
    *splits("Qwen_Qwen3.5-397B-A17B-Q6_K_L/Qwen_Qwen3.5-397B-A17B-Q6_K_L", 9)[:8],
    "Qwen3.5-397B-A17B-MXFP4_MOE.gguf",
    "Qwen3.5-397B-A17B.BF16.gguf",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
    "imatrix_unsloth.gguf",
    "mtp-Qwen3.5-397B-A17B.gguf",
    "README.md",
)


def test_repository_files_are_grouped_into_quantizations() -> None:
    found = {quant.label: (len(quant.files), quant.missing_parts) for quant in find_quants(REPOSITORY)}
    assert found == {"Q4_K_M": (6, 0), "UD-Q4_K_XL": (7, 0), "Q6_K_L": (8, 1), "MXFP4_MOE": (1, 0), "BF16": (1, 0)}
    assert [quant.n_bytes for quant in find_quants(REPOSITORY)] == [10, 10, 60, 70, 80]


def test_vision_tower_in_f16_is_preferred() -> None:
    tower = find_vision(REPOSITORY)
    assert tower
    assert tower.path == "mmproj-F16.gguf"
    assert find_vision(files("a.gguf")) is None


@pytest.mark.parametrize("label", ["ud-q4_k_xl", "UD-Q4_K_XL", "UD_Q4_K_XL", "udq4kxl"])
def test_quant_is_found_under_each_spelling(label: str) -> None:
    listing = Listing("a/b", "main", "0" * 40, REPOSITORY)
    assert choose_quant(listing, label).label == "UD-Q4_K_XL"
    assert quant_key(label) == quant_key("UD-Q4_K_XL")


def test_quant_with_missing_part_is_refused() -> None:
    with pytest.raises(QwenctlError, match="a/b@main lacks 1 of the 9 parts of Q6_K_L"):
        choose_quant(Listing("a/b", "main", "0" * 40, REPOSITORY), "q6_k_l")


def test_quant_types_of_llama_fork_are_recognized() -> None:
    foreign = ["IQ4_KSS", "IQ2_KS", "Q4_K_R4", "IQ4_K", "IQ2_KL", "IQ1_KT", "IQ2_BN", "Q6_0", "Q8_KV", "BF16_R16"]
    usual = [*RECIPES, "UD-IQ2_XXS", "MXFP4_MOE", "UD-Q4_K_XL", "Q6_K_L"]
    assert [label for label in (*foreign, *usual) if PullCandidate(label, 1, 1).needs_llama_fork] == foreign


@pytest.mark.parametrize(
    "path",
    ["", ".", "../../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "a//x.gguf", "a\\x.gguf", "C:x.gguf", "com1.gguf",
     "aux/x.gguf", "CONIN$", "x\n.gguf", "x\x1b[2J.gguf", "x\0.gguf", "TOY.gguf", "x.gguf ", "x.", f"{'x' * 300}.gguf"],
)  # fmt: skip
def test_unsafe_path_is_refused(path: str) -> None:
    with pytest.raises(QwenctlError) as refused:
        check_paths("a/b", files("toy.gguf", path))
    assert refused.value.message == f"a/b lists the unsafe path {path!r}; nothing was downloaded"
    assert (refused.value.hint, refused.value.code) == ("report it to its owner, or pull another repository", 65)


@hypothesis.given(strategies.text(max_size=60))
def test_accepted_path_stays_inside_folder(path: str) -> None:
    try:
        check_paths("a/b", files(path))
    except QwenctlError:
        return
    base = Path("/base/folder")
    assert (base / path).resolve().is_relative_to(base)
    assert (base / path).resolve() != base


# ------------------------------------------------------------------ resolving a name

GGUF = Listing("x/y-GGUF", "main", "0" * 40, REPOSITORY)
CHECKPOINT = Listing("Qwen/Qwen3.5-35B-A3B", "main", "0" * 40, files("config.json", "model.safetensors", "README.md"))


def target(text: str, request: PullRequest | None = None) -> ResolvedTarget:
    """The target that a name resolves to on a Hub with only these two repositories."""
    asked: list[str] = []

    def describe(name: str) -> Listing:
        asked.append(name)
        return {"x/y-GGUF": GGUF, "unsloth/Qwen3.5-35B-A3B-GGUF": GGUF}.get(name, CHECKPOINT)

    return resolve_target(parse_name(text), request or PullRequest(), describe)


def test_short_name_resolves_to_repository_without_conversion() -> None:
    assert target("qwen3.5-35b-a3b").listing == GGUF
    assert target("qwen3.5-35b-a3b", PullRequest(recipe="Q4_K_M")).listing == CHECKPOINT
    assert target("qwen3.6-35b-a3b").listing == CHECKPOINT  # the catalog lists no GGUF repository for it


@pytest.mark.parametrize("code", [ExitCode.NO_INPUT, ExitCode.NO_PERMISSION])
def test_repositories_of_a_short_name_are_tried_until_one_is_there(code: ExitCode) -> None:
    asked: list[str] = []

    def describe(name: str) -> Listing:
        asked.append(name)
        if name != "Qwen/Qwen3.5-397B-A17B":
            raise QwenctlError(f"{name} is gone", "", code)
        return CHECKPOINT

    assert resolve_target(parse_name("qwen3.5-397b-a17b:Q4_K_M"), PullRequest(), describe).recipe == "Q4_K_M"
    assert asked == [*load_families()["qwen3.5-397b-a17b"].gguf, "Qwen/Qwen3.5-397B-A17B"]
    with pytest.raises(QwenctlError, match=r"unsloth/.* is gone"):
        resolve_target(parse_name("unsloth/Qwen3.5-397B-A17B-GGUF"), PullRequest(), describe)


def test_quantization_that_a_repository_lacks_is_not_made_from_the_checkpoint() -> None:
    with pytest.raises(QwenctlError, match="no file 'Q2_K' in x/y-GGUF@main"):
        target("qwen3.5-35b-a3b:Q2_K")


def test_name_without_quant_needs_choice() -> None:
    assert target("x/y-GGUF").needs_choice
    assert target("Qwen/Qwen3.5-35B-A3B").needs_choice


def test_quant_of_checkpoint_becomes_recipe() -> None:
    assert target("Qwen/Qwen3.5-35B-A3B:q4_k_m").recipe == "Q4_K_M"
    assert [file.path for file in target("Qwen/Qwen3.5-35B-A3B", PullRequest(source=True)).files] == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("blob/main/Qwen3.5-397B-A17B-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("blob/main/Q4_K_M/Qwen3.5-397B-A17B-Q4_K_M-00003-of-00006.gguf", "Q4_K_M"),
        ("tree/main/UD-Q4_K_XL", "UD-Q4_K_XL"),
    ],
)
def test_link_to_a_file_or_folder_resolves_to_its_quantization(path: str, label: str) -> None:
    assert target(f"https://huggingface.co/x/y-GGUF/{path}").label == label


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("README.md", "README.md is no GGUF model in x/y-GGUF@main"),
        ("mmproj-F16.gguf", "mmproj-F16.gguf is no GGUF model in x/y-GGUF@main"),
        ("x.gguf", "x.gguf does not exist in x/y-GGUF@main"),
        ("Qwen_Qwen3.5-397B-A17B-Q6_K_L", "x/y-GGUF lacks 1 of the 9 parts of Q6_K_L"),
    ],
)
def test_link_to_no_model_is_refused(path: str, line: str) -> None:
    with pytest.raises(QwenctlError) as caught:
        target(f"https://huggingface.co/x/y-GGUF/blob/main/{path}")
    assert (caught.value.message, caught.value.code) == (line, 66)
    assert "`qwenctl ls x/y-GGUF`" in caught.value.hint


def test_vision_tower_is_pulled_with_quant() -> None:
    assert target("x/y-GGUF:mxfp4_moe").files[-1].path == "mmproj-F16.gguf"
    assert len(target("x/y-GGUF:mxfp4_moe", PullRequest(vision=False)).files) == 1
