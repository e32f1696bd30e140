"""A session whose calls run at two places: which runs where, and what is brought between them."""
