"""A Qwen3.5 checkpoint in, GGUF files out, in one pass.

The data's way, one module a step:

1. `checkpoint` reads config.json and the headers of the safetensors shards; `qwen35.model_config` gives them names.
2. `qwen35.text_tensors` and `vision_tensors` say which rows of which source tensors make each tensor of the output.
3. `recipe.recipes` chooses a ggml type for each of them; `recipe.imatrix` holds the importance of the columns.
4. `qwen35.vocabulary` and `qwen35.metadata` make the key/value part of the GGUF header; `layout` gives each tensor its
   place.
5. `plan` does all of that: every byte of every output file has its place before a weight is read; `summary` counts.
6. `convert` follows the plan: `row_chunks` reads and transforms rows, `ggml.library` quantizes them, `output` keeps the
   unfinished files, with the `journal` of what is done, and gives them their names when they are whole.
"""
