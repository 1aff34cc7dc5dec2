"""Sigmoid networks as explicit tensor operations, trained from many random starts at once."""

from hillstart.errors import InputError as InputError
from hillstart.inference import load as load
from hillstart.network import Network as Network
