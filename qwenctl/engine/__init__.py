"""The process boundary: the model runs in a child process, because libllama can abort, crash and block.

On the program's side are `interface` (what the program needs), `client` (start, ask, listen, stop) and `ending` (why an
engine has ended). All other modules run in the child, under `worker`, and may import llama_cpp. The messages between
the two are in `qwenctl.protocol`.
"""
