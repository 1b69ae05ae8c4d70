"""Training: ensembles of sparse autoencoders on one pass over the data."""

from .ensemble import train as train
from .methods import BatchTopK as BatchTopK
from .methods import Gated as Gated
from .methods import JumpReLU as JumpReLU
from .methods import Matryoshka as Matryoshka
from .methods import Method as Method
from .methods import PAnneal as PAnneal
from .methods import TiedL1 as TiedL1
from .methods import TopK as TopK
from .methods import Transcoder as Transcoder
from .methods import UntiedL1 as UntiedL1
