"""Models of the Hugging Face Hub, on their way to this machine and on it.

1. `repository.model_name` parses what a user calls a model; `repository.catalog` knows the family's repositories by
   short names.
2. `download.hub_api` asks the Hub: `repository.listing` holds its answer, `download.http_errors` says what went wrong,
   `download.retry` how long to try.
3. `repository.quantizations` sorts a repository's files into quantizations; `select.fit` says where each would fit on
   this machine.
4. `pull` is what a pull will do, before the first byte; `download.downloader` does it, with the connections' work in a
   `segment_queue`, each file a `partial_file` until it is whole and verified.
5. `local.hf_cache` is where files lie, `local.lock_file` notes what was pulled.
6. `local.installed` finds models on this machine; `local.stale_downloads` finds what nobody needs.
7. `streaming.header_only` is a checkpoint without its weights, `streaming.shard_buffer` feeds a conversion with shards
   as they arrive, `streaming.conversion` puts both together.
"""

from __future__ import annotations

import os

# Before huggingface_hub is imported, which reads it once: it would ask the Hub at each start what other programs call
# it, and tell what it finds.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
