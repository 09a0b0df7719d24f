"""Hold the projections, one per file; `recurrax.projections` exports them."""
