"""`python -m eval tasks`: small models on the tasks of `recurrax.tasks`, a table and a picture of what they can do."""
