"""Tests of llama.cpp's Vulkan backend on Mesa's software device; not part of `make test` (see `run.sh`)."""
