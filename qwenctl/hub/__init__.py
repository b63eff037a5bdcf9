"""Find, download and manage models from the Hugging Face Hub.

1. `repository` describes repositories: `model_name` parses the name that a user types, `catalog` knows the family's
   repositories by short names, `listing` is a repository at one commit, `quantizations` groups its GGUF files.
2. `download` fetches files: `hub_api` sends the requests, `http_errors` translates failures, `retry` decides how long
   to retry, `downloader` runs the connections, which take segments from a `segment_queue`; a `partial_file` is a file
   until it is complete and verified.
3. `select` chooses what to pull: `available_quants` lists the candidates, `fit` says where each fits on this machine,
   `target` resolves a name to files or to a recipe.
4. `pull` plans and executes a pull.
5. `local` knows what is on this machine: `hf_cache` is where files are stored, `lock_file` records what was pulled,
   `registry` what was stored elsewhere, `installed` finds models, `verification` checks them, `stale_downloads` and
   `removal` free disk space.
6. `streaming` quantizes a checkpoint while it downloads: `header_only` is a checkpoint without its weights,
   `shard_buffer` feeds the conversion with shards as they arrive, `conversion` combines the two.
"""

from __future__ import annotations

import os

# Set before huggingface_hub is imported, because it reads this variable only once: otherwise it would detect at each
# start which programs run it, and report that to the Hub.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
