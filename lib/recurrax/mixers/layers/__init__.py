"""Hold the published token mixers, one per file; `recurrax.mixers` exports them."""
