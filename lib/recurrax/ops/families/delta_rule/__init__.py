"""S = diag(e^{g_t}) S_{t-1}, then S_t = S + b_t k_t (v_t - S^T k_t)^T, once or several times per token."""
