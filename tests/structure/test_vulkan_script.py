"""What is tested on a Vulkan device (`make test-vulkan`) is not part of these tests, but its scripts can be run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.paths import TESTS

FOLDER = TESTS / "vulkan"


def test_the_scripts_are_valid_and_say_what_is_missing(tmp_path: Path) -> None:
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
