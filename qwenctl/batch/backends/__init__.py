"""Who answers the records of a batch: an engine on this machine, or OpenAI-compatible servers."""
