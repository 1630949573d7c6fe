"""The type checker the tests put on every function: beartype, with ints accepted where floats are (PEP 484)."""

from beartype import BeartypeConf, beartype

tower = beartype(conf=BeartypeConf(is_pep484_tower=True))
