"""The methods that can be trained, each with its mathematics in the file of its name."""

from .base import Entries as Entries
from .base import Method as Method
from .base import Moment as Moment
from .base import Weights as Weights
from .gated import Gated as Gated
from .jumprelu import JumpReLU as JumpReLU
from .l1 import PAnneal as PAnneal
from .l1 import TiedL1 as TiedL1
from .l1 import UntiedL1 as UntiedL1
from .topk import BatchTopK as BatchTopK
from .topk import KeepsK as KeepsK
from .topk import Matryoshka as Matryoshka
from .topk import TopK as TopK
from .transcoder import Transcoder as Transcoder
