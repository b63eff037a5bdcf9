"""Images and videos as embeddings: decoded, resized, encoded and cached."""
