"""GGUF files beside models: vision encoders and importance matrices under the names that publishers give them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.support.cli_runner import outcome, run
from tests.support.fake_hub import FakeHub, serve_folder
from tests.support.gguf_files import converted
from tests.support.paths import DATA
from tests.support.pictures import RED
from tests.support.pulling import failure, qwenctl

NAME = "owner/Name-GGUF"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy in two types with its mmproj file, and an importance matrix."""
    folder = tmp_path_factory.mktemp("made")
    converted(DATA / "toy", folder / "Q8_0.gguf", "Q8_0")
    converted(DATA / "toy", folder / "Q4_K_M.gguf", "Q4_K_M", vision=False)
    next(folder.glob("mmproj*")).rename(folder / "mmproj.gguf")
    writer = gguf.GGUFWriter(folder / "imatrix.gguf", "")
    writer.add_type("imatrix")
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_tensor("blk.0.ffn_up.weight.in_sum2", np.ones(256, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return folder


def repository(folder: Path, made: Path, **files: str) -> FakeHub:
    """A Hub with one repository of these files, by name and source."""
    for name, source in files.items():
        (folder / "repo").mkdir(exist_ok=True)
        shutil.copy(made / f"{source}.gguf", folder / "repo" / f"{name}.gguf")
    return FakeHub({NAME: serve_folder(folder / "repo")})


def test_pull_and_ls_agree_on_mmproj_in_the_middle_of_a_name(made: Path, tmp_path: Path) -> None:
    files = {
        "Model.Q4_K_M": "Q4_K_M", "Model.Q8_0": "Q8_0",
        "Model.mmproj-Q8_0": "mmproj", "Model.mmproj-f16": "mmproj",
    }  # fmt: skip
    with repository(tmp_path, made, **files) as hub:
        listed = json.loads(qwenctl(hub, tmp_path, "ls", NAME, "--json").stdout)
        assert [(row["quant"], round(row["bytes"] / 1e6, 1)) for row in listed][1:] == [("Q8_0", 12.2)]
        assert [row["quant"] for row in listed] == ["Q4_K_M", "Q8_0"]
        done = qwenctl(hub, tmp_path, "pull", f"{NAME}:Q8_0", "--json")
    assert [file["path"] for file in json.loads(done.stdout)["files"]] == ["Model.Q8_0.gguf", "Model.mmproj-f16.gguf"]
    [model] = json.loads(qwenctl(hub, tmp_path, "ls", "--json").stdout)
    assert model["name"] == f"{NAME}:Q8_0"


@pytest.mark.parametrize("name", ["Name-imatrix", "Name.imatrix", "Name-Q4_K_M-imatrix"])
def test_importance_matrix_is_no_quantization(name: str, made: Path, tmp_path: Path) -> None:
    files = {"Name-Q4_K_M": "Q4_K_M", "Name-Q8_0": "Q8_0", name: "imatrix", "mmproj-Name-f16": "mmproj"}
    with repository(tmp_path, made, **files) as hub:
        listed = json.loads(qwenctl(hub, tmp_path, "ls", NAME, "--json").stdout)
    assert [row["quant"] for row in listed] == ["Q4_K_M", "Q8_0"]
    assert listed[0]["needed_bytes"] == listed[0]["bytes"] + 646_137_856  # from the header of a model


def test_local_files_are_what_their_headers_say(made: Path, tmp_path: Path) -> None:
    with repository(tmp_path, made, **{"Toy-imatrix-Q8_0": "Q8_0", "Tower-Q8_0": "mmproj"}) as hub:
        cache = tmp_path / "hf" / "hub" / f"models--{NAME.replace('/', '--')}"
        (cache / "snapshots").mkdir(parents=True)
        (tmp_path / "repo").rename(cache / "snapshots" / ("a" * 40))
        [model] = json.loads(qwenctl(hub, tmp_path, "ls", "--json").stdout)
    assert model["path"].endswith("Toy-imatrix-Q8_0.gguf")
    assert model["bytes"] > os.path.getsize(made / "Q8_0.gguf")  # with the mmproj file


def test_towers_of_other_models_matter_only_to_a_picture(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "Q8_0.gguf", tmp_path / "my finetune-Q8_0.gguf")
    for name in ("alpha", "beta"):  # `general.name` keeps its length
        data = (made / "mmproj.gguf").read_bytes()
        key = b"general.name"
        at = data.index(key) + len(key) + 4
        length = int.from_bytes(data[at : at + 8], "little")
        text = name.encode().ljust(length)[:length]
        (tmp_path / f"mmproj-{name}-F16.gguf").write_bytes(data[: at + 8] + text + data[at + 8 + length :])
    command = ("chat", "-m", str(tmp_path / "my finetune-Q8_0.gguf"), "-t", "1", "-c", "512", "--no-think")
    done = run(*command, "What is the capital of France?", stdin=b"")
    assert (done.returncode, b"Paris" in done.stdout) == (0, True), done.stderr
    done = run(*command, "-i", str(RED), "What is this?", stdin=b"")
    assert (done.returncode, done.stdout) == (2, b"")
    assert re.search(
        r"several mmproj files match the model: choose one for images\n  hint: --mmproj ", done.stderr.decode()
    )


def test_type_of_the_fork_is_pulled_only_with_consent(made: Path, tmp_path: Path) -> None:
    with repository(tmp_path, made, **{"Name-IQ4_KSS": "Q4_K_M", "Name-Q8_0": "Q8_0"}) as hub:
        line, hint, code = failure(qwenctl(hub, tmp_path, "pull", f"{NAME}:iq4_kss"))
        assert (line, code) == (f"llama.cpp cannot load IQ4_KSS of {NAME}, a type of its fork ik_llama.cpp", 2)
        assert hint == f"another quantization (`qwenctl ls {NAME}`), or `--yes` to pull it anyway"
        assert hub.sent == 0
        for consent in ("--dry-run", "--yes"):
            done = qwenctl(hub, tmp_path, "pull", f"{NAME}:iq4_kss", consent)
            assert (done.returncode, done.stderr.splitlines()[0]) == (0, f"qwenctl: warning: {line}")


def test_model_with_a_type_of_the_fork_is_named_as_such(made: Path, tmp_path: Path) -> None:
    data = bytearray((made / "Q8_0.gguf").read_bytes())
    name = b"blk.0.ffn_up_exps.weight"
    at = data.index(name) + len(name)
    at += 4 + 8 * int.from_bytes(data[at : at + 4], "little")  # the number of dimensions, and each of them
    data[at : at + 4] = (146).to_bytes(4, "little")
    (tmp_path / "x.gguf").write_bytes(data)
    line, hint, code = outcome("chat", "-m", str(tmp_path / "x.gguf"))
    assert "has the type IQ4_KSS of ik_llama.cpp, a fork of llama.cpp" in line
    assert (code, "another quantization" in hint) == (65, True)


def test_links_and_names_of_files_without_a_type_are_pulled_and_loaded(made: Path, tmp_path: Path) -> None:
    """Whatever a pull prints as the next command names the model that it has pulled."""
    files = {"Own Name (v2)": "Q4_K_M", "a/Toy-Q8_0": "Q8_0", "b/Toy-Q8_0": "Q4_K_M"}
    for folder in ("a", "b"):
        (tmp_path / "repo" / folder).mkdir(parents=True)
    with repository(tmp_path, made, **files) as hub:
        for path, arguments in (
            ("Own Name (v2).gguf", [f"{NAME}:Own Name (v2)"]),
            ("b/Toy-Q8_0.gguf", [f"https://huggingface.co/{NAME}/blob/main/b/Toy-Q8_0.gguf"]),
            ("a/Toy-Q8_0.gguf", [f"{hub.url}/{NAME}/resolve/main/a/Toy-Q8_0.gguf?download=true"]),
            ("Own Name (v2).gguf", [f"{NAME}:Own Name (v2)", "--to", str(tmp_path / "other place")]),
        ):
            done = qwenctl(hub, tmp_path, "pull", *arguments)
            assert done.stdout.endswith(f"/{path}\n"), done.stderr
            [step] = re.findall(r"^next: (qwenctl chat -m .*)$", done.stderr, re.MULTILINE)
            given = shlex.split(step)[-1]
            shown = json.loads(qwenctl(hub, tmp_path, "show", given, "--json").stdout)
            assert (shown["path"], shown["quant"] != "") == (done.stdout.rstrip("\n"), True)
