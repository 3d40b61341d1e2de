"""Online distillation: peers that learn together and teach each other. One file for each published method."""

from coterie.methods.online.aggregators import AGGREGATORS, Aggregator
from coterie.methods.online.cl_ilr import ClIlr
from coterie.methods.online.config import Distillation, OnlineConfig
from coterie.methods.online.dml import Dml
from coterie.methods.online.ffl import Ffl
from coterie.methods.online.kdcl import Kdcl
from coterie.methods.online.method import Online, OnlineMethod
from coterie.methods.online.okddip import OkdDip
from coterie.methods.online.one import One
from coterie.methods.online.pcl import Pcl
from coterie.methods.online.peers import Branched, Independent
from coterie.methods.online.targets import TARGETS, Targets

__all__ = [
    "AGGREGATORS",
    "TARGETS",
    "Aggregator",
    "Branched",
    "ClIlr",
    "Distillation",
    "Dml",
    "Ffl",
    "Independent",
    "Kdcl",
    "OkdDip",
    "One",
    "Online",
    "OnlineConfig",
    "OnlineMethod",
    "Pcl",
    "Targets",
]
