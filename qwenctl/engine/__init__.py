"""The process boundary: the model runs in a child process, because libllama can abort, crash and block.

On the program's side are `qwenctl.protocol` (the messages and their encoding), `interface` (what the program needs of
an engine), `client` (starts, queries and stops the child) and `ending` (explains a crash). All other modules run in the
child, under `worker`, and may import llama_cpp.
"""
