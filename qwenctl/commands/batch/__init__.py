"""`qwenctl batch`."""
