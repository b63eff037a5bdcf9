"""Pictures and videos as embeddings: read, resized, encoded, and cached."""
