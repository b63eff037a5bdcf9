"""Convert a Qwen3.5 checkpoint to quantized GGUF files in one pass.

The path of the data, one module per step:

1. `checkpoint` reads config.json and the headers of the safetensors shards; `qwen35.model_config` parses the config.
2. `qwen35.text_tensors` and `qwen35.vision_tensors` say which source rows make up each tensor of the output.
3. `recipe.recipes` chooses a ggml type for each tensor; `recipe.imatrix` reads the importance of the columns.
4. `qwen35.vocabulary` and `qwen35.metadata` build the key/value part of the GGUF header; `layout` assigns offsets.
5. `plan` combines these steps: the offset of every output byte is known before a weight is read. `summary` adds up the
   sizes.
6. `convert` executes the plan: `row_chunks` reads and transforms rows, `ggml.library` quantizes them, and `output`
   writes temporary files, records finished tensors in the `journal`, and renames the files when they are complete.
"""
