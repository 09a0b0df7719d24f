"""h_t = A h_{t-1} + b x_t, y_t = Re(c h_t) with an A that does not depend on time: S4, S4D, LSSL, LMU.

`api` is the public function, `reference` the definition, `contained` its other forms, `powers` are those of A.
"""
