"""The scripts of `make test-vulkan`, whose tests are not part of this suite, are valid."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.paths import TESTS

FOLDER = TESTS / "vulkan"


def test_vulkan_scripts_are_valid_and_list_missing_packages(tmp_path: Path) -> None:
    for script in FOLDER.glob("*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "")
    done = subprocess.run(
        ["/bin/bash", str(FOLDER / "setup.sh")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    needed = "glslc libvulkan-dev libvulkan1 mesa-vulkan-drivers spirv-headers"
    line = f"vulkan: error: without apt-get these have to be there, by their names on Debian: {needed}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
