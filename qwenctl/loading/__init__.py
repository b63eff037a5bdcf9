"""From a model file and what the user fixed to an engine with the model in it."""
