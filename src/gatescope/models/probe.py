"""What a decoder computes, seen on its twin: one token's forward pass, with random numbers for every projection's output.

What is not computed from the weights is true of the model: which modules run, what is multiplied with what, and of which
projections' outputs a tensor is made. The last is told by gradients, which norms, rotation and scaling let through.

    projections     each that ran: what it was given, and what it gave
    nonlinearities  modules and functions of torch that gave a tensor of the shape of the one they were given
    products        of two tensors of one shape
    attentions      what query, key and value are made of
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gatescope.core.errors import GatescopeError, first_line
from gatescope.models.decoder import Decoder
from gatescope.models.found import is_projection
from gatescope.models.twin import Projection, on_cpu, twin_of, weightless

_PRODUCTS = ("mul", "__mul__", "__rmul__", "__imul__", "mul_", "multiply")
_MATRIX_PRODUCTS = ("matmul", "__matmul__", "bmm", "baddbmm", "einsum")
_WITH_WEIGHTS = ("linear", "addmm", *_MATRIX_PRODUCTS)

Sources = dict[str, list[int]]  # columns of projections' outputs, by the projection's path


@dataclass(frozen=True)
class Call:
    """A projection, or a nonlinearity, that ran.

    Attributes:
        time: when, in the order of everything that ran.
        path: of the module, from the root of the model; "" of a function.
        name: of the function; "" of a module.
        given: its input.
        made: its output.
        source: path of the one projection in the same block of whose output the input is made number by number, but changed.
    """

    time: int
    path: str
    name: str
    given: Tensor
    made: Tensor
    source: str = ""


@dataclass(frozen=True)
class Product:
    """left * right, of one shape, and when."""

    time: int
    left: Tensor
    right: Tensor
    made: Tensor


@dataclass(frozen=True)
class Attention:
    """What query, key and value are made of, and when."""

    time: int
    q: Sources
    k: Sources
    v: Sources

    def uses(self, path: str) -> bool:
        """Whether any of the three is made of a projection's output."""
        return any(path in sources for sources in (self.q, self.k, self.v))


@dataclass
class Probe:
    """Everything that was seen (see the module's docstring).

    Attributes:
        shared: paths of the modules that are in several places.
        picture: what stood for a picture's features, if some layers see them beside the text.
    """

    projections: list[Call] = field(default_factory=list)
    nonlinearities: list[Call] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)
    shared: set[str] = field(default_factory=set)
    picture: Tensor | None = None

    def within(self, path: str) -> Probe:
        """What was seen while a block ran: from its first projection to its last."""
        projections = [call for call in self.projections if call.path.startswith(f"{path}.")]
        times = range(projections[0].time, projections[-1].time + 1) if projections else range(0)
        nonlinearities = [call for call in self.nonlinearities if call.time in times]
        products = [product for product in self.products if product.time in times]
        attentions = [attention for attention in self.attentions if attention.time in times]
        return Probe(projections, nonlinearities, products, attentions, self.shared, self.picture)


def probed(decoder: Decoder) -> Probe:
    """Run a decoder's twin on one token.

    Raises:
        GatescopeError: if the twin does not run.
    """
    watch = _Watch(decoder)
    try:
        # Whatever the caller has switched on is not for the twin.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False), on_cpu():
            watch.run()
    except Exception as error:  # of whatever kind a model's own code makes of it
        raise GatescopeError(
            f"{type(decoder.module).__name__} cannot be run on one token of text, by which gatescope finds its neurons "
            f"({type(error).__name__}: {first_line(error)})."
        ) from error
    return watch.probe


def same(one: Tensor, other: Tensor) -> bool:
    """Equal but for how the numbers are folded."""
    return one.numel() == other.numel() and torch.equal(one.detach().flatten(), other.detach().flatten())


class _Watch(TorchFunctionMode):
    """Fills a probe while a twin runs."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder, self.probe, self.clock = decoder, Probe(), itertools.count()
        self.generator = torch.Generator().manual_seed(0)
        # The projections of the block that have run: how many inputs they have, and what they gave.
        self.block, self.earlier = "", dict[str, tuple[int, Tensor]]()
        # Of tables of scores, by the tensor's id: the tensor, its query and key, and whether they are weights already.
        self.tables: dict[int, tuple[Tensor, Tensor, Tensor, bool]] = {}

    def run(self) -> None:
        twin = twin_of(self.decoder.module)
        paths: dict[int, list[str]] = {}
        for name, module in twin.named_modules(remove_duplicate=False):
            paths.setdefault(id(module), []).append(f"{self.decoder.path}.{name}".strip("."))
        for module in twin.modules():
            first, *others = paths[id(module)]
            self.probe.shared |= {first, *others} if others else set()
            if not list(module.children()):
                watched = self._projection if is_projection(module) else self._leaf
                module.forward = watched(first, module)
        taken = inspect.signature(twin.forward).parameters
        options: dict[str, Any] = {"use_cache": False} if "use_cache" in taken else {}
        if "cross_attention_states" in taken:  # layers that see a picture run where there is one
            self.probe.picture = options["cross_attention_states"] = torch.ones(1, 1, twin.config.hidden_size)
        with self:
            twin(input_ids=torch.ones(1, 1, dtype=torch.long), **options)

    def _projection(self, path: str, module: Projection) -> Callable[..., Tensor]:
        block = self.decoder.block(path)

        def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
            with torch._C.DisableTorchFunction():  # what is done here is not the twin's
                self.tables.clear()  # between the scores and their product with the values no projection runs
                if self.block != block:
                    self.block, self.earlier = block, {}
                made = torch.empty(*x.shape[:-1], module.out_features)
                # Small, so that nothing is clipped, and of both signs, so that a rectifier is no identity.
                made.uniform_(-0.03, 0.03, generator=self.generator).requires_grad_(True)
                source = self._source(x, module.out_features)
                self.earlier[path] = module.in_features, made
                self.probe.projections.append(Call(next(self.clock), path, "", x.detach().clone(), made, source))
                return made.clone()  # a leaf could not be changed in place

        return forward

    def _source(self, x: Tensor, outputs: int) -> str:
        """See `Call.source`. Told at once: what a tensor was made by is not kept, for it may be large."""
        # Their sizes first: what a tensor is made of takes a backward pass.
        there_and_back = {
            path for path, (inputs, made) in self.earlier.items() if (inputs, made.shape[-1]) == (outputs, x.shape[-1])
        }
        if not there_and_back:
            return ""
        path, *others = self._sources(x) or [""]
        if others or path not in there_and_back or same(self.earlier[path][1], x):
            return ""
        return path if self._elementwise(x, path) else ""

    def _leaf(self, path: str, module: nn.Module) -> Callable[..., Any]:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not isinstance(module, nn.Dropout | nn.Identity):
                self._nonlinearity(path, "", (*args, *kwargs.values()), result)
            return result

        return forward

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":  # of a shape, a type, ...
            return func(*args, **kwargs)
        values = (*args, *kwargs.values())
        if name in _WITH_WEIGHTS and any(weightless(value) for value in values):
            return _zeros(func, args, kwargs)
        # Before the product, which may change one of them in place.
        factors = _factors(*values) if name in _PRODUCTS else None
        result = func(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
            self._attention(given["query"], given["key"], given["value"])
        elif factors is not None:
            self.probe.products.append(Product(next(self.clock), *factors, result.detach().clone()))
        elif name in _MATRIX_PRODUCTS:
            self._matrices(list(_tensors(values)), result)
            return result
        elif name in vars(functional) and name != "dropout":
            self._nonlinearity("", name, values, result)
        self._follow(list(_tensors(values)), result, name.endswith("softmax"))
        return result

    def _nonlinearity(self, path: str, name: str, args: Iterable[Any], result: Any) -> None:
        given = next(_tensors(args), None)
        if given is not None and _one_token(result) and given.shape == result.shape:
            call = Call(next(self.clock), path, name, given.detach().clone(), result.detach().clone())
            self.probe.nonlinearities.append(call)

    def _matrices(self, tensors: list[Tensor], result: Tensor) -> None:
        """Attention written out: the table of scores, and after its softmax the product with the values."""
        *_, left, right = tensors  # baddbmm is given first what it adds to
        table = self.tables.get(id(left))
        if table is not None and table[3]:
            self._attention(table[1], table[2], right)
        else:
            self.tables[id(result)] = result, left, right, False

    def _follow(self, tensors: Iterable[Tensor], result: Any, softmax: bool) -> None:
        """What is made of a table of scores is one, too; after a softmax, of weights."""
        table = next((self.tables[id(tensor)] for tensor in tensors if id(tensor) in self.tables), None)
        if table is not None:
            for made in _tensors((result,)):
                self.tables[id(made)] = made, table[1], table[2], table[3] or softmax

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        sources = (self._sources(operand) for operand in (q, k, v))
        self.probe.attentions.append(Attention(next(self.clock), *sources))

    def _sources(self, tensor: Tensor) -> Sources:
        """What a tensor is made of, through whatever but another projection."""
        # Not ones: the sum over a normalised tensor may have no gradient.
        weights = torch.empty(tensor.shape).uniform_(0.5, 1.5, generator=self.generator)
        return self._with_gradient(tensor, weights) if tensor.requires_grad else {}

    def _elementwise(self, tensor: Tensor, path: str) -> bool:
        """Whether the numbers of a tensor [..., n] are each made of the column in its own place, of a projection's output."""
        places = torch.arange(tensor.shape[-1])
        for parity in (0, 1):
            sources = self._with_gradient(tensor, (places % 2 == parity).expand(tensor.shape).to(tensor.dtype))
            if any(column % 2 != parity for column in sources.get(path, [])):
                return False
        return True

    def _with_gradient(self, tensor: Tensor, weights: Tensor) -> Sources:
        outputs = [call.made for call in self.probe.projections]
        gradients: Any = torch.autograd.grad(tensor, outputs, weights, retain_graph=True, allow_unused=True)
        found: Sources = {}
        for call, gradient in zip(self.probe.projections, gradients, strict=True):
            if gradient is not None and (columns := gradient.flatten(0, -2).any(0).nonzero().flatten().tolist()):
                found[call.path] = columns
        return found


def _factors(left: Any, right: Any, *_: Any) -> tuple[Tensor, Tensor] | None:
    """The two of a product, if they are one token's and of one shape: with a number, or along an axis, it is no gate's."""
    if _one_token(left) and _one_token(right) and left.shape == right.shape:
        return left.detach().clone(), right.detach().clone()
    return None


def _one_token(tensor: Any) -> bool:
    """Whether it is a vector of numbers, as the one token has in the residual stream and in an MLP."""
    return isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim > 1 and tensor.numel() == tensor.shape[-1]


def _zeros(func: Any, args: Any, kwargs: Any) -> Tensor:
    """In the place of a product with weights that are not there."""
    on_meta = (value.to("meta") if isinstance(value, Tensor) else value for value in args)
    options = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in kwargs.items()}
    return torch.zeros(func(*on_meta, **options).shape)


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among values, and in their lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
