"""Which type each tensor gets: recipes, importance matrices and classes of tensors."""
