"""The unfinished GGUF on disk: written, hashed, resumed after a stop, and renamed when it is complete."""
