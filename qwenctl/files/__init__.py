"""Files of the user: where they lie, how they are written whole, locked, and read as media."""
