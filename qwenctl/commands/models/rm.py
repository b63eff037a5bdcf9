"""`qwenctl rm`: removes local models."""

from __future__ import annotations

from quantize.formatting import format_bytes
from qwenctl.commands.options import common as options
from qwenctl.commands.options import hub as hub_options
from qwenctl.commands.options.common import confirm
from qwenctl.commands.options.local_model import Name, find_installed
from qwenctl.commands.quantize.result import print_json, print_status


def rm_command(name: Name, yes: hub_options.Yes = False, json: options.Json = False) -> None:
    """Remove a local model.

    Without a quantization in NAME, all models of the repository are removed. Asks first on a terminal.
    """
    from qwenctl.hub.local.installed import find_installed_models
    from qwenctl.hub.local.removal import remove_models

    models = find_installed(name)
    names = ", ".join(dict.fromkeys(model.name for model in models))
    n_bytes = sum(model.n_bytes for model in models)
    if not yes and not json and not confirm(f"remove {names} ({format_bytes(n_bytes)})?"):
        return
    freed = remove_models(models, [model for model in find_installed_models() if model not in models])
    print_status(f"removed {names}: freed {format_bytes(freed)}", quiet=json)
    if json:
        print_json({"removed": [model.name for model in models], "freed_bytes": freed})
