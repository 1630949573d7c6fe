"""Which examples run together, planned once; and what to do when they do not fit.

With a fixed batch size a plan is the examples in their order. With "auto" a shard's examples are sorted by length and cut
so that examples x longest stays within a budget of tokens. A batch that runs out of memory is halved and run again; as
nothing of it was counted, no count is lost.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.errors import GatescopeError, first_line
from gatescope.core.stopping import undisturbed
from gatescope.data.example import Example
from gatescope.steps.batches import Plan
from gatescope.traces.encoding import Batch, collate, prompt

T = TypeVar("T")
P = TypeVar("P")
CPU_TOKENS = 4096  # a CPU is full long before its memory is
IMAGE_TOKENS = 1024  # of a picture whose processor does not say


def plan(model: TransformersModel, examples: Sequence[Example], batch_size: int | str, shard_size: int) -> Plan:
    """Cut examples into shards and batches.

    Args:
        model: from `load_model`.
        examples: what will be run.
        batch_size: examples a batch, or "auto".
        shard_size: examples a shard.

    Raises:
        GatescopeError: for a size below 1, or a word other than "auto".
    """
    if shard_size < 1 or (batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1)):
        raise GatescopeError(
            f"batch_size is {batch_size!r} and shard_size {shard_size!r}; both must be at least 1, or batch_size 'auto'."
        )
    shards = cut(range(len(examples)), shard_size)
    if isinstance(batch_size, int):
        return Plan([cut(shard, batch_size) for shard in shards])
    tokens, most = lengths(model, examples), budget(model)
    return Plan([bucketed(shard, [tokens[i] for i in shard], most) for shard in shards])


def cut(items: Sequence[int], size: int) -> list[list[int]]:
    """Pieces of a size, the last one shorter.

    >>> cut(range(5), 2)
    [[0, 1], [2, 3], [4]]
    """
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def bucketed(items: Sequence[int], tokens: Sequence[int], most: int) -> list[list[int]]:
    """Items sorted by length, the longest first, in batches of which items x longest is at most `most` (or one item).

    >>> bucketed([7, 8, 9, 10], [10, 100, 12, 11], 40)
    [[8], [9, 10, 7]]
    """
    batches: list[list[int]] = []
    longest = 0
    # The longest first: if memory runs out, it does so at once.
    for length, item in sorted(zip(tokens, items, strict=True), key=lambda pair: (-pair[0], pair[1])):
        if not batches or (len(batches[-1]) + 1) * longest > most:
            batches.append([])
            longest = length
        batches[-1].append(item)
    return batches


def lengths(model: TransformersModel, examples: Sequence[Example]) -> list[int]:
    """About how many tokens each prompt has: its text's exactly, its picture's as the processor says, undecoded."""
    ids = model.tokenizer([prompt(model, example) for example in examples], add_special_tokens=False).input_ids
    return [len(text) + _image_tokens(model, example) for text, example in zip(ids, examples, strict=True)]


def _image_tokens(model: TransformersModel, example: Example) -> int:
    if example.image is None:
        return 0
    try:
        width, height = example.picture_size()
        return int(model.processor._get_num_multimodal_tokens(image_sizes=[(height, width)]).num_image_tokens[0])
    except (AttributeError, TypeError, KeyError, ValueError):
        return IMAGE_TOKENS


def budget(model: TransformersModel) -> int:
    """How many tokens to put through the model at once."""
    device = model._module.device
    if device.type != "cuda":
        return CPU_TOKENS
    # The model is loaded by now: what is free is for activations.
    free, _ = torch.cuda.mem_get_info(device)
    config = model._module.config.get_text_config(decoder=True)
    # A layer's activations at their widest, in a few copies, and the cache of all layers.
    wide = 8 * max(getattr(config, "intermediate_size", 0) or 4 * config.hidden_size, config.hidden_size)
    cache = 2 * config.num_hidden_layers * config.hidden_size
    return max(CPU_TOKENS, int(0.4 * free / ((wide + cache) * model._module.dtype.itemsize)))


def split_on_oom(
    work: Callable[[Sequence[P]], T], items: Sequence[P], name: Callable[[P], str] = str, *, last: str | None = "Example"
) -> list[T]:
    """The work on the items; on as many parts of them as it takes where they do not fit into memory together.

    Args:
        work: what to do; nothing of it may last if it fails.
        items: examples, or their positions.
        name: what to call an item in a message.
        last: what an item is, for that message; None to pass the error on if one alone does not fit.

    Raises:
        GatescopeError: if one item alone does not fit.
    """
    try:
        return [work(items)]
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or (len(items) == 1 and last is None):
            raise
        if len(items) == 1:
            raise GatescopeError(
                f"{last} {name(items[0])!r} alone does not fit into memory ({first_line(error)}). Use a smaller "
                f"picture or dtype, or spread the model over devices with device_map='auto'."
            ) from error
    # After the except block: while the error is handled, its traceback keeps the activations alive.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # Halves, not single items: most often the batch is only a little too large.
    half = len(items) // 2
    return [*split_on_oom(work, items[:half], name, last=last), *split_on_oom(work, items[half:], name, last=last)]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: CUDA's own kind, Python's, or the CPU allocator's plain RuntimeError."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(text in str(error) for text in ("out of memory", "can't allocate memory"))


def prepared(model: TransformersModel, batches: Iterable[Sequence[Example]], workers: int = 0) -> Iterator[Batch]:
    """Encoded batches in order, on the model's device; prepared ahead by worker processes where there are some."""
    if workers < 1:
        for batch in batches:
            yield collate(model, batch).to(model._module.device)
        return
    from torch.utils.data import DataLoader

    def encode(batch: Sequence[Example]) -> tuple[dict[str, Tensor], Tensor]:
        encoded = collate(model, batch)
        return encoded.inputs, encoded.token_mask  # not the examples: their pictures need not travel back

    planned = list(batches)
    # Forked, so that a worker has model and processor as they are; it never touches a device.
    loader = DataLoader(
        planned,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=encode,
        num_workers=workers,
        multiprocessing_context="fork",
        pin_memory=model._module.device.type == "cuda",
        worker_init_fn=_in_worker,
    )
    with undisturbed():  # the workers are forked here
        arriving = iter(loader)
    for batch, (inputs, token_mask) in zip(planned, arriving, strict=True):
        yield Batch(tuple(batch), inputs, token_mask).to(model._module.device)


def _in_worker(_worker: int) -> None:
    # Workers share the cores with the model; each would otherwise start a thread a core.
    torch.set_num_threads(1)
    # Ctrl-C reaches them too. The process they work for ends them; if they ended first, it would report that instead.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
