"""`qwenctl rm`: takes a model off this machine."""

from __future__ import annotations

from quantize.formatting import size
from qwenctl.commands.options import common as options
from qwenctl.commands.options import hub as hub_options
from qwenctl.commands.options.common import agreed
from qwenctl.commands.options.local_model import Name, find_here
from qwenctl.commands.quantize.result import print_json, say


def rm_command(name: Name, yes: hub_options.Yes = False, json: options.Json = False) -> None:
    """Remove a model; without a quantization in its name, all of that repository. Asks first on a terminal."""
    from qwenctl.hub.local.installed import local_models
    from qwenctl.hub.local.removal import remove_models

    models = find_here(name)
    names = ", ".join(dict.fromkeys(model.name for model in models))
    n_bytes = sum(model.n_bytes for model in models)
    if not yes and not json and not agreed(f"remove {names} ({size(n_bytes)})?"):
        return
    freed = remove_models(models, [model for model in local_models() if model not in models])
    say(f"removed {names}: {size(freed)} are free", quiet=json)
    if json:
        print_json({"removed": [model.name for model in models], "freed_bytes": freed})
