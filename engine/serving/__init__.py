"""The page of `recipes.demo`: its files, what answers it and what serves it."""
