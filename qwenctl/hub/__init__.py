"""Models of the Hugging Face Hub, on their way to this machine and on it.

1. `names` reads what a person calls a model; `catalogue` knows the family's repositories by short names.
2. `client` asks the Hub: `remote` holds its answer, `refusals` says what went wrong, `patience` how long to try.
3. `quants` sorts a repository's files into quantizations; `fit` says where each would fit on this machine.
4. `pull_plan` is what a pull will do, before the first byte; `fetch` does it, with the connections' work on a `board`,
   each file a `part` until it is whole and verified.
5. `cache` is where files lie, `exclusive` keeps two processes apart, `lock_file` notes what was pulled.
6. `library` finds models on this machine; `leftovers` finds what nobody needs.
7. `skeleton` is a checkpoint without its weights, `spool` feeds a conversion with shards as they arrive, `conversion`
   puts both together.
"""

from __future__ import annotations

import os

# Before huggingface_hub is imported, which reads it once: it would ask the Hub at each start what other programs call
# it, and tell what it finds.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
