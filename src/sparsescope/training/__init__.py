"""Training: ensembles of sparse autoencoders on one pass over the data."""

from .ensemble import train as train
from .methods import Method as Method
from .methods import TiedL1 as TiedL1
from .methods import TopK as TopK
from .methods import UntiedL1 as UntiedL1
