"""Compute state matrices that project the past onto polynomials (HiPPO, Gu et al., 2020, arXiv 2008.07669).

    LegS    d/dt h = A h + B x      A_nk = -sqrt(2n+1) sqrt(2k+1)   n > k
                                         = -(n + 1)                 n = k,   0 above
                                    B_n  =  sqrt(2n+1)

A + P P^T with P_n = sqrt(n + 1/2) is normal, -1/2 I plus a skew-symmetric matrix: a unitary V takes A to Lambda - p p^H
with Lambda diagonal and p = V^H P (S4, arXiv 2111.00396, theorem 1). Eigenvalues come in conjugate pairs; of each pair
the one with positive imaginary part is stored.

    delay   theta d/dt m = A m + B u   A_ij = (2i+1) (-1 if i < j else (-1)^(i-j+1)),   B_i = (2i+1) (-1)^i

m are coefficients of Legendre polynomials over the last theta steps (Voelker et al., 2019). All arrays are float64.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float


def legs(size: int) -> tuple[Float[np.ndarray, "N N"], Float[np.ndarray, " N"]]:
    """Return A and B of HiPPO-LegS."""
    b = np.sqrt(2 * np.arange(size) + 1.0)
    return -np.tril(np.outer(b, b), -1) - np.diag(np.arange(size) + 1.0), b


class Diagonalised(NamedTuple):
    """HiPPO-LegS in the basis of its normal part; one of each conjugate pair, M = N / 2."""

    a: Complex[np.ndarray, " M"]
    """Lambda, eigenvalues of the normal part."""
    p: Complex[np.ndarray, " M"]
    """V^H P: A is Lambda - p p^H."""
    b: Complex[np.ndarray, " M"]
    """V^H B."""
    v: Complex[np.ndarray, "N M"]
    """Columns of V."""


def diagonalised_legs(size: int) -> Diagonalised:
    """Return HiPPO-LegS in diagonal form; the size must be even."""
    a, b = legs(size)
    p = np.sqrt(np.arange(size) + 0.5)
    # The skew-symmetric part times -i is Hermitian: real eigenvalues, sorted, and a unitary V.
    frequencies, v = np.linalg.eigh(-1j * (a + np.outer(p, p) + 0.5 * np.eye(size)))
    frequencies, v = frequencies[size // 2 :], v[:, size // 2 :]
    return Diagonalised(-0.5 + 1j * frequencies, v.conj().T @ p, v.conj().T @ b, v)


def delay(size: int, theta: float) -> tuple[Float[np.ndarray, "N N"], Float[np.ndarray, " N"]]:
    """Return A and B of the Legendre delay system, per step."""
    i, j = np.arange(size)[:, None], np.arange(size)[None]
    scale = (2 * i + 1) / theta
    return scale * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)), (scale * (-1.0) ** i)[:, 0]


def hold(
    a: Float[np.ndarray, "N N"], b: Float[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "N N"], Float[np.ndarray, " N"]]:
    """Return exp(A) - I and A^-1 (exp(A) - I) B: one step of d/dt h = A h + B x with x held constant.

    Both are blocks of exp of the matrix (A B; 0 0), computed by its Taylor series at a small multiple and then by
    repeated squaring.
    """
    size = len(b)
    matrix = np.zeros((size + 1, size + 1))
    matrix[:size, :size], matrix[:size, size] = a, b
    halvings = max(0, int(np.ceil(np.log2(np.linalg.norm(matrix, 1) + 1e-300))) + 1)
    matrix /= 2.0**halvings
    less_identity = term = matrix
    for i in range(2, 20):
        term = term @ matrix / i
        less_identity = less_identity + term
    for _ in range(halvings):
        less_identity = 2 * less_identity + less_identity @ less_identity
    return less_identity[:size, :size], less_identity[:size, size]
