"""Dictionaries: one contract for sparse autoencoders and for the classical methods they are compared with."""

from .base import Dictionary as Dictionary
from .base import Provenance as Provenance
from .base import to_dense as to_dense
from .base import to_sparse as to_sparse
from .base import unit_rows as unit_rows
from .files import load_dictionary as load_dictionary
from .files import save_dictionary as save_dictionary
from .fitting import fit as fit
from .linear import ICADictionary as ICADictionary
from .linear import NeuronDictionary as NeuronDictionary
from .linear import PCADictionary as PCADictionary
from .linear import RandomDirections as RandomDirections
from .methods import ICA as ICA
from .methods import NMF as NMF
from .methods import PCA as PCA
from .methods import FitMethod as FitMethod
from .methods import Neurons as Neurons
from .methods import Random as Random
from .nmf import NMFDictionary as NMFDictionary
from .sae import TiedSAE as TiedSAE
from .sae import TopKSAE as TopKSAE
from .sae import UntiedSAE as UntiedSAE
