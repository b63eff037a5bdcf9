"""`qwenctl chat`, and the commands for what it saves."""
