"""From logits to text: the sampler, grammars, stop conditions and the streaming detokenizer."""
