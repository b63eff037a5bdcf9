"""The process boundary: the model runs in a child process, because libllama can abort, crash and block.

On the program's side are `protocol` and `batch_protocol` (the messages, `placement` and `wire` with them), `contract`
(what the program needs) and `client` (start, ask, listen, stop). All other modules run in the child, under `worker`,
and may import llama_cpp.
"""
