"""S_t = (diag(e^{g_t}) + b_t a_t^T) S_{t-1} + k_t v_t^T: diagonal plus low rank."""
