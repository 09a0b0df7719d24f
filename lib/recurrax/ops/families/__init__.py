"""Hold the ops, one package per family of recurrences; `recurrax.ops` exports their functions."""
