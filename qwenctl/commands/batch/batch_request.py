"""What `qwenctl batch` was asked for, as a value: its options, after their own checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenctl.commands.options.vision_options import MediaOptions
from qwenctl.placement.constraints import LoadRequest
from qwenctl.protocol.load import LoadParams


@dataclass(frozen=True)
class BatchOptions:
    """What was asked for, beside how answers are made (`wanted`) and how the model is loaded (`engine`)."""

    source: str
    output: str
    model: Path | None
    kind: str
    null: bool
    prompt: str | None
    system: str | None
    prefix: str | None
    keep: tuple[str, ...]
    style: Any
    select: str
    order: Any
    parallel: int
    seed: int
    limit: int | None
    sample: int | None
    endpoints: tuple[str, ...]
    api_key: str
    timeout: int
    patience: int
    share: bool
    force: bool
    retry_errors: bool
    overwrite: bool
    dry_run: bool
    plot: Path | None
    json: bool
    quiet: bool
    wanted: dict[str, Any] = field(default_factory=dict)
    engine: LoadParams = field(default_factory=LoadParams)
    pictures: MediaOptions = field(default_factory=MediaOptions)
    asked: LoadRequest = field(default_factory=LoadRequest)
