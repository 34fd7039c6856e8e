"""Symmetric matrices known by their products, their eigenpairs, and functions of them; symmetric tensors known by their
contractions."""

from linalg.cp import SymmetricCP
from linalg.dense import Dense, as_matrix
from linalg.diagonal_plus_low_rank import DiagonalPlusLowRank
from linalg.differences import central_product, differences
from linalg.functions import apply_by_eigenvectors, phi
from linalg.jacobians import Jacobian, hutchinson_diagonal, jacobian, jacobian_product, jacobian_rows
from linalg.krylov import block_krylov, block_lanczos, conjugate_gradients, lanczos, subspace_iteration
from linalg.matrix import SymmetricMatrix
from linalg.orthogonal import orthogonal_columns
from linalg.restricted import Restricted, restrict
from linalg.secants import refine_eigenpairs
from linalg.second_derivatives import MatrixDerivative, SecondDerivative, second_derivative_product
from linalg.solves import logdet_estimate, solve_by_products
from linalg.tapered import TaperedLowRank
from linalg.tensors import SymmetricTensor

__all__ = [
    "Dense",
    "DiagonalPlusLowRank",
    "Jacobian",
    "MatrixDerivative",
    "Restricted",
    "SecondDerivative",
    "SymmetricCP",
    "SymmetricMatrix",
    "SymmetricTensor",
    "TaperedLowRank",
    "apply_by_eigenvectors",
    "as_matrix",
    "block_krylov",
    "block_lanczos",
    "central_product",
    "conjugate_gradients",
    "differences",
    "hutchinson_diagonal",
    "jacobian",
    "jacobian_product",
    "jacobian_rows",
    "lanczos",
    "logdet_estimate",
    "orthogonal_columns",
    "phi",
    "refine_eigenpairs",
    "restrict",
    "second_derivative_product",
    "solve_by_products",
    "subspace_iteration",
]
