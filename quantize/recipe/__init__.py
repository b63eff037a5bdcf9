"""Choose the type of each tensor: recipes, importance matrices and tensor classes."""
