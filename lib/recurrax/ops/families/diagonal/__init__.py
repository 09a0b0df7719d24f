"""h_t = a_t * h_{t-1} + x_t, elementwise: the recurrence of LRU, S4D, S5, RG-LRU, HGRN, minGRU and Mamba.

`api` is the public function and its gradient, `reference` the definition, `sequential`, `parallel` and `pallas_tpu` its
executions, `double_word` the arithmetic that keeps their rounding errors from piling up over time.
"""
